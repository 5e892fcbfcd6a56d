"""PLUM-Net: prototype-induced label structuring for disentangled multimodal representations.

Wang, Zhao, Wei, Zha, Ye, Zhu, Liu, Zhang: "PLUM-Net: Prototype-Induced Label Structuring for Disentangled Multimodal
Representation Network", AAAI 2026. Equations are numbered as there; no public code is known. See the config for every choice.

    per modality m:
    words  ── text encoder ── Linear ─┐        ┌─ W_com ── G_m ── common branch ── C_m ─┐
    frames ── Linear ── Transformer ──┴─ F_m ──┤     └ h_com: MSA across modalities     ├─ PRM ── H_m ─┐
                                      └ h_m ───┤                                        │    ↑         ├─ head ── logits
                    MSA within m, PSL: distance│to class prototypes ── soft labels ─────┼────┘         │
                                               └───────────────── private branch ── P_m ┘   H of others┘
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import can_return_tuple, logging

from .configuration_plum_net import PlumNetConfig
from .layers import clear_padding, masked_mean
from .modality_inputs import ModalityInput, as_bool_mask, check_batch_sizes, feature_input
from .modeling_base import MMIntentPreTrainedModel
from .modeling_media_encoder import MediaEncoderModel
from .plum_net_branches import BranchStates, FeatureBifurcator, LearnedLabels, NullToken, PrivateRefinement
from .plum_net_losses import stage_loss
from .plum_net_outputs import EncodedModalities, PlumNetModelOutput, PlumNetOutput
from .prototype_labels import ClassSums, FeatureBank, PrototypeLabels, structure_classes
from .recorder import Recorder
from .sequence_encoder import SequenceEncoder
from .text_backbone import build_text_backbone, run_text_backbone


def _input_name(modality: str) -> str:
    return "input_ids" if modality == "text" else f"{modality}_features"


class PlumNetPreTrainedModel(MMIntentPreTrainedModel):
    """Base of the PLUM-Net family."""

    config: PlumNetConfig
    config_class = PlumNetConfig
    _no_split_modules = ["TransformerLayer"]
    _auto_map = {
        "AutoConfig": "configuration_plum_net.PlumNetConfig",
        "AutoModel": "modeling_plum_net.PlumNetModel",
        "AutoModelForSequenceClassification": "modeling_plum_net.PlumNetForSequenceClassification",
    }
    stage_metrics = {"alignment": "loss"}  # the first stage has no prediction of its own to score

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PrototypeLabels):
            init.zeros_(module.prototypes)
            for counter in (module.prototype_counts, module.class_counts, module.epochs_started):
                init.zeros_(counter)
            init.copy_(module.bin_values, torch.tensor(module.default_values))
        elif isinstance(module, (NullToken, LearnedLabels)):
            init.normal_(module.weight, std=1.0)  # the scale of the layer-normed vectors it stands beside

    def update_prototypes(self, dataloader: Iterable[Mapping[str, Tensor]], progress: bool = False) -> None:
        """
        Set the prototypes to the class means of h_m over all training samples, Eq. (4); encoders only, in eval mode.

        Args:
            dataloader: batches of the training split with `labels`; with several processes, each its own share.
            progress: show a bar.
        """
        base: Any = self.base_model
        training, device = self.training, base.labeller.prototypes.device
        found = ClassSums(*base.labeller.prototypes.shape, device)
        seen: list[tuple[Tensor, ...]] = []
        self.eval()
        for batch in logging.tqdm(dataloader, desc="prototypes", disable=not progress, leave=False):
            seen.append(base.collect(found, {name: value.to(device) for name, value in batch.items()}))
        self.train(training)
        base.labeller.set_from(found.reduce())
        if self.config.prototype_schedule == "bank":
            base.bank = base.new_bank()
            base.bank.fill(seen)

    def training_state(self) -> dict[str, Tensor]:
        """The bank, if there is one."""
        bank = self.base_model.bank
        return {} if bank is None else bank.state()

    def set_training_state(self, state: Mapping[str, Tensor]) -> None:
        # A stage begins with the best weights of the one before: its bank, of the last ones, is not theirs.
        base: Any = self.base_model
        base.bank = base.new_bank().load(state) if state else None

    def on_stage_epoch_start(self, dataloader: Iterable[Mapping[str, Tensor]]) -> None:
        """Refresh the prototypes where the schedule says so, and count the epoch (for the warm-up of the labels)."""
        base: Any = self.base_model
        config, labeller = self.config, base.labeller
        labeller.epochs_started += 1
        if not (config.use_psl_tfb or config.class_balanced_ce):
            return
        moving = config.training_stage != "refinement" or config.refresh_in_stage2
        first = not bool(labeller.class_counts.any())  # a run without a first stage needs them once as well
        if config.prototype_schedule == "epoch" and (moving or first):
            self.update_prototypes(dataloader, progress=True)
        elif config.prototype_schedule == "bank" and (first or (moving and base.bank is None)):
            self.update_prototypes(dataloader, progress=True)  # also fills the bank


class PlumNetModel(PlumNetPreTrainedModel):
    """Encoders, label structuring, branches and refinement of PLUM-Net, up to the fused representation; no losses."""

    def __init__(self, config: PlumNetConfig) -> None:
        super().__init__(config)
        size, names = config.hidden_size, list(config.modalities)
        self.text_model = build_text_backbone(config.text_config) if "text" in names else None
        self.media_encoder = None if config.encoder_config is None else MediaEncoderModel(config.encoder_config)
        self.encoders, self.feature_norms = nn.ModuleDict(), nn.ModuleDict()
        # Without alignment, branches leave h_m to the labels alone, which have no gradient: nothing would train its scale.
        trained = config.use_msa or not config.use_psl_tfb
        for name in names:
            self.encoders[name] = self._encoder(name)
            self.feature_norms[name] = nn.LayerNorm(size, elementwise_affine=trained)
        # W_com, one for all modalities: the "unified projection layer".
        joins = config.use_msa or config.use_psl_tfb
        self.common_projection = nn.Linear(size, size, bias=False) if joins else None
        self.common_norms = nn.ModuleDict({name: nn.LayerNorm(size) for name in names} if config.use_msa else {})
        self.labeller = PrototypeLabels(
            len(names),
            config.num_structure_classes,
            size,
            config.label_temperature,
            config.prototype_shrinkage,
            config.default_bin_values,
        )
        self.bank: FeatureBank | None = None
        bifurcated = names if config.use_psl_tfb else []
        self.branches = nn.ModuleDict({name: FeatureBifurcator(config) for name in bifurcated})
        refined = names if config.use_prm else []
        self.refinements = nn.ModuleDict({name: PrivateRefinement(config) for name in refined})
        learned = refined if config.label_token_source == "learned" else []
        self.label_vectors = nn.ModuleDict({n: LearnedLabels(config.num_structure_classes, size) for n in learned})
        merged = bifurcated if not config.use_prm else []
        self.branch_merges = nn.ModuleDict({name: nn.Linear(2 * size, size) for name in merged})
        absent = names if config.missing_strategy == "null_token" else []
        self.null_tokens = nn.ModuleDict({name: NullToken(size) for name in absent})
        width = 2 * size if config.use_msa and not config.use_psl_tfb else size
        self.fusion = nn.Linear(len(names) * width, size)
        self.post_init()

    def _encoder(self, name: str) -> nn.Module:
        config = self.config
        if name == "text":
            return nn.Linear(config.text_config.hidden_size, config.hidden_size)
        sizes = (config.hidden_size, config.av_encoder_layers, config.encoder_heads, config.encoder_dropout)
        return SequenceEncoder(config, config.feature_sizes[name], *sizes)

    def get_input_embeddings(self) -> nn.Module | None:
        return None if self.text_model is None else self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        if self.text_model is None:
            raise ValueError(f"`modalities` is {list(self.config.modalities)}: without text there are no embeddings.")
        self.text_model.set_input_embeddings(value)

    # ---- inputs and encoders ------------------------------------------------------------------------------------

    def given_modalities(self, inputs: Mapping[str, Tensor | None]) -> dict[str, ModalityInput]:
        """
        Checked inputs of the modalities that the batch has.

        Raises:
            ValueError: nothing is given, shapes disagree, or an input belongs to a modality that the model lacks.
        """
        config = self.config
        raw = ("input_values", "input_values_mask", "pixel_values", "pixel_values_mask")
        encoded = self.encode_media(*(inputs.get(name) for name in raw))
        found: dict[str, ModalityInput | None] = {}
        for name in ("text", "audio", "video"):
            key = _input_name(name)
            values = inputs.get(key)
            if name not in config.modalities:
                if values is not None:
                    raise ValueError(f"`{key}` is given but `config.modalities` is {list(config.modalities)}.")
            elif name != "text":
                pair = encoded.get(name, (values, inputs.get(f"{name}_attention_mask")))
                found[name] = feature_input(name, *pair, config.feature_sizes[name], self.dtype)
            else:
                found[name] = None
                if values is not None:
                    mask = as_bool_mask("text", inputs.get("attention_mask"), tuple(values.shape), values.device)
                    found[name] = ModalityInput(values, mask)
        check_batch_sizes({_input_name(name): item for name, item in found.items()})
        return {name: item for name, item in found.items() if item is not None}

    def encode_text(self, text: ModalityInput, token_type_ids: Tensor | None, recorder: Recorder) -> Tensor:
        """F_text (B, L, d); rows without text run on one padding token and are switched off later."""
        seen = text.mask.clone()
        seen[:, 0] |= ~text.present
        ids = text.states.masked_fill(~text.mask, getattr(self.config.text_config, "pad_token_id", None) or 0)
        out = run_text_backbone(
            self.text_model,
            ids,
            seen,
            token_type_ids,
            output_hidden_states=recorder.hidden_states is not None,
            output_attentions=recorder.attentions is not None,
        )
        recorder.add_all(out, ids.shape[0])
        return self.encoders["text"](clear_padding(out.last_hidden_state, text.mask))

    def encode(self, inputs: Mapping[str, Tensor | None], recorder: Recorder) -> EncodedModalities:
        """All encoders and the pooled vectors; what the prototypes and the alignment are made of."""
        config = self.config
        given = self.given_modalities(inputs)
        some = next(iter(given.values()))
        zeros = torch.zeros(some.mask.shape[0], config.hidden_size, dtype=self.dtype, device=some.mask.device)
        nobody = torch.zeros_like(some.present)
        found = EncodedModalities({}, {}, {}, zeros, None, nobody)
        raw, common, presence = [], [], []
        for name in config.modalities:
            if name not in given:
                raw.append(zeros)
                common.append(zeros)
                presence.append(nobody)
                continue
            item = given[name]
            if name == "text":
                states = self.encode_text(item, inputs.get("token_type_ids"), recorder)
            else:
                states = self.encoders[name](item.states, item.mask, recorder)
            states = clear_padding(states, item.mask)
            found.features[name], found.masks[name] = states, item.mask
            there = item.present[:, None]
            raw.append(self.feature_norms[name](masked_mean(states, item.mask)).masked_fill(~there, 0.0))
            presence.append(item.present)
            if self.common_projection is not None:
                found.projected[name] = self.common_projection(states)
            if config.use_msa:
                pooled = self.common_norms[name](masked_mean(found.projected[name], item.mask))
                common.append(pooled.masked_fill(~there, 0.0))
        found.raw, found.presence = torch.stack(raw, 1), torch.stack(presence, 1)
        found.common = torch.stack(common, 1) if config.use_msa else None
        return found

    # ---- prototypes ---------------------------------------------------------------------------------------------

    def true_classes(self, labels: Tensor) -> Tensor:
        """Structure class (B,) long of every label; −1 where it is to be ignored."""
        if self.config.problem_type == "regression":
            return structure_classes(labels, self.config.structure_bins)
        return labels.masked_fill(labels == -100, -1)

    def assigned_classes(self, raw: Tensor, classes: Tensor) -> Tensor:
        """(B, M), whose prototype each row enters."""
        assigned = classes[:, None].expand(-1, raw.shape[1])
        if self.config.prototype_assign == "gt":
            return assigned
        return torch.where(self.labeller.ready, self.labeller(raw)[1], assigned)

    @torch.no_grad()
    def collect(self, found: ClassSums, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Add a batch with labels to the class sums; returns what a bank stores of it, nothing without a bank."""
        if inputs.get("labels") is None:
            raise ValueError("a batch without `labels` has no part in prototypes: pass labelled training rows.")
        encoded = self.encode(inputs, Recorder(False, False))
        self._add(found, encoded, inputs["labels"])
        if self.config.prototype_schedule != "bank":
            return ()
        return self._bank_rows(encoded, inputs["labels"], inputs.get("sample_index"))

    def _add(self, found: ClassSums, encoded: EncodedModalities, labels: Tensor) -> None:
        classes = self.true_classes(labels)
        known = encoded.presence & (classes >= 0)[:, None]
        found.add(encoded.raw, self.assigned_classes(encoded.raw, classes), known, classes, labels.float())

    def _bank_rows(self, encoded: EncodedModalities, labels: Tensor, index: Tensor | None) -> tuple[Tensor, ...]:
        if index is None:
            raise ValueError("`prototype_schedule` is bank but `sample_index` is missing: number the training samples.")
        return index, encoded.raw.detach(), encoded.presence, self.true_classes(labels), labels

    def new_bank(self) -> FeatureBank:
        return FeatureBank(len(self.config.modalities), self.config.hidden_size, self.fusion.weight.device)

    @torch.no_grad()
    def follow(self, encoded: EncodedModalities, labels: Tensor, index: Tensor | None) -> None:
        """Move the prototypes with a training batch; schedules `bank` and `batch`."""
        found = ClassSums(*self.labeller.prototypes.shape, encoded.raw.device)
        if self.config.prototype_schedule == "batch":
            self._add(found, encoded, labels)
            self.labeller.set_from(found.reduce())
            return
        if self.bank is None:
            self.bank = self.new_bank()
        bank = self.bank
        bank.store(*self._bank_rows(encoded, labels, index))
        kept = bank.classes >= 0
        if kept.sum() < self.labeller.class_counts.sum():
            return  # begun anew after an interruption: the stored prototypes know more samples
        assigned = self.assigned_classes(bank.rows, bank.classes)
        found.add(bank.rows, assigned, bank.present & kept[:, None], bank.classes, bank.values)
        self.labeller.set_from(found)  # the banks of all processes are equal: nothing to add up

    # ---- the whole ----------------------------------------------------------------------------------------------

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        audio_features: torch.FloatTensor | None = None,
        audio_attention_mask: Tensor | None = None,
        video_features: torch.FloatTensor | None = None,
        video_attention_mask: Tensor | None = None,
        input_values: torch.FloatTensor | None = None,
        input_values_mask: Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_mask: Tensor | None = None,
        labels: Tensor | None = None,
        sample_index: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> PlumNetModelOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*):
                Right-padded tokens. At least one modality must be given.
            attention_mask (`torch.Tensor` of shape `(batch_size, text_length)`, *optional*):
                1 for tokens. A row of zeros marks a sample without text.
            token_type_ids (`torch.LongTensor`, *optional*): passed on if the text backbone takes it.
            audio_features (`torch.FloatTensor` of shape `(batch_size, audio_length, config.audio_feature_size)`, *optional*):
                `None` when no sample of the batch has audio.
            audio_attention_mask (`torch.Tensor` of shape `(batch_size, audio_length)`, *optional*):
                1 on valid frames. A row of zeros marks a sample without audio.
            video_features, video_attention_mask: the same for video.
            input_values, input_values_mask (`torch.FloatTensor` of shape `(batch_size, samples)`, *optional*):
                Raw 16 kHz sound, when the model owns a media encoder.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, frames, 3, height, width)`, *optional*):
                Raw pictures with `pixel_values_mask` (batch_size, frames).
            labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Read in training by the prototype schedules `bank` and `batch` only; never influences eval mode.
            sample_index (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Position of each sample in the training split, for the schedule `bank`.
            output_attentions, output_hidden_states (`bool`, *optional*): attention maps need the eager implementation.

        Returns:
            [`PlumNetModelOutput`].
        """
        recorder = Recorder(
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            self.config.output_attentions if output_attentions is None else output_attentions,
        )
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "audio_features": audio_features,
            "audio_attention_mask": audio_attention_mask,
            "video_features": video_features,
            "video_attention_mask": video_attention_mask,
            "input_values": input_values,
            "input_values_mask": input_values_mask,
            "pixel_values": pixel_values,
            "pixel_values_mask": pixel_values_mask,
        }
        encoded = self.encode(inputs, recorder)
        if labels is not None and self._moves_prototypes():
            self.follow(encoded, labels, sample_index)
        pooled = self._with_null(encoded.raw, encoded.presence)
        soft, hard = self.labeller(pooled)
        branches = self._branches(encoded, recorder)
        rows = self._representations(encoded, pooled, soft, branches, recorder)
        embeddings = nn.functional.gelu(self.fusion(torch.cat(rows, -1)))
        there = encoded.presence[..., None]
        stacked = {
            f"{kind}_embeddings": torch.stack(
                [getattr(branches[name], f"pooled_{kind}") for name in self.config.modalities], 1
            ).masked_fill(~there, 0.0)
            for kind in ("common", "private")
            if branches
        }
        return PlumNetModelOutput(
            embeddings=embeddings,
            soft_labels=soft.masked_fill(~there, 0.0),
            hard_labels=hard.masked_fill(~encoded.presence, -1),
            raw_embeddings=encoded.raw,
            projected_embeddings=encoded.common,
            presence=encoded.presence,
            **stacked,
            **recorder.fields,
        )

    def _moves_prototypes(self) -> bool:
        config = self.config
        moving = config.training_stage != "refinement" or config.refresh_in_stage2
        return self.training and config.use_psl_tfb and moving and config.prototype_schedule in ("bank", "batch")

    def _with_null(self, pooled: Tensor, presence: Tensor) -> Tensor:
        """(B, M, d) with the learned vectors in place of absent modalities, if the model has them."""
        if not self.null_tokens:
            return pooled
        rows = [self.null_tokens[n].vector(pooled[:, i], presence[:, i]) for i, n in enumerate(self.config.modalities)]
        return torch.stack(rows, 1)

    def _branches(self, encoded: EncodedModalities, recorder: Recorder) -> dict[str, BranchStates]:
        """States of both branches of every modality; one empty step for one that the whole batch lacks."""
        found: dict[str, BranchStates] = {}
        for index, name in enumerate(self.config.modalities if self.branches else ()):
            if name in encoded.features:
                parts = (encoded.features[name], encoded.projected[name], encoded.masks[name])
                states = self.branches[name](*parts, recorder)
            else:
                nothing = encoded.raw.new_zeros(encoded.raw.shape[0], 1, self.config.hidden_size)
                states = BranchStates(nothing, nothing, nothing[..., 0].bool())
            if self.null_tokens:
                token, there = self.null_tokens[name], encoded.presence[:, index]
                common, mask = token.sequence(states.common, states.mask, there)
                states = BranchStates(common, token.sequence(states.private, states.mask, there)[0], mask)
            found[name] = states
        return found

    def _representations(
        self,
        encoded: EncodedModalities,
        pooled: Tensor,
        soft_labels: Tensor,
        branches: dict[str, BranchStates],
        recorder: Recorder,
    ) -> list[Tensor]:
        """What the head reads of each modality, (B, ·) each: a row of Table 3."""
        rows = []
        common = None if encoded.common is None else self._with_null(encoded.common, encoded.presence)
        for index, name in enumerate(self.config.modalities):
            if name in self.refinements:
                learned = name in self.label_vectors
                vectors = self.label_vectors[name].weight if learned else self.labeller.prototypes[index]
                row = self.refinements[name](branches[name], soft_labels[:, index], vectors, recorder)
            elif name in self.branch_merges:
                states = branches[name]
                row = self.branch_merges[name](torch.cat([states.pooled_common, states.pooled_private], -1))
            elif common is not None:
                row = torch.cat([pooled[:, index], common[:, index]], -1)
            else:
                row = pooled[:, index]
            if not self.null_tokens:
                row = row.masked_fill(~encoded.presence[:, index, None], 0.0)
            rows.append(row)
        return rows


class PlumNetForSequenceClassification(PlumNetPreTrainedModel):
    """PLUM-Net with its heads and the losses of both training stages, Eq. (1)-(13); regression with `num_labels=1`."""

    def __init__(self, config: PlumNetConfig) -> None:
        super().__init__(config)
        self.model = PlumNetModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.branch_heads = nn.ModuleDict()
        for name in config.modalities if config.use_psl_tfb else ():
            self.branch_heads[name] = nn.ModuleDict(
                {kind: nn.Linear(config.hidden_size, config.num_structure_classes) for kind in ("common", "private")}
            )
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        audio_features: torch.FloatTensor | None = None,
        audio_attention_mask: Tensor | None = None,
        video_features: torch.FloatTensor | None = None,
        video_attention_mask: Tensor | None = None,
        input_values: torch.FloatTensor | None = None,
        input_values_mask: Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_mask: Tensor | None = None,
        labels: Tensor | None = None,
        sample_index: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> PlumNetOutput:
        r"""
        Arguments as in [`PlumNetModel.forward`], with

        Args:
            labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Class indices, −100 is ignored; floats in regression.

        Returns:
            [`PlumNetOutput`]. `loss` is Eq. (10) in the stage `alignment`, Eq. (13) otherwise, in training and eval mode
            alike. In the stage `alignment` the logits come from the common branches, as the head is untrained.
        """
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            audio_features=audio_features,
            audio_attention_mask=audio_attention_mask,
            video_features=video_features,
            video_attention_mask=video_attention_mask,
            input_values=input_values,
            input_values_mask=input_values_mask,
            pixel_values=pixel_values,
            pixel_values_mask=pixel_values_mask,
            labels=labels,
            sample_index=sample_index,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(out.embeddings))
        branch_logits = {kind: self.branch_logits(out, kind) for kind in ("common", "private") if self.branch_heads}
        if self.config.training_stage == "alignment" and branch_logits:
            logits = self.alignment_logits(branch_logits["common"], out.presence)
        loss, terms = None, None
        if labels is not None:
            classes = self.model.true_classes(labels)
            loss, terms = stage_loss(self.config, self.model.labeller, logits, branch_logits, out, labels, classes)
        return PlumNetOutput(
            loss=loss,
            logits=logits,
            embeddings=out.embeddings,
            loss_terms=terms,
            soft_labels=out.soft_labels,
            hard_labels=out.hard_labels,
            common_logits=branch_logits.get("common"),
            private_logits=branch_logits.get("private"),
            common_embeddings=out.common_embeddings,
            private_embeddings=out.private_embeddings,
            raw_embeddings=out.raw_embeddings,
            presence=out.presence,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )

    # ---- predictions of the branches ----------------------------------------------------------------------------

    def branch_logits(self, out: PlumNetModelOutput, kind: str) -> Tensor:
        """(B, M, C) from the pooled states of the branches `kind`."""
        pooled = self.dropout(getattr(out, f"{kind}_embeddings"))
        rows = [self.branch_heads[name][kind](pooled[:, i]) for i, name in enumerate(self.config.modalities)]
        return torch.stack(rows, 1)

    def alignment_logits(self, common: Tensor, presence: Tensor) -> Tensor:
        """Mean log-probability over the present modalities; in regression the expected value of the classes."""
        weight = presence[..., None].float()
        mean = (common.float().log_softmax(-1) * weight).sum(1) / weight.sum(1).clamp(min=1)  # (B, C)
        if self.config.problem_type != "regression":
            return mean.to(common.dtype)
        return (mean.softmax(-1) @ self.model.labeller.bin_values.float())[:, None].to(common.dtype)
