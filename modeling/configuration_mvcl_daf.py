"""Configuration of MVCL-DAF++ and of its parent MVCL-DAF.

Origins beside the fields: [paper] stated in the paper; [figure] only in its Figure 1; [public] read in public derivatives of
the parent's code; [derived] follows from the mathematics; [choice] ours. The paper gives no layer sizes.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .configuration_multimodal import MultimodalConfig

VIEWS = ("text", "video", "audio", "fused")


@strict
class MvclDafConfig(MultimodalConfig):
    """
    Configuration of [`MvclDafForSequenceClassification`].

    The defaults are MVCL-DAF++ on MIntRec; `coarse_fusion=False, prototype_loss_weight=0.0` is MVCL-DAF without the
    two modules that the paper adds. Every ablation of the paper is a setting of these fields.
    """

    model_type = "mvcl_daf"
    keys_to_ignore_at_inference = [
        "embeddings",
        "loss_terms",
        "modality_weights",
        "token_modality_weights",
        "view_embeddings",
        "view_presence",
        "hidden_states",
        "attentions",
        "diagnostics",
    ]

    modalities: tuple[str, ...] | list[str] = ("text", "video", "audio")  # text defines the aligned length [choice]
    video_feature_size: int = (
        256  # official MIntRec and MIntRec2.0 files; the parent used another file of 1024 [public]
    )
    audio_feature_size: int = 768  # wav2vec 2.0 / WavLM base [public]
    # "Embedding layer" boxes of Figure 1 [figure]. None: features enter at their own width, as in the parent [public].
    # The width is ours: it keeps the cost of the audio and video branches below that of the text encoder [choice].
    video_embed_size: int | None = 128
    audio_embed_size: int | None = 128

    # text
    max_text_length: int = 41  # with specials and slots: 37 + 4 on MIntRec; 80 on MIntRec2.0 [public]
    label_slots: int = 4  # the longest label name, "Apologise", has four BERT wordpieces [public]/[derived]
    cls_token_id: int = 101  # BERT's; a sample without text becomes [CLS] [MASK]*k [SEP] [choice]
    sep_token_id: int = 102
    mask_token_id: int = 103
    pad_token_id: int | None = 0
    text_dropout: float | int = 0.1  # [public]
    separate_label_encoder: bool = False  # one embedding box in Figure 1; True: a second full encoder [public]

    # alignment of audio and video to the text tokens
    align_type: Literal["ctc", "adaptive_pool"] = "ctc"  # "retain the CTC Align Module" [paper]
    align_layers: int = 2  # [public]
    align_normalize: bool = False  # plain sum over frames, as published; True: convex combination [public]/[choice]
    align_mask_slots: bool = True  # slots beyond the sample's text get probability 0; False as published [choice]
    align_logit_scale: float | int | Literal["learned"] = 1.0  # LSTM outputs lie in (-1, 1): scales them [choice]

    # visual encoder: "Transformer encoder" [paper], sizes [public]
    visual_layers: int = 6
    visual_heads: int = 8
    visual_intermediate_size: int | None = None  # None: its own width, the parent's ratio (1024 at 1024) [public]
    visual_dropout: float | int = 0.1
    visual_activation: str = "relu"
    visual_norm: Literal["post", "pre"] = "post"
    visual_position_embedding: Literal["none", "sinusoidal"] = "none"

    # acoustic encoder: "BiPeephole LSTM" [paper]
    acoustic_encoder: Literal["peephole_bilstm", "bilstm"] = "peephole_bilstm"
    acoustic_hidden_size: int | None = None  # per direction; None: half the input width [public]
    peephole: Literal["diagonal", "full"] = "diagonal"  # the standard definition [choice]; full as published [public]
    acoustic_dropout: float | int = 0.0  # [public]

    # coarse sequence, Eq. (3): "modality-aware Transformer" [paper], sizes as the visual encoder's [choice]
    coarse_fusion: bool = True  # False: MVCL-DAF [paper]
    coarse_layers: int = 1
    coarse_heads: int = 8
    coarse_intermediate_size: int | None = None  # None: its own width, as above
    coarse_dropout: float | int = 0.1

    # dynamic attention fusion
    daf_max_depth: int = 5  # [public]
    daf_depth_gate: Literal["soft", "fixed"] = "soft"  # the published gate thresholds a batch mean, untrained [choice]
    daf_attention_dropout: float | int = 0.5  # [public]
    daf_output_dropout: float | int = 0.0  # [public]
    daf_share_weights: bool = False  # "two DAF modules" [paper]
    classifier_dropout: float | int = 0.0  # [public]
    # What the head reads: the first position, as BERT's pooler [paper]; the mean over the words and special tokens, for text
    # backbones that were trained with mean pooling (sentence encoders) [choice]; or the mean over the label slots, which the
    # contrastive and prototype losses shape, so that they act on what is classified [choice].
    pooling: Literal["first", "mean", "slots"] = "first"

    # losses
    cls_loss_weight: float | int = 1.0  # Eq. (11) [paper]
    prototype_loss_weight: float | int = 1.0  # Eq. (11) [paper]
    contrastive_loss_weight: float | int = 1.0  # Eq. (11) [paper]
    contrastive_reduction: Literal["sum", "mean"] = "sum"  # Eq. (9) [paper]; mean in the parent [public]
    temperature: float | int = 0.1  # section 3.2 [paper]; 0.5 in the parent [public]
    contrastive_views: tuple[str, ...] | list[str] = VIEWS  # Eq. (5)-(8) [paper]
    contrastive_exclude_same_class: bool = False  # Eq. (4) keeps same-class samples as negatives [paper]
    prototype_views: tuple[str, ...] | list[str] = VIEWS  # view clouds in Figure 1 [figure]; not the labelled anchor
    prototype_scope: Literal["shared", "per_view"] = "shared"  # [figure]
    prototype_normalize_instances: bool = False  # Eq. (1) averages raw embeddings [paper]
    prototype_temperature: float | int | None = None  # None: `temperature`, the paper has one [paper]
    prototype_stop_gradient: bool = False  # [choice]
    prototype_ignore_labels: tuple[int, ...] | list[int] = ()  # e.g. (30,): out of scope is not one cluster [choice]
    # Negatives and prototypes of all processes, so that the batch of the paper does not depend on how many there are.
    gather_across_processes: bool = True
    regression_loss: Literal["l1", "mse"] = "l1"  # [choice]
    regression_bins: tuple[float | int, ...] | list[float | int] | None = (
        None  # sorted edges: classes of a regression target
    )

    @property
    def visual_size(self) -> int:
        """Width at which video runs through alignment and visual encoder."""
        return self.video_embed_size or self.video_feature_size

    @property
    def acoustic_size(self) -> int:
        """Width at which audio enters alignment and acoustic encoder."""
        return self.audio_embed_size or self.audio_feature_size

    @property
    def acoustic_output_size(self) -> int:
        """Width of the acoustic encoder's output, both directions."""
        return 2 * (self.acoustic_hidden_size or self.acoustic_size // 2)

    @property
    def fusion_sources(self) -> tuple[str, ...]:
        """Sources of the classifying fusion, in the order of `modality_weights`."""
        sources = tuple(name for name in ("video", "audio") if name in self.modalities)
        return (*sources, "coarse") if sources and self.coarse_fusion else sources

    @property
    def modality_weight_names(self) -> tuple[str, ...]:
        """Names of the columns of `modality_weights`."""
        return self.fusion_sources

    @staticmethod
    def text_token_fields(tokenizer: Any) -> dict[str, int]:
        """Special-token ids of this config as the tokenizer has them."""
        return {
            f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
            for name in ("cls", "sep", "mask", "pad")
            if getattr(tokenizer, f"{name}_token_id") is not None
        }

    def validate_text(self) -> None:
        if "text" not in self.modalities:
            raise ValueError(
                f"`modalities` is {list(self.modalities)}: MVCL-DAF needs text, it defines the label slots."
            )
        unknown = set(self.modalities) - {"text", "video", "audio"}
        if unknown:
            raise ValueError(f"`modalities` names {sorted(unknown)}: MVCL-DAF takes text, video and audio.")
        if self.max_text_length < self.label_slots + 3:
            raise ValueError(
                f"`max_text_length` is {self.max_text_length} but {self.label_slots} label slots, [CLS], [SEP] and one "
                f"word need {self.label_slots + 3}: raise it."
            )

    def validate_token_ids(self) -> None:
        size = getattr(self.text_config, "vocab_size", None)
        for name in ("cls", "sep", "mask", "pad"):
            value = getattr(self, f"{name}_token_id")
            if value is not None and size is not None and not 0 <= value < size:
                raise ValueError(
                    f"`{name}_token_id` is {value} but `text_config.vocab_size` is {size}: give the id that the backbone's "
                    f"tokenizer has, `**MvclDafConfig.text_token_fields(tokenizer)` reads all of them."
                )

    def validate_widths(self) -> None:
        if "video" in self.modalities and self.visual_size % self.visual_heads:
            raise ValueError(
                f"`video_feature_size` or `video_embed_size` = {self.visual_size} is not divisible by "
                f"`visual_heads` = {self.visual_heads}: set `video_embed_size` to a multiple."
            )
        if "audio" in self.modalities and self.acoustic_hidden_size is None and self.acoustic_size % 2:
            raise ValueError(
                f"`audio_feature_size` or `audio_embed_size` = {self.acoustic_size} is odd: set `audio_embed_size` to an "
                f"even width or give `acoustic_hidden_size`."
            )
        hidden = self.text_config.hidden_size if self.text_config is not None else None
        if hidden is not None and self.coarse_fusion and hidden % self.coarse_heads:
            raise ValueError(
                f"`text_config.hidden_size` = {hidden} is not divisible by `coarse_heads` = {self.coarse_heads}: "
                f"choose a divisor."
            )

    def validate_ranges(self) -> None:
        positive = ["label_slots", "align_layers", "visual_layers", "visual_heads", "coarse_layers", "coarse_heads"]
        positive += [
            "daf_max_depth",
            "temperature",
            "prototype_temperature",
            "align_logit_scale",
            "acoustic_hidden_size",
        ]
        positive += [f"{name}_{kind}_size" for name in ("video", "audio") for kind in ("feature", "embed")]
        for name in positive:
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not 0 < value < math.inf:
                raise ValueError(f"`{name}` is {value}: it must be positive and finite.")
        for name in ("cls_loss_weight", "prototype_loss_weight", "contrastive_loss_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}: it must not be negative or infinite, 0 switches the loss off."
                )
        for name in ("text", "visual", "acoustic", "coarse", "daf_attention", "daf_output", "classifier"):
            if not 0 <= getattr(self, f"{name}_dropout") < 1:
                raise ValueError(f"`{name}_dropout` is {getattr(self, f'{name}_dropout')}: choose a value in [0, 1).")

    def validate_views(self) -> None:
        for name, allowed in (("contrastive_views", VIEWS), ("prototype_views", (*VIEWS, "labelled"))):
            views = list(getattr(self, name))
            unknown = set(views) - set(allowed)
            if unknown:
                raise ValueError(f"`{name}` names {sorted(unknown)}: allowed are {list(allowed)}.")
            if len(set(views)) != len(views):
                raise ValueError(f"`{name}` = {views} names a view twice: list each one once.")

    def validate_ignored_labels(self) -> None:
        classes = self.num_labels if self.regression_bins is None else len(self.regression_bins) + 1
        outside = [label for label in self.prototype_ignore_labels if not 0 <= label < classes]
        if outside:
            raise ValueError(f"`prototype_ignore_labels` names {outside} but there are {classes} classes, from 0.")

    def validate_loss_targets(self) -> None:
        needs_classes = self.prototype_loss_weight > 0 or self.contrastive_loss_weight > 0
        if self.problem_type == "regression" and needs_classes and self.regression_bins is None:
            raise ValueError(
                "`problem_type` is regression: prototypes and the labelled view need classes. Give `regression_bins` or set "
                f"`prototype_loss_weight` ({self.prototype_loss_weight}) and `contrastive_loss_weight` "
                f"({self.contrastive_loss_weight}) to 0."
            )
        if self.problem_type == "multi_label_classification" and needs_classes:
            raise ValueError(
                "`problem_type` is multi_label_classification: set `prototype_loss_weight` and `contrastive_loss_weight` "
                f"to 0, they are {self.prototype_loss_weight} and {self.contrastive_loss_weight}."
            )
        if self.regression_bins is not None and list(self.regression_bins) != sorted(self.regression_bins):
            raise ValueError(f"`regression_bins` = {list(self.regression_bins)} are not sorted.")
