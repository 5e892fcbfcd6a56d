"""Configuration of PLUM-Net.

Origins beside the fields: [paper] stated in the paper; [derived] follows from the mathematics or from measurements; [choice]
ours. The paper names neither its encoders nor most layer sizes.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .configuration_base import Stage
from .configuration_multimodal import MultimodalConfig

# What the loss of the first stage reaches, Eq. (10): everything up to the two branches of each modality. A stage `alignment`
# that names no parts trains these.
ALIGNED_PARTS = (
    r"(^|\.)(text_model|media_encoder|encoders|feature_norms|common_projection|common_norms|branches|branch_heads)\."
)


@strict
class PlumNetConfig(MultimodalConfig):
    """
    Configuration of [`PlumNetForSequenceClassification`].

    The defaults are PLUM-Net on CMU-MOSI; every row of the ablation table is a setting of the three `use_*` fields.
    Modality dropout is no field: it is a matter of the batches (`modality_dropout` of a training run), which the model sees
    as masks.
    """

    model_type = "plum_net"
    keys_to_ignore_at_inference = [
        "embeddings",
        "loss_terms",
        "modality_weights",
        "soft_labels",
        "hard_labels",
        "common_logits",
        "private_logits",
        "common_embeddings",
        "private_embeddings",
        "raw_embeddings",
        "presence",
        "hidden_states",
        "attentions",
    ]

    audio_feature_size: int = 5  # MMSA files of CMU-MOSI
    video_feature_size: int = 20

    # encoders; the text encoder is not named in the paper
    hidden_size: int = 256  # 256 on MOSI, 128 on MOSEI [paper]
    av_encoder_layers: int = 2  # audio and video: Linear, then pre-norm Transformer [choice]
    encoder_heads: int = 4  # [choice]
    encoder_dropout: float | int = 0.1  # [choice]
    dropout: float | int = 0.6  # MOSI [paper]; on pooled vectors before linear heads [choice]

    # the modules of Table 3 [paper]
    use_msa: bool = True  # multilevel semantic alignment
    use_psl_tfb: bool = True  # prototype labels and task-conditioned feature bifurcator
    use_prm: bool = True  # private refinement

    # alignment, Eq. (1)-(3)
    msa_form: Literal["supcon", "printed"] = "supcon"  # `printed`: one positive, denominator over all [paper]
    msa_temperature: float | int = 0.1  # value not given in the paper [choice]
    msa_loss_weight: float | int = 0.1  # λ1 of Eq. (10), value not given [choice]

    # labels per modality, Eq. (4)-(5)
    # Classes of a regression target: {y < 0, y = 0, y > 0} follows from the counts of Figure 4 [derived]; `round7` rounds
    # to -3...3; sorted edges give any others.
    structure_bins: Literal["sign", "round7"] | tuple[float | int, ...] | list[float | int] = "sign"
    prototype_schedule: Literal["epoch", "bank", "batch"] = "epoch"  # [choice]
    prototype_assign: Literal["gt", "pseudo"] = "gt"  # `pseudo`: one reading of "adaptive clustering" [choice]
    # 1.0 is Eq. (5) literally, nearly one-hot on normalised features; None: sqrt(d) / 4 [derived]
    soft_label_temperature: float | int | None = None
    psl_warmup_epochs: int = 1  # private branch on true labels until prototypes mean something [choice]
    psl_target: Literal["hard", "soft"] = "hard"  # hard labels train, soft labels refine [paper]
    prototype_shrinkage: float | int = 0.0  # pull rare classes to the mean of all; 0 is the paper, 5 when used [choice]
    class_balanced_ce: bool = False  # inverse-frequency weights; against the imbalance the paper names [choice]

    # branches, Eq. (6)-(8), and refinement, Eq. (9)
    tfb_layers: int = 1  # [choice]
    tfb_heads: int = 4  # [choice]
    prm_heads: int = 4  # [choice]
    label_token_source: Literal["prototype", "learned"] = "prototype"  # what stands for a class in Eq. (9) [choice]
    fusion_combine: Literal["concat", "sum"] = "concat"  # how the two attention directions merge [choice]

    missing_strategy: Literal["zero", "null_token"] = "zero"  # `null_token`: a learned vector per modality [choice]

    # training in stages, Eq. (10)-(13); the trainer runs `stages` in turn
    training_stage: Literal["alignment", "refinement", "joint"] = "refinement"  # which loss `forward` computes
    stages: tuple[Any, ...] | list[Any] = (
        ("alignment", 160),  # epochs on MOSI, 50 on MOSEI [paper]; all parts that Eq. (10) reaches
        ("refinement", 140),  # 140 and 50 [paper]; everything trains [choice]
    )
    stage1_weight_in_stage2: float | int = 1.0  # Eq. (13) sums both losses [paper]; 0: second stage alone
    refresh_in_stage2: bool = False  # prototypes stay as the first stage left them [choice]

    @property
    def num_structure_classes(self) -> int:
        """C, the number of classes of the labels per modality."""
        if self.problem_type != "regression":
            return int(self.num_labels or 0)
        fixed = {"sign": 3, "round7": 7}
        return fixed[self.structure_bins] if isinstance(self.structure_bins, str) else len(self.structure_bins) + 1

    @property
    def default_bin_values(self) -> list[float]:
        """Target that stands for each class of a regression until training has measured its mean."""
        if self.problem_type != "regression":
            return [0.0] * self.num_structure_classes
        if self.structure_bins == "sign":
            return [-1.0, 0.0, 1.0]
        if self.structure_bins == "round7":
            return [float(value) for value in range(-3, 4)]
        edges = [float(edge) for edge in self.structure_bins]
        return [edges[0], *((low + high) / 2 for low, high in itertools.pairwise(edges)), edges[-1]]

    @property
    def label_temperature(self) -> float:
        """The temperature of Eq. (5)."""
        return math.sqrt(self.hidden_size) / 4 if self.soft_label_temperature is None else self.soft_label_temperature

    @property
    def has_alignment_loss(self) -> bool:
        """Whether Eq. (10) has any term."""
        return self.use_psl_tfb or (self.use_msa and self.msa_loss_weight > 0)

    @property
    def training_stages(self) -> tuple[Stage, ...]:
        """`stages` without the first where the reduced model has no loss for it (first row of Table 3)."""
        found = []
        for stage in super().training_stages:
            if stage.name == "alignment" and stage.trainable is None:
                stage = stage._replace(trainable=(ALIGNED_PARTS,))
            if self.has_alignment_loss or stage.name != "alignment":
                found.append(stage)
        return tuple(found)

    def validate_names(self) -> None:
        unknown = set(self.modalities) - {"text", "audio", "video"}
        if unknown:
            raise ValueError(f"`modalities` names {sorted(unknown)}: PLUM-Net takes text, audio and video.")
        for name, *_ in self.stages:
            if name not in ("alignment", "refinement", "joint"):
                raise ValueError(f"`stages` names {name!r}: PLUM-Net has alignment, refinement and joint.")

    def validate_what_trains(self) -> None:
        without_loss = set() if self.has_alignment_loss else {"alignment"}
        if not {name for name, *_ in self.stages} - without_loss:
            raise ValueError(
                f"`stages` = {list(self.stages)} leaves nothing to train with `use_msa` {self.use_msa} and `use_psl_tfb` "
                f"{self.use_psl_tfb}: name refinement or joint, or switch a module of the first stage on."
            )

    def validate_widths(self) -> None:
        for name in ("encoder_heads", "tfb_heads", "prm_heads"):
            if self.hidden_size % getattr(self, name):
                raise ValueError(
                    f"`hidden_size` = {self.hidden_size} is not divisible by `{name}` = {getattr(self, name)}: "
                    f"choose a divisor."
                )

    def validate_modules(self) -> None:
        if self.use_prm and not self.use_psl_tfb:
            raise ValueError("`use_prm` is True but `use_psl_tfb` is False: the refinement reads both branches.")

    def validate_targets(self) -> None:
        if self.problem_type == "multi_label_classification":
            raise ValueError("`problem_type` is multi_label_classification: PLUM-Net needs one class per sample.")
        edges = self.structure_bins
        if not isinstance(edges, str) and (not edges or list(edges) != sorted(set(edges))):
            raise ValueError(
                f"`structure_bins` = {list(edges)} is empty or not strictly increasing: give sorted edges."
            )

    def validate_ranges(self) -> None:
        for name in ("msa_temperature", "soft_label_temperature"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` is {value}: a temperature is positive.")
        for name in ("msa_loss_weight", "stage1_weight_in_stage2", "prototype_shrinkage", "psl_warmup_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}: it cannot be negative.")
