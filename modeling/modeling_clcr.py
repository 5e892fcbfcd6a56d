"""CLCR: cross-level co-representation of any set of modalities.

"CLCR: Cross-Level Semantic Collaborative Representation for Multimodal Learning". Equations are numbered as there; many are
lost in the text that is public and were reconstructed, see the config for every choice.

    text  ── encoder, layers 4, 8, 12 ─┐  shallow ─ IntraCED ─┐
    audio ── TCN, three stages ────────┼─ mid ──── IntraCED ──┼─ InterCAD ── [z_s ; z_p] ── logits
    video ── TCN, three stages ────────┘  deep ─── IntraCED ──┘

    IntraCED (one level)   H ── U_s ── z ──┬─ budget w ∘ attention to the others' z ── z̃ ── shared stream
                             └─ U_p ── π ──┼───────────────────────────────────────────── private stream, never exchanged
    InterCAD               pooled z̃, π ── level weights α ── modality weights β (shared), gates r (private)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .budget_projection import TokenBudget
from .configuration_clcr import ClcrConfig
from .decorrelation import IdentifiabilityLoss, segment_weights
from .layers import Dropout
from .level_aggregation import Aggregated, FixedProjection, InterLevelAggregation, LevelSummaries, Summaries
from .losses import task_loss, world_size
from .modality_inputs import ModalityInput, as_bool_mask, check_batch_sizes, check_finite, feature_input
from .modeling_base import MMIntentPreTrainedModel
from .modeling_media_encoder import MediaEncoderModel
from .outputs import MultimodalOutput
from .semantic_hierarchy import SemanticHierarchy
from .shared_exchange import IntraLevelExchange, LevelStreams, reset_parametrization
from .text_backbone import build_text_backbone


@dataclass
class ClcrModelOutput(ModelOutput):
    """
    Output of [`ClcrModel`]. M modalities in the order of `config.modalities`, L levels in that of `config.levels`.

    Args:
        embeddings (`torch.FloatTensor` of shape `(batch_size, 2 * hidden_size)`): [z_s ; z_p].
        modality_weights (`torch.FloatTensor` of shape `(batch_size, M)`): β, sums to 1, 0 for absent modalities.
        level_weights (`torch.FloatTensor` of shape `(batch_size, L)`): α, sums to 1.
        private_gates (`torch.FloatTensor` of shape `(batch_size, M)`): r, 0 for absent modalities.
        participation (`torch.FloatTensor` of shape `(batch_size, M, L)`): share of tokens with w > 0.
        budget_tight (`torch.BoolTensor` of shape `(batch_size, M, L)`): whether the budget binds.
        token_weights (`dict[str, torch.FloatTensor]`): w, (batch_size, tokens) under `<modality>_<level>`.
        diagnostics (`dict[str, torch.FloatTensor]`): figures to log, shape `()`; only in training.
        regularizers (`dict[str, torch.FloatTensor]`, *optional*): terms of Eq. (7) and (12), on request.
        hidden_states (`tuple`, *optional*): H_m^l (batch_size, tokens, hidden_size), by level, then modality; on request.
        attentions (`tuple`, *optional*): maps of the exchange, by level, then receiving modality; eager only, on request.
    """

    embeddings: torch.FloatTensor | None = None
    modality_weights: torch.FloatTensor | None = None
    level_weights: torch.FloatTensor | None = None
    private_gates: torch.FloatTensor | None = None
    participation: torch.FloatTensor | None = None
    budget_tight: torch.BoolTensor | None = None
    token_weights: dict[str, torch.FloatTensor] | None = None
    diagnostics: dict[str, torch.FloatTensor] | None = None
    regularizers: dict[str, torch.FloatTensor] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class ClcrOutput(MultimodalOutput):
    """[`MultimodalOutput`] with the fields of [`ClcrModelOutput`]."""

    level_weights: torch.FloatTensor | None = None
    private_gates: torch.FloatTensor | None = None
    participation: torch.FloatTensor | None = None
    budget_tight: torch.BoolTensor | None = None
    token_weights: dict[str, torch.FloatTensor] | None = None
    diagnostics: dict[str, torch.FloatTensor] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class ClcrPreTrainedModel(MMIntentPreTrainedModel):
    """Base of the CLCR family."""

    config: ClcrConfig
    config_class = ClcrConfig
    _no_split_modules = ["TemporalStage", "SharedAttention"]
    # Orthonormality and budgets do not survive half precision.
    _keep_in_fp32_modules_strict = ["basis", "budget"]
    _auto_map = {
        "AutoConfig": "configuration_clcr.ClcrConfig",
        "AutoModel": "modeling_clcr.ClcrModel",
        "AutoModelForSequenceClassification": "modeling_clcr.ClcrForSequenceClassification",
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, parametrize.ParametrizationList):
            reset_parametrization(module)
        elif isinstance(module, (TokenBudget, FixedProjection)):
            module.reset_parameters()

    @classmethod
    def from_backbones(
        cls, text: Any = None, audio: Any = None, video: Any = None, encoder: Any = None, **config_fields: Any
    ) -> ClcrPreTrainedModel:
        """
        As in [`MMIntentPreTrainedModel.from_backbones`]; widths of further modalities go by their name.

        Args:
            text, audio, video, encoder: as there.
            config_fields: fields of [`ClcrConfig`], and a width for each modality that `modalities` names beside text, audio
                and video, e.g. `modalities=("video", "flow"), video=35, flow=64`.

        Raises:
            ValueError: a config field is unknown, or a width differs from that in `modality_configs`.
        """
        fields = dict(config_fields)
        modalities = fields.get("modalities", cls.config_class.modalities)
        widths = {
            name: fields.pop(name) for name in modalities if name not in ("text", "audio", "video") and name in fields
        }
        widths.update(audio=audio, video=video)
        if encoder is not None:
            made = encoder.config if isinstance(encoder, MediaEncoderModel) else encoder
            for name, width in (("audio", made.audio_feature_size), ("video", made.video_feature_size)):
                if name in modalities and widths[name] is None:
                    widths[name] = width
        fields["modality_configs"] = cls._with_widths(fields.get("modality_configs"), widths)
        return super().from_backbones(text, encoder=encoder, **fields)

    @classmethod
    def _width_fields(cls, widths: dict[str, Any]) -> dict[str, Any]:
        return {}  # widths are entries of `modality_configs`

    @staticmethod
    def _with_widths(modality_configs: dict[str, Any] | None, widths: dict[str, Any]) -> dict[str, Any]:
        configs = {name: dict(settings) for name, settings in (modality_configs or {}).items()}
        for name, given in widths.items():
            if given is None:
                continue
            if isinstance(given, PreTrainedModel):
                given = given.config
            size = given if isinstance(given, (int, list, tuple)) else given.hidden_size
            declared = configs.setdefault(name, {}).setdefault("feature_size", size)
            split = isinstance(declared, (list, tuple)) and isinstance(size, int)
            if (sum(declared) if split else declared) != size:
                raise ValueError(
                    f"the {name} features have width {size} but `modality_configs[{name!r}]` says {declared}: "
                    "make them agree."
                )
        return configs

    def get_input_embeddings(self) -> nn.Module:
        owner = self.base_model
        if owner.text_model is None:
            raise NotImplementedError(
                f"`modalities` {self.config.modalities} has no text: there are no word embeddings."
            )
        return owner.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base_model.text_model.set_input_embeddings(value)


class ClcrModel(ClcrPreTrainedModel):
    """Semantic hierarchy, IntraCED and InterCAD, up to the task representation; no labels."""

    def __init__(self, config: ClcrConfig) -> None:
        super().__init__(config)
        self.text_model = build_text_backbone(config.text_config) if "text" in config.modalities else None
        self.media_encoder = None if config.encoder_config is None else MediaEncoderModel(config.encoder_config)
        self.hierarchy = SemanticHierarchy(config)
        self.intra = None
        if config.use_intra_ced:
            self.intra = nn.ModuleList(IntraLevelExchange(config, share) for share in config.initial_budgets())
        self.summaries = LevelSummaries(config)
        self.inter = InterLevelAggregation(config)
        regularised = config.use_intra_ced and config.intra_loss_weight > 0
        self.identifiability = IdentifiabilityLoss(config) if regularised else None
        self.post_init()

    # ---- inputs -------------------------------------------------------------------------------------------------

    def _features(self, named: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Features and mask of every declared modality but text, from arguments by name."""
        sizes = self.config.feature_sizes
        for key, value in named.items():
            name = key.removesuffix("_features").removesuffix("_attention_mask")
            if value is not None and (name == key or name not in sizes):
                known = [f"{declared}_features" for declared in sizes]
                raise ValueError(
                    f"`{key}` is not an input of this model: it takes {known} with their `_attention_mask`"
                    f"{' and `input_ids`' if self.text_model is not None else ''}. `config.modalities` is "
                    f"{list(self.config.modalities)}."
                )
        return {name: (named.get(f"{name}_features"), named.get(f"{name}_attention_mask")) for name in sizes}

    def _input(self, name: str, features: Any, mask: Tensor | None, size: Any) -> ModalityInput | None:
        """One modality, checked: a sequence, pictures, or three levels that were made elsewhere."""
        if isinstance(features, (tuple, list)):
            widths = self.config.modality_configs[name]["feature_size"]
            found = [x.shape[-1] for x in features]
            if found != widths:
                raise ValueError(f"`{name}_features` is a tuple of widths {found}: this modality takes {widths}.")
            features = torch.cat(tuple(features), -1)
        if isinstance(size, list) and features is not None:
            if features.dim() != 5 or list(features.shape[2:]) != size:
                raise ValueError(
                    f"`{name}_features` has shape {tuple(features.shape)}: expected (batch_size, pictures, "
                    f"{', '.join(map(str, size))}), the `feature_size` of {name}."
                )
            bool_mask = as_bool_mask(name, mask, tuple(features.shape[:2]), features.device)
            cleared = features.masked_fill(~bool_mask[:, :, None, None, None], 0.0)
            check_finite(name, cleared)
            return ModalityInput(cleared.to(self.dtype), bool_mask)
        return feature_input(name, features, mask, size, self.dtype)

    def _inputs(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        named: dict[str, Any],
        raw: tuple[Tensor | None, ...],
    ) -> dict[str, ModalityInput]:
        """Everything that this batch has, by modality, in the order of the config."""
        features = self._features(named)
        encoded = self.encode_media(*raw)
        if input_ids is not None and self.text_model is None:
            raise ValueError(
                f"`input_ids` is given but `config.modalities` {list(self.config.modalities)} has no text."
            )
        inputs: dict[str, ModalityInput | None] = {}
        for name in self.config.modalities:
            if name == "text":
                if input_ids is None:
                    inputs[name] = None
                    continue
                mask = as_bool_mask(name, attention_mask, tuple(input_ids.shape), input_ids.device)
                inputs[name] = ModalityInput(input_ids, mask)
            else:
                given = encoded.get(name, features[name])
                inputs[name] = self._input(name, *given, self.config.feature_sizes[name])
        labelled = {"input_ids" if name == "text" else f"{name}_features": item for name, item in inputs.items()}
        check_batch_sizes(labelled)
        return {name: item for name, item in inputs.items() if item is not None}

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
        mask_levels: Sequence[str] = (),
        output_regularizers: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **features: Any,
    ) -> ClcrModelOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, text_length)`, *optional*):
                Right-padded tokens. At least one modality must be given.
            attention_mask (`torch.Tensor` of shape `(batch_size, text_length)`, *optional*):
                1 for tokens. A row of zeros marks a sample without text.
            token_type_ids (`torch.LongTensor`, *optional*): passed on if the text backbone takes it.
            audio_features (`torch.FloatTensor` of shape `(batch_size, audio_length, width)`, *optional*):
                `None` when no sample of the batch has audio. For a `resnet18` on pictures
                `(batch_size, pictures, channels, height, width)`, for `identity` three tensors or one of their joint width.
            audio_attention_mask (`torch.Tensor` of shape `(batch_size, audio_length)`, *optional*):
                1 on valid steps, a right-padded prefix. A row of zeros marks a sample without audio.
            video_features, video_attention_mask: the same for video.
            input_values, input_values_mask (`torch.FloatTensor` of shape `(batch_size, samples)`, *optional*):
                Raw 16 kHz sound, when the model owns a media encoder.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, frames, 3, height, width)`, *optional*):
                Raw pictures with `pixel_values_mask` (batch_size, frames).
            mask_levels (`Sequence[str]`): levels whose tokens are zeroed for all modalities, to see what they contribute.
            output_regularizers (`bool`): also compute the terms of Eq. (7) and (12).
            output_attentions, output_hidden_states (`bool`, *optional*): attention maps need the eager implementation.
            features: `<name>_features` and `<name>_attention_mask` of any further declared modality.

        Returns:
            [`ClcrModelOutput`].

        Raises:
            ValueError: an input belongs to no declared modality, or does not fit its config.
        """
        named = {
            "audio_features": audio_features,
            "audio_attention_mask": audio_attention_mask,
            "video_features": video_features,
            "video_attention_mask": video_attention_mask,
            **features,
        }
        raw = (input_values, input_values_mask, pixel_values, pixel_values_mask)
        inputs = self._inputs(input_ids, attention_mask, named, raw)
        unknown = set(mask_levels) - set(self.config.levels)
        if unknown:
            raise ValueError(f"`mask_levels` names {sorted(unknown)}: this model has {list(self.config.levels)}.")
        backbone_levels = {
            name: self.hierarchy.text_levels(self.text_model, item, token_type_ids)
            if name == "text"
            else self.hierarchy.backbones[name](item)
            for name, item in inputs.items()
        }
        levels = self.hierarchy(backbone_levels)
        for index, level in enumerate(self.config.levels):
            if level in mask_levels:
                levels[index] = {name: (torch.zeros_like(x), mask) for name, (x, mask) in levels[index].items()}
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        maps = self.config.output_attentions if output_attentions is None else output_attentions
        # A modality has one mask for all levels: what its tokens count in means over all and over segments.
        means = {name: segment_weights(mask, 1) for name, (_, mask) in levels[0].items()}
        pools = means
        if self.identifiability is not None and output_regularizers:
            parts = {name: segment_weights(mask, self.config.stat_segments) for name, (_, mask) in levels[0].items()}
            pools = {name: torch.cat([mean, parts[name]], 1) for name, mean in means.items()}
        streams = [level(tokens, pools, bool(maps)) for level, tokens in zip(self.intra or (), levels, strict=False)]
        summaries = self.summaries(levels, means, streams)
        aggregated = self.inter(summaries)
        regularizers = self._regularizers(streams, summaries, aggregated) if output_regularizers else None
        participation, tight = self._participation(streams, summaries.present)
        return ClcrModelOutput(
            embeddings=torch.cat([aggregated.shared, aggregated.private], -1),
            modality_weights=aggregated.modality_weights,
            level_weights=aggregated.level_weights,
            private_gates=aggregated.private_gates,
            participation=participation,
            budget_tight=tight,
            token_weights={
                f"{name}_{level}": weight
                for level, stream in zip(self.config.levels, streams, strict=False)
                for name, weight in stream.weights.items()
            },
            diagnostics=self._diagnostics(list(inputs), summaries, aggregated, participation, tight)
            if self.training
            else None,
            regularizers=regularizers,
            hidden_states=tuple(x for tokens in levels for x, _ in tokens.values()) if wanted else None,
            attentions=tuple(x for stream in streams for x in stream.attentions) if maps else None,
        )

    # ---- regularisers -------------------------------------------------------------------------------------------

    def _regularizers(
        self, streams: list[LevelStreams], summaries: Summaries, aggregated: Aggregated
    ) -> dict[str, Tensor]:
        """The terms that the config weighs, by name."""
        terms: dict[str, Tensor] = {}
        if self.identifiability is not None:
            private, shared = (self._segments([getattr(x, kind) for x in streams]) for kind in ("private", "shared"))
            terms["intra"] = self.identifiability(private, shared, summaries.present)
        if self.inter.regularizer is not None:
            terms.update(self.inter.regularizer(summaries, aggregated))
        budgets = [level.budget for level in self.intra or () if level.budget is not None]
        if self.config.budget_penalty > 0 and budgets:
            terms["budget"] = torch.stack([budget.fraction() for budget in budgets]).sum()  # Σρ
        return terms

    def _segments(self, pooled: list[dict[str, Tensor]]) -> Tensor:
        """Segment means of one stream, (L, M, B, S, r); zeros for modalities that the batch lacks."""
        absent = torch.zeros_like(next(iter(pooled[0].values())))
        names = self.config.modalities
        return torch.stack([torch.stack([level.get(name, absent) for name in names]) for level in pooled])[..., 1:, :]

    # ---- diagnostics --------------------------------------------------------------------------------------------

    def _participation(self, streams: list[LevelStreams], present: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Share of receiving tokens and whether the budget binds, (B, M, L); nothing without an exchange."""
        if not streams or not streams[0].weights:
            return None, None
        none = torch.zeros_like(present[:, 0])
        shares, tight = [], []
        for name in self.config.modalities:
            for stream in streams:
                weight = stream.weights.get(name)
                if weight is None:
                    shares.append(none.float())
                    tight.append(none)
                    continue
                shares.append((weight > 0).sum(1) / stream.mask[name].sum(1).clamp(min=1))
                tight.append(stream.tight[name])
        shape = (len(self.config.modalities), len(streams))
        return torch.stack(shares, 1).unflatten(1, shape), torch.stack(tight, 1).unflatten(1, shape)

    @torch.no_grad()
    def _diagnostics(
        self,
        there: list[str],
        summaries: Summaries,
        aggregated: Aggregated,
        participation: Tensor | None,
        tight: Tensor | None,
    ) -> dict[str, Tensor]:
        """What shows whether levels, budgets and statistics are alive; never waits for the device."""
        config, alpha = self.config, aggregated.level_weights
        found = {"level_entropy": torch.special.entr(alpha).sum(1).mean()}  # R_sel is least where α is one-hot
        for index, level in enumerate(config.levels):
            found[f"level_weight_{level}"] = alpha[:, index].mean()
            budget = self.intra[index].budget if self.intra is not None else None
            if budget is None or participation is None:
                continue
            rows = summaries.present.float()
            count = rows.sum().clamp(min=1.0)
            found[f"participation_{level}"] = (participation[..., index] * rows).sum() / count
            if budget.share is not None:
                found[f"budget_{level}"] = budget.fraction(config.budget_scale).squeeze(0)
                found[f"budget_tight_{level}"] = (tight[..., index] * rows).sum() / count
        for name in there if self.inter.private_gate is not None else ():
            index = list(config.modalities).index(name)
            rows = summaries.present[:, index].float()
            found[f"private_gate_{name}"] = (aggregated.private_gates[:, index] * rows).sum() / rows.sum().clamp(
                min=1.0
            )
        # What independent streams would score: E‖C‖²/r ≈ r/(n − 1).
        samples = summaries.present.float().sum(0).max()
        if config.gather_across_processes:  # the other processes' share is not asked for: about as large
            samples = samples * world_size()
        if self.identifiability is not None:
            rank = max(config.shared_width, config.private_width)
            found["intra_bias"] = rank / (samples * config.stat_segments - 1).clamp(min=1.0)
        if self.inter.regularizer is not None and self.inter.regularizer.reduction is not None:
            found["inter_bias"] = config.inter_stat_rank / (samples - 1).clamp(min=1.0)
        return found


class ClcrForSequenceClassification(ClcrPreTrainedModel):
    """CLCR with its task head and losses, Eq. (1)–(13); regression with `num_labels=1`."""

    def __init__(self, config: ClcrConfig) -> None:
        super().__init__(config)
        self.model = ClcrModel(config)
        self.dropout = Dropout(config.head_dropout)
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels)
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
        class_weight: Tensor | None = None,
        mask_levels: Sequence[str] = (),
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **features: Any,
    ) -> ClcrOutput:
        r"""
        Inputs are those of [`ClcrModel.forward`], and:

        Args:
            labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Class indices, −100 is ignored; floats in regression; (batch_size, num_labels) with several labels.
            class_weight (`torch.FloatTensor` of shape `(num_labels,)`, *optional*): weights of the cross-entropy.

        Returns:
            [`ClcrOutput`]; with labels `loss` is Eq. (13). The regularisers are statistics of the batch.
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
            mask_levels=mask_levels,
            output_regularizers=labels is not None,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **features,
        )
        logits = self.classifier(self.dropout(out.embeddings.to(self.classifier.weight.dtype)))
        loss, terms = None, None
        if labels is not None:
            config = self.config
            task = task_loss(logits, labels, config.problem_type, config.regression_loss, class_weight)
            terms = {"task": task, **out.regularizers}
            # Eq. (13): L = L_task + λ_intra L_intra + λ_inter L_inter, with L_inter of Eq. (12)
            loss = sum(self.loss_weights()[name] * term for name, term in terms.items())
            terms = {name: term.detach() for name, term in terms.items()}
        return ClcrOutput(
            loss=loss,
            logits=logits,
            loss_terms=terms,
            **{name: value for name, value in out.items() if name != "regularizers"},
        )

    def loss_weights(self) -> dict[str, float]:
        """What each entry of `loss_terms` counts in `loss`, Eq. (12) and (13)."""
        config = self.config
        # Eq. (12): L_inter = η₁ R_pp + η₂ R_sp + η₃ R_sel
        inter = [config.inter_loss_weight * weight for weight in config.inter_weights]  # λ_inter η
        return {
            "task": 1.0,
            "intra": config.intra_loss_weight,
            "inter_pp": inter[0],
            "inter_sp": inter[1],
            "inter_sel": inter[2],
            "budget": config.budget_penalty,
        }
