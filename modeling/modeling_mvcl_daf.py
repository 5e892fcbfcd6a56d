"""MVCL-DAF++: multi-view contrastive learning with dynamic attention fusion, prototypes and a coarse sequence.

Huang, Han, Zhang, Li, He: "MVCL-DAF++: Enhancing Multimodal Intent Recognition via Prototype-Aware Contrastive Alignment and
Coarse-to-Fine Dynamic Attention Fusion". Equations are numbered as there; what it reuses "without modification" from MVCL-DAF
(alignment, bidirectional peephole LSTM, fusion) is written from the mathematics, see the config for every choice.

    words [CLS] w [MASK]*k [SEP] ── text encoder ── T ───────────────┬──────────────┬── DAF (fine) ── M_f ── views
    video ── embed ── align to text ── Transformer ── M_v ── Linear ─┤ coarse M_c   │
    audio ── embed ── align to text ── BiPeephole LSTM ── M_a ───────┘ Eq. (3)      └── DAF (coarse) ── M_cf ── [CLS] ── logits
    words [CLS] w label [SEP] ── the same text encoder ── anchor of the contrastive views (training only)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput, can_return_tuple

from .attention_fusion import DynamicAttentionFusion
from .configuration_mvcl_daf import MvclDafConfig
from .layers import Dropout, clear_padding, masked_mean
from .losses import info_nce, mean_over_present, prototype_loss, samples_per_class, task_loss, world_size
from .modality_inputs import (
    ModalityInput,
    as_bool_mask,
    check_batch_sizes,
    check_beside_text,
    check_right_padded,
    feature_input,
)
from .modeling_base import MMIntentPreTrainedModel
from .modeling_media_encoder import MediaEncoderModel
from .mvcl_daf_branches import AcousticBranch, CoarseEncoder, VisualBranch
from .outputs import MultimodalOutput
from .recorder import Recorder
from .text_backbone import build_text_backbone, run_text_backbone


@dataclass
class MvclDafModelOutput(ModelOutput):
    """
    Output of [`MvclDafModel`].

    Args:
        embeddings (`torch.FloatTensor` of shape `(batch_size, hidden_size)`): pooled fused representation.
        modality_weights (`torch.FloatTensor` of shape `(batch_size, num_sources)`):
            Weight of each source at the pooled position, columns `config.modality_weight_names`; sums to 1 where a source is.
        token_modality_weights (`torch.FloatTensor` of shape `(batch_size, text_length, num_sources)`):
            The same at every token, 0 on padding; not computed in training.
        view_embeddings (`dict[str, torch.FloatTensor]`, *optional*): (batch_size, hidden_size) per view, on request.
        view_presence (`dict[str, torch.BoolTensor]`, *optional*): (batch_size,) per view, on request.
        hidden_states, attentions (`tuple`, *optional*): of text encoder, then visual and coarse layers, on request.
    """

    embeddings: torch.FloatTensor | None = None
    modality_weights: torch.FloatTensor | None = None
    token_modality_weights: torch.FloatTensor | None = None
    view_embeddings: dict[str, torch.FloatTensor] | None = None
    view_presence: dict[str, torch.BoolTensor] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class MvclDafOutput(MultimodalOutput):
    """
    [`MultimodalOutput`] with the fields of [`MvclDafModelOutput`], and:

    Args:
        diagnostics (`dict[str, torch.FloatTensor]`, *optional*):
            `samples_per_class`, how many samples a prototype of this batch averages, shape `()`; where prototypes are made.
    """

    token_modality_weights: torch.FloatTensor | None = None
    view_embeddings: dict[str, torch.FloatTensor] | None = None
    view_presence: dict[str, torch.BoolTensor] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    diagnostics: dict[str, torch.FloatTensor] | None = None


def slot_positions(slots: Tensor, mask: Tensor) -> Tensor:
    """The label slots (B, L); all tokens of a row that has none."""
    return torch.where(slots.any(1, keepdim=True), slots, mask)


class MvclDafPreTrainedModel(MMIntentPreTrainedModel):
    """Base of the MVCL-DAF family."""

    config: MvclDafConfig
    config_class = MvclDafConfig
    _no_split_modules = ["TransformerLayer"]
    citation = """@article{huang2025mvcldafpp,
  title = {{MVCL-DAF++}: Enhancing Multimodal Intent Recognition via Prototype-Aware Contrastive Alignment and
           Coarse-to-Fine Dynamic Attention Fusion},
  author = {Huang, Haofeng and Han, Yifei and Zhang, Long and Li, Bin and He, Yangfan},
  year = {2025}
}"""
    _auto_map = {
        "AutoConfig": "configuration_mvcl_daf.MvclDafConfig",
        "AutoModel": "modeling_mvcl_daf.MvclDafModel",
        "AutoModelForSequenceClassification": "modeling_mvcl_daf.MvclDafForSequenceClassification",
    }

    def after_backbones(self) -> None:
        owner = self.base_model
        if owner.label_text_model is not None:
            owner.label_text_model = copy.deepcopy(owner.text_model)


class MvclDafModel(MvclDafPreTrainedModel):
    """Encoders and fusion of MVCL-DAF++, up to the pooled representation; no labels."""

    def __init__(self, config: MvclDafConfig) -> None:
        super().__init__(config)
        size = config.text_config.hidden_size
        self.text_model = build_text_backbone(config.text_config)
        self.label_text_model = build_text_backbone(config.text_config) if config.separate_label_encoder else None
        self.media_encoder = None if config.encoder_config is None else MediaEncoderModel(config.encoder_config)
        self.text_dropout = Dropout(config.text_dropout)
        widths: dict[str, int] = {}
        self.branches, self.projections = nn.ModuleDict(), nn.ModuleDict()
        if "video" in config.modalities:
            self.branches["video"], widths["video"] = VisualBranch(config), config.visual_size
        if "audio" in config.modalities:
            self.branches["audio"], widths["audio"] = AcousticBranch(config), config.acoustic_output_size
        for name, width in widths.items():
            self.projections[name] = nn.Linear(width, size)
        self.coarse_encoder = CoarseEncoder(config) if "coarse" in config.fusion_sources else None
        fusion_options = {
            "hidden_size": size,
            "depth": config.daf_max_depth,
            "gate": config.daf_depth_gate,
            "attention_dropout": config.daf_attention_dropout,
            "output_dropout": config.daf_output_dropout,
        }
        wide = {**widths, "coarse": size} if self.coarse_encoder is not None else widths
        self.fusion = DynamicAttentionFusion(wide, **fusion_options)  # gives M_cf, classifies
        separate = self.coarse_encoder is not None and not config.daf_share_weights
        self.fine_fusion = DynamicAttentionFusion(widths, **fusion_options) if separate else None  # gives M_f, a view
        self.pooler = nn.Linear(size, size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    # ---- inputs -------------------------------------------------------------------------------------------------

    def empty_text(self, batch_size: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """`[CLS] [MASK]*k [SEP]` and its mask, padded to `length`: what stands for a missing text."""
        slots = self.config.label_slots
        row = torch.full((length,), self.config.pad_token_id or 0, device=device)
        row[0], row[slots + 1] = self.config.cls_token_id, self.config.sep_token_id
        row[1 : slots + 1] = self.config.mask_token_id
        mask = torch.arange(length, device=device) < slots + 2
        return row.expand(batch_size, -1), mask.expand(batch_size, -1)

    def text_input(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        label_slot_mask: Tensor | None,
        batch_size: int,
        device: torch.device,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids, mask and slot mask (B, L), with the empty utterance where a sample has no text; presence (B,)."""
        least = self.config.label_slots + 2
        if input_ids is None:
            ids, mask = self.empty_text(batch_size, least, device)
            return ids, mask, ids == self.config.mask_token_id, torch.zeros(batch_size, dtype=torch.bool, device=device)
        mask = as_bool_mask("text", attention_mask, tuple(input_ids.shape), input_ids.device)
        check_right_padded("text", mask)
        slots = input_ids == self.config.mask_token_id if label_slot_mask is None else label_slot_mask.to(torch.bool)
        present = mask.any(1)
        if input_ids.shape[1] < least:  # room for the empty utterance beside shorter texts
            extra = least - input_ids.shape[1]
            input_ids = nn.functional.pad(input_ids, (0, extra), value=self.config.pad_token_id or 0)
            mask, slots = (nn.functional.pad(x, (0, extra), value=False) for x in (mask, slots))
        if input_ids.shape[1] > self.config.max_text_length:
            raise ValueError(
                f"`input_ids` has {input_ids.shape[1]} positions but `config.max_text_length` is "
                f"{self.config.max_text_length}: truncate in the processor or train with a larger one."
            )
        empty_ids, empty_mask = self.empty_text(input_ids.shape[0], input_ids.shape[1], input_ids.device)
        absent = ~present[:, None]
        ids = torch.where(absent, empty_ids, input_ids.masked_fill(~mask, self.config.pad_token_id or 0))
        slots = torch.where(absent, (empty_ids == self.config.mask_token_id) & empty_mask, slots & mask)
        return ids, torch.where(absent, empty_mask, mask), slots, present

    def media_inputs(
        self, features: dict[str, tuple[Tensor | None, Tensor | None]], raw: tuple[Tensor | None, ...]
    ) -> dict[str, ModalityInput | None]:
        """Checked audio and video; raw media goes through the owned encoder."""
        encoded = self.encode_media(*raw)
        for name, medium in (("audio", "input_values"), ("video", "pixel_values")):
            if name in encoded and features[name][0] is not None:
                raise ValueError(
                    f"`{name}_features` and `{medium}` are both given: pass one of them, they say the same."
                )
        found = {
            name: feature_input(name, *encoded.get(name, features[name]), width, self.dtype)
            for name, width in self.config.feature_sizes.items()
        }
        for name, item in found.items():
            if item is not None:
                check_right_padded(name, item.mask)
        return found

    # ---- text ---------------------------------------------------------------------------------------------------

    def encode_text(
        self, ids: Tensor, labelled_ids: Tensor | None, mask: Tensor, token_type_ids: Tensor | None, recorder: Recorder
    ) -> tuple[Tensor, Tensor | None]:
        """T and, when the labelled view is given, T_l, both (B, L, d)."""
        wanted = {
            "output_hidden_states": recorder.hidden_states is not None,
            "output_attentions": recorder.attentions is not None,
        }
        shared = labelled_ids is not None and self.label_text_model is None
        both_ids, both_mask, both_types = ids, mask, token_type_ids
        if shared:  # one encoder: both views in one pass
            both_ids, both_mask = torch.cat([ids, labelled_ids]), torch.cat([mask, mask])
            both_types = None if token_type_ids is None else torch.cat([token_type_ids] * 2)
        out = run_text_backbone(self.text_model, both_ids, both_mask, both_types, **wanted)
        recorder.add_all(out, ids.shape[0])
        states = clear_padding(out.last_hidden_state, both_mask)
        labelled = None
        if shared:
            states, labelled = states.chunk(2)
        elif labelled_ids is not None:
            out = run_text_backbone(self.label_text_model, labelled_ids, mask, token_type_ids)
            labelled = clear_padding(out.last_hidden_state, mask)
        return self.text_dropout(states), labelled

    # ---- the whole ----------------------------------------------------------------------------------------------

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        label_slot_mask: Tensor | None = None,
        labelled_input_ids: torch.LongTensor | None = None,
        audio_features: torch.FloatTensor | None = None,
        audio_attention_mask: Tensor | None = None,
        video_features: torch.FloatTensor | None = None,
        video_attention_mask: Tensor | None = None,
        input_values: torch.FloatTensor | None = None,
        input_values_mask: Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_mask: Tensor | None = None,
        output_views: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> MvclDafModelOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*):
                Masked view `[CLS] words [MASK]*k [SEP]`, right-padded. At least one modality must be given.
            attention_mask (`torch.Tensor` of shape `(batch_size, text_length)`, *optional*):
                1 for tokens. A row of zeros marks a sample without text.
            token_type_ids (`torch.LongTensor`, *optional*): passed on if the text backbone takes it.
            label_slot_mask (`torch.Tensor` of shape `(batch_size, text_length)`, *optional*):
                1 on the label slots; where `input_ids` is the mask token when not given.
            labelled_input_ids (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*):
                The same positions with the label in the slots. Never influences `embeddings`.
            audio_features (`torch.FloatTensor` of shape `(batch_size, audio_length, config.audio_feature_size)`, *optional*):
                `None` when no sample of the batch has audio.
            audio_attention_mask (`torch.Tensor` of shape `(batch_size, audio_length)`, *optional*):
                1 on valid frames, a right-padded prefix. A row of zeros marks a sample without audio.
            video_features, video_attention_mask: the same for video.
            input_values, input_values_mask (`torch.FloatTensor` of shape `(batch_size, samples)`, *optional*):
                Raw 16 kHz sound, when the model owns a media encoder.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, frames, 3, height, width)`, *optional*):
                Raw pictures with `pixel_values_mask` (batch_size, frames).
            output_views (`bool`): also return the views that the losses compare.
            output_attentions, output_hidden_states (`bool`, *optional*): attention maps need the eager implementation.

        Returns:
            [`MvclDafModelOutput`].
        """
        features = {"audio": (audio_features, audio_attention_mask), "video": (video_features, video_attention_mask)}
        media = self.media_inputs(features, (input_values, input_values_mask, pixel_values, pixel_values_mask))
        text = None if input_ids is None else ModalityInput(input_ids, input_ids != -1)
        batch_size = check_batch_sizes(
            {"input_ids": text, **{f"{name}_features": item for name, item in media.items()}}
        )
        if input_ids is None and attention_mask is not None:
            raise ValueError("`attention_mask` is given without `input_ids`: pass both or neither.")
        beside = {
            "token_type_ids": token_type_ids,
            "label_slot_mask": label_slot_mask,
            "labelled_input_ids": labelled_input_ids,
        }
        check_beside_text(
            beside, (batch_size, self.config.label_slots + 2) if input_ids is None else tuple(input_ids.shape)
        )
        given = {name: item for name, item in media.items() if item is not None}
        recorder = Recorder(
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            self.config.output_attentions if output_attentions is None else output_attentions,
        )
        ids, mask, slots, has_text = self.text_input(
            input_ids, attention_mask, label_slot_mask, batch_size, self.pooler.weight.device
        )
        if labelled_input_ids is not None and labelled_input_ids.shape[1] < ids.shape[1]:
            extra = ids.shape[1] - labelled_input_ids.shape[1]
            labelled_input_ids = nn.functional.pad(labelled_input_ids, (0, extra), value=self.config.pad_token_id or 0)
        if token_type_ids is not None and token_type_ids.shape[1] < ids.shape[1]:
            token_type_ids = nn.functional.pad(token_type_ids, (0, ids.shape[1] - token_type_ids.shape[1]))
        text_states, labelled = self.encode_text(ids, labelled_input_ids, mask, token_type_ids, recorder)

        sources: dict[str, tuple[Tensor, Tensor]] = {}
        if "video" in given:
            sources["video"] = (self.branches["video"](given["video"], mask, recorder), given["video"].present)
        if "audio" in given:
            sources["audio"] = (self.branches["audio"](given["audio"], mask), given["audio"].present)
        projected = {name: (self.projections[name](states), there) for name, (states, there) in sources.items()}
        wide = dict(sources)
        if self.coarse_encoder is not None and projected:
            wide["coarse"] = self.coarse_encoder(text_states, mask, projected, recorder)  # Eq. (3)
        # Of M_cf the head may read the first position only: training then computes no other, unless it is also M_f.
        first_only = self.training and self.coarse_encoder is not None and self.config.pooling == "first"
        fused, weights = self.fusion(text_states, mask, wide, first_only)  # M_cf
        pooled, pooled_weights = fused[:, 0], weights[:, 0]  # "decoder with BERT pooling", section 2.1
        if self.config.pooling != "first":
            read = mask & ~slots if self.config.pooling == "mean" else slot_positions(slots, mask)
            pooled, pooled_weights = masked_mean(fused, read), masked_mean(weights, read)
        embeddings = torch.tanh(self.pooler(pooled))

        views = presence = None
        if output_views:
            fine = fused  # without a coarse sequence there is one fusion, M_cf = M_f
            if self.coarse_encoder is not None:
                fine, _ = (self.fine_fusion or self.fusion)(text_states, mask, sources)
            views, presence = self.views(text_states, projected, fine, labelled, slots, mask, has_text)
        return MvclDafModelOutput(
            embeddings=embeddings,
            modality_weights=pooled_weights,
            token_modality_weights=None if first_only else weights,
            view_embeddings=views,
            view_presence=presence,
            **recorder.fields,
        )

    def views(
        self,
        text: Tensor,
        projected: dict[str, tuple[Tensor, Tensor]],
        fine: Tensor,
        labelled: Tensor | None,
        slots: Tensor,
        mask: Tensor,
        has_text: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Mean over the label slots of every stream: h_tm, h_v, h_a, h_f, h_tl, and which samples have them."""
        read = slot_positions(slots, mask)
        views, presence = {"text": masked_mean(text, read)}, {"text": has_text}
        for name, (states, there) in projected.items():
            views[name], presence[name] = masked_mean(states, read), there
        views["fused"], presence["fused"] = masked_mean(fine, read), torch.ones_like(has_text)
        if labelled is not None:
            views["labelled"], presence["labelled"] = masked_mean(labelled, read), torch.ones_like(has_text)
        return views, presence


class MvclDafForSequenceClassification(MvclDafPreTrainedModel):
    """MVCL-DAF++ with its classifier and losses, Eq. (1)–(11); regression with `num_labels=1`."""

    def __init__(self, config: MvclDafConfig) -> None:
        super().__init__(config)
        self.model = MvclDafModel(config)
        self.dropout = Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.text_config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        label_slot_mask: Tensor | None = None,
        labelled_input_ids: torch.LongTensor | None = None,
        audio_features: torch.FloatTensor | None = None,
        audio_attention_mask: Tensor | None = None,
        video_features: torch.FloatTensor | None = None,
        video_attention_mask: Tensor | None = None,
        input_values: torch.FloatTensor | None = None,
        input_values_mask: Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_mask: Tensor | None = None,
        labels: Tensor | None = None,
        class_weight: Tensor | None = None,
        output_views: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> MvclDafOutput:
        r"""
        Inputs are those of [`MvclDafModel.forward`], and:

        Args:
            labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Class indices, −100 is ignored; floats in regression; (batch_size, num_labels) with several labels.
            class_weight (`torch.FloatTensor` of shape `(num_labels,)`, *optional*): weights of the cross-entropy.

        Returns:
            [`MvclDafOutput`]. In training mode `loss` is Eq. (11); in eval mode only the classification term is computed,
            so that neither the labelled view nor the second fusion ever runs at inference.

        Raises:
            ValueError: training with labels and a loss that reads the labelled view, but without `labelled_input_ids`.
        """
        contrastive, prototypes, labelled = self._wanted_terms(labels, labelled_input_ids)
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            label_slot_mask=label_slot_mask,
            labelled_input_ids=labelled_input_ids if labelled or output_views else None,
            audio_features=audio_features,
            audio_attention_mask=audio_attention_mask,
            video_features=video_features,
            video_attention_mask=video_attention_mask,
            input_values=input_values,
            input_values_mask=input_values_mask,
            pixel_values=pixel_values,
            pixel_values_mask=pixel_values_mask,
            output_views=output_views or contrastive or prototypes,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(out.embeddings))  # Eq. (10)
        loss, terms, diagnostics = None, None, None
        if labels is not None:
            config = self.config
            terms = {"cls": task_loss(logits, labels, config.problem_type, config.regression_loss, class_weight)}
            loss = config.cls_loss_weight * terms["cls"]
            if contrastive:
                found, total = self.contrastive_terms(out, labels)
                terms.update(found)
                loss = loss + config.contrastive_loss_weight * total
            prototype = self.prototype_term(out, labels) if prototypes else None
            if prototype is not None:
                count = samples_per_class(*self._prototype_classes(labels), config.gather_across_processes)
                terms["prototype"], diagnostics = prototype, {"samples_per_class": count}
                loss = loss + config.prototype_loss_weight * prototype  # Eq. (11)
            terms = {name: term.detach() for name, term in terms.items()}
        return MvclDafOutput(
            loss=loss,
            logits=logits,
            embeddings=out.embeddings,
            loss_terms=terms,
            modality_weights=out.modality_weights,
            token_modality_weights=out.token_modality_weights,
            view_embeddings=out.view_embeddings if output_views else None,
            view_presence=out.view_presence if output_views else None,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            diagnostics=diagnostics,
        )

    def _wanted_terms(self, labels: Tensor | None, labelled_input_ids: Tensor | None) -> tuple[bool, bool, bool]:
        """Whether contrastive and prototype terms are computed for this batch, and whether they read the labelled view."""
        config = self.config
        if labels is None or not self.training:
            return False, False, False
        contrastive = config.contrastive_loss_weight > 0 and len(config.contrastive_views) > 0
        prototypes = config.prototype_loss_weight > 0 and len(config.prototype_views) > 0
        labelled = contrastive or (prototypes and "labelled" in config.prototype_views)
        if labelled and labelled_input_ids is None:
            field = "contrastive_loss_weight" if contrastive else "prototype_views"
            raise ValueError(
                f"`{field}` is {getattr(config, field)} but `labelled_input_ids` is missing: make batches with "
                "`processor(..., labels=..., return_labelled_view=True)`, or switch this loss off."
            )
        return contrastive, prototypes, labelled

    def _classes(self, labels: Tensor) -> tuple[Tensor, Tensor, int]:
        """Class of every sample, whether it counts, and the number of classes."""
        if self.config.problem_type == "regression":
            bins = torch.tensor(self.config.regression_bins, device=labels.device, dtype=labels.dtype)
            return torch.bucketize(labels, bins), torch.ones_like(labels, dtype=torch.bool), len(bins) + 1
        return labels.clamp(min=0), labels != -100, self.config.num_labels

    def _prototype_classes(self, labels: Tensor) -> tuple[Tensor, Tensor, int]:
        """As [`_classes`]; samples of `prototype_ignore_labels` do not count."""
        classes, counts, num_classes = self._classes(labels)
        for ignored in self.config.prototype_ignore_labels:
            counts = counts & (classes != ignored)
        return classes, counts, num_classes

    def contrastive_terms(self, out: MvclDafModelOutput, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Eq. (4)–(8): the label-filled text as anchor against every view; and their sum, Eq. (9), or mean."""
        classes, counts, _ = self._classes(labels)
        exclude = classes if self.config.contrastive_exclude_same_class else None
        anchor, gather = out.view_embeddings["labelled"], self.config.gather_across_processes
        terms, valid = {}, []
        for name in self._names_of(self.config.contrastive_views, out):
            view, there = self._view(out, name)
            valid.append(there & counts)
            terms[f"contrastive_{name}"] = info_nce(anchor, view, valid[-1], self.config.temperature, exclude, gather)
        if not terms:
            return terms, anchor.new_zeros(())
        if self.config.contrastive_reduction == "mean":
            return terms, mean_over_present(list(terms.values()), valid, gather)
        return terms, torch.stack(list(terms.values())).sum()

    def _names_of(self, wanted: Sequence[str], out: MvclDafModelOutput) -> list[str]:
        """
        Views that take part in a loss.

        With several processes these are all declared ones, whatever this process's batch lacks: every process has to take
        part in the same collective operations.
        """
        declared = {"text", "fused", "labelled", *self.config.modalities}
        everywhere = self.config.gather_across_processes and world_size() > 1
        return [name for name in wanted if name in out.view_embeddings or (everywhere and name in declared)]

    @staticmethod
    def _view(out: MvclDafModelOutput, name: str) -> tuple[Tensor, Tensor]:
        """A view (B, d) and its presence (B,); absent rows where this batch has none of it."""
        if name in out.view_embeddings:
            return out.view_embeddings[name], out.view_presence[name]
        fused = out.view_embeddings["fused"]
        return torch.zeros_like(fused), torch.zeros(len(fused), dtype=torch.bool, device=fused.device)

    def prototype_term(self, out: MvclDafModelOutput, labels: Tensor) -> Tensor | None:
        """Eq. (1)–(2): every view of every sample against the class prototypes of the batch; `None` without any view."""
        config = self.config
        classes, counts, num_classes = self._prototype_classes(labels)
        names = self._names_of(config.prototype_views, out)
        if not names:
            return None
        groups = [names] if config.prototype_scope == "shared" else [[name] for name in names]
        losses, valid = [], []
        for group in groups:
            views, presence = zip(*(self._view(out, name) for name in group), strict=True)
            valid.append(torch.cat([there & counts for there in presence]))
            losses.append(
                prototype_loss(
                    torch.cat(views),
                    classes.repeat(len(group)),
                    valid[-1],
                    num_classes,
                    config.prototype_temperature or config.temperature,
                    config.prototype_normalize_instances,
                    config.prototype_stop_gradient,
                    config.gather_across_processes,
                )
            )
        return mean_over_present(losses, valid, config.gather_across_processes)
