"""Configuration of CLCR.

Origins beside the fields: [paper] stated in the paper; [public] read in shicaiwei123/ICCV2025-ARL, whose settings the paper
follows; [derived] follows from the mathematics or was measured; [choice] ours. Most numbers of the paper's text are lost.
"""

from __future__ import annotations

from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .configuration_multimodal import MultimodalConfig

LEVELS = ("shallow", "mid", "deep")
_MODALITY_KEYS = {"backbone", "feature_size", "backbone_config"}
_BACKBONES = ("text", "tcn", "resnet18", "identity")
_DEFAULTS: dict[str, dict[str, Any]] = {
    "text": {"backbone": "text"},  # BERT [paper]
    "audio": {"backbone": "tcn", "feature_size": 5},  # three-stage TCN [paper]; width of the CMU-MOSI file
    "video": {"backbone": "tcn", "feature_size": 20},
}


@strict
class ClcrConfig(MultimodalConfig):
    """
    Configuration of [`ClcrForSequenceClassification`].

    The defaults are the trimodal CMU-MOSI model. Every ablation of the paper's Table 3 is a setting of these fields.

    Args:
        modalities (`tuple[str, ...]`): any unique names; `text` is the one that takes `input_ids`.
        modality_configs (`dict[str, dict]`, *optional*):
            Per modality `{"backbone", "feature_size", "backbone_config"}`. `backbone` is `text` (only for the modality of
            that name), `tcn`, `resnet18` or `identity`. `feature_size` is the width of `<name>_features`; for `resnet18`
            on pictures the list `[channels, height, width]`; for `identity` the three widths of the levels.
            `backbone_config` overrides `kernel_size`, `dilations`, `dropout`, `hidden_size` of a TCN, or puts something
            ahead of it: `center` (each sample's mean over time is taken away), `pictures` (rows that are pictures go through
            convolutions, `{"size": [C, H, W], "channels": …}`, or leave only their lowest frequencies, `{"size": …,
            "cosines": [rows, columns]}`; `"shift"` and `"mirror"` move them in training), `input_dropout`,
            `input_projection` (the width of a linear layer); for `resnet18` fields of `ResNetConfig`, and
            `crop` (smallest and largest part of the area) and `mirror`, which training draws anew for every sample's frames.
        level_order (`dict[str, tuple[int, int, int]]`, *optional*):
            Which level of its backbone each modality shows as shallow, mid and deep; the identity when not given. Full Mix
            is `{"text": (1, 2, 0), "audio": (2, 0, 1), "video": (1, 2, 0)}`, Partial Mix
            `{"text": (0, 2, 1), "audio": (2, 1, 0), "video": (1, 0, 2)}`.
        budget_init (`float` or `tuple[float, ...]`): one share for all levels, or one per entry of `levels`.
    """

    model_type = "clcr"
    keys_to_ignore_at_inference = [
        "embeddings",
        "loss_terms",
        "modality_weights",
        "level_weights",
        "private_gates",
        "token_weights",
        "participation",
        "budget_tight",
        "diagnostics",
        "regularizers",
        "hidden_states",
        "attentions",
    ]

    modalities: tuple[str, ...] | list[str] = ("text", "audio", "video")  # "trimodal by default" [paper]
    modality_configs: dict[str, Any] | None = None
    # Layers of the text encoder; None: a third, two thirds, all. "early, middle, late" [paper], indices [choice]
    text_level_layers: tuple[int, ...] | list[int] | None = None

    # semantic hierarchy, section 2.2
    hidden_size: int = 128  # d, a common width [paper]; its value [choice]
    shared_size: int | None = None  # d_s; None: half of d. d_s + d_p = d discards nothing [choice]
    private_size: int | None = None  # d_p
    levels: tuple[str, ...] | list[str] = LEVELS  # [paper]; ("deep",) is "w/o Hierarchy" [choice]
    level_order: dict[str, Any] | None = None
    tcn_kernel_size: int = 3  # with these dilations 5, 13 and 29 frames are seen [derived]; sizes [choice]
    tcn_dilations: tuple[int, ...] | list[int] = (1, 2, 4)
    tcn_dropout: float | int = 0.1
    # Independent per modality and level [paper]; sinusoidal has no length limit and no buffer [choice]
    position_embedding: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_positions: int = 1024  # rows of a learned table

    # IntraCED, section 2.3
    use_intra_ced: bool = True  # False: shared = private = pooled tokens, no exchange [paper, Table 3]
    basis_map: Literal["cayley", "householder", "matrix_exp"] = "cayley"  # Stiefel [paper]; the cheapest [derived]
    exchange_heads: int = 4  # [choice]
    # Tokens of one modality that others attend to; of longer sequences the means over as many neighbouring stretches. Keeps
    # the cost linear in length, where Eq. (4) as written, None, is quadratic [choice]
    exchange_max_sources: int | None = 128
    gate_scale_init: float | int = 20.0  # learnable scale [paper]; at 1 every token takes part [derived]
    gate_threshold_init: float | int = 1.0  # θ, learnable per level [paper]; the mean of e after LN [derived]
    # ρ₀, share of a sequence's tokens: lengths differ tenfold between modalities [choice]; learnable per level [paper]
    budget_init: float | tuple[float, ...] | list[float] = 0.1
    budget_learnable: bool = True
    budget_scale: float | int = 1.0  # κ, the sparsity probe of Fig. 6 [paper]
    use_budget_projection: bool = True  # False: the dense variant, w = g [paper]
    budget_penalty: float | int = 0.0  # adds λ Σρ, which keeps the constraint tight [choice]

    # InterCAD, section 2.4
    use_inter_cad: bool = True  # False: uniform level and modality weights, open private gates [paper, Table 3]

    # regularisers, Eq. (6), (7), (12), (13)
    intra_loss_weight: float | int = 0.1  # λ_intra; values lost, "broad and stable range" [paper]/[choice]
    inter_loss_weight: float | int = 0.1  # λ_inter
    intra_separation: float | int = 0.5  # γ, Eq. (7); value lost [choice]
    # η, "balanced" [paper]; value [choice]
    inter_weights: tuple[float | int, ...] | list[float | int] = (1 / 3, 1 / 3, 1 / 3)
    regularizer_reduction: Literal["sum", "mean"] = "sum"  # over the terms of a sum [choice]
    whitening_eps: float = 1e-3  # "diagonal regularization" [paper]; ridge eps·tr(Σ)/r + 1e-6 [choice]
    # "eigendecomposition" [paper]: its fp32 gradient is NaN on rank-deficient covariances, Cholesky is exact [derived]
    whitening_solver: Literal["cholesky", "eigh"] = "cholesky"
    stat_segments: int = 8  # S: modalities of unequal length are compared by segments [choice]
    inter_stat_rank: int | None = 16  # rows are only the batch: at full width the statistic saturates [derived]
    selection_stop_gradient: bool = True  # else equal anchors are a trivial minimum of R_sel [choice]
    gather_across_processes: bool = False  # statistics over the rows of all processes

    # head, section 2.5
    head_dropout: float | int = 0.1  # [choice]
    regression_loss: Literal["mse", "l1"] = "mse"  # [paper]

    def __post_init__(self, **kwargs: Any) -> None:
        given = self.modality_configs or {}
        self.modality_configs = {
            name: {**_DEFAULTS.get(name, {}), **given.get(name, {})} for name in (*self.modalities, *given)
        }
        for settings in self.modality_configs.values():  # JSON has no tuples
            if isinstance(settings.get("feature_size"), tuple):
                settings["feature_size"] = list(settings["feature_size"])
        if self.level_order is not None:
            self.level_order = {name: list(order) for name, order in self.level_order.items()}
        super().__post_init__(**kwargs)

    # ---- what the fields mean together -------------------------------------------------------------------------

    @property
    def shared_width(self) -> int:
        """d_s."""
        return self.hidden_size // 2 if self.shared_size is None else self.shared_size

    @property
    def private_width(self) -> int:
        """d_p."""
        return self.hidden_size // 2 if self.private_size is None else self.private_size

    @property
    def feature_sizes(self) -> dict[str, Any]:
        """Width of `<modality>_features`; `[channels, height, width]` of pictures."""
        sizes = {}
        for name in self.modalities:
            settings = self.modality_configs[name]
            if settings["backbone"] != "text":
                size = settings["feature_size"]
                sizes[name] = sum(size) if settings["backbone"] == "identity" and isinstance(size, list) else size
        return sizes

    @property
    def text_layers(self) -> tuple[int, int, int]:
        """Indices into the text encoder's `hidden_states` for the three levels."""
        if self.text_level_layers is not None:
            return tuple(self.text_level_layers)
        depth = self.text_config.num_hidden_layers
        return -(-depth // 3), -(-2 * depth // 3), depth

    @property
    def modality_weight_names(self) -> tuple[str, ...]:
        """Names of the columns of `modality_weights`."""
        return tuple(self.modalities)

    @property
    def level_indices(self) -> tuple[int, ...]:
        """Positions of `levels` in (shallow, mid, deep)."""
        return tuple(LEVELS.index(name) for name in self.levels)

    @property
    def zero_diagnostics(self) -> dict[str, str]:
        """What it means when a figure of `diagnostics` is 0 over a whole logging window; the trainer warns with it."""
        if not self.use_intra_ced or len(self.modalities) < 2:
            return {}
        meanings = {
            f"participation_{level}": f"no token of level {level!r} receives anything from another modality: raise "
            f"`budget_scale` ({self.budget_scale}) or lower `gate_threshold_init` ({self.gate_threshold_init})."
            for level in self.levels
        }
        if self.use_budget_projection and self.budget_learnable:  # a frozen one that never binds misses nothing
            meanings |= {
                f"budget_tight_{level}": f"the token budget of level {level!r} never binds, so it gets no gradient: lower "
                f"`budget_init` ({self.budget_init}) or `budget_scale` ({self.budget_scale}), or set `budget_penalty` > 0."
                for level in self.levels
            }
        return meanings

    def backbone_level(self, modality: str, level: int) -> int:
        """Level of the modality's backbone that stands at `level`."""
        return level if self.level_order is None else self.level_order.get(modality, range(3))[level]

    def initial_budgets(self) -> tuple[float, ...]:
        """ρ₀ for every entry of `levels`."""
        if isinstance(self.budget_init, (tuple, list)):
            return tuple(self.budget_init)
        return (float(self.budget_init),) * len(self.levels)

    # ---- rules ---------------------------------------------------------------------------------------------------

    def validate_modality_configs(self) -> None:
        for name, settings in self.modality_configs.items():
            if name not in self.modalities:
                raise ValueError(f"`modality_configs` describes {name!r}, which `modalities` {self.modalities} lacks.")
            unknown = set(settings) - _MODALITY_KEYS
            if unknown:
                raise ValueError(
                    f"`modality_configs[{name!r}]` has the keys {sorted(unknown)}: it takes {sorted(_MODALITY_KEYS)}."
                )
            backbone = settings.get("backbone")
            if backbone not in _BACKBONES:
                raise ValueError(f"`modality_configs[{name!r}]` has backbone {backbone!r}: choose one of {_BACKBONES}.")
            if (backbone == "text") != (name == "text"):
                raise ValueError(
                    f"`modality_configs[{name!r}]` has backbone {backbone!r}: the backbone `text` reads `input_ids` and is "
                    "that of the modality `text` alone; give word features a name of their own, such as `lexical`."
                )
            if backbone != "text":
                self._check_feature_size(name, backbone, settings.get("feature_size"))
        if "text" not in self.modalities and self.text_config is not None:
            raise ValueError(
                f"`text_config` is given but `modalities` {self.modalities} has no text: drop one of the two."
            )

    @staticmethod
    def _check_feature_size(name: str, backbone: str, size: Any) -> None:
        lists_allowed = backbone in ("resnet18", "identity")
        fine = isinstance(size, int) or (lists_allowed and isinstance(size, list) and len(size) == 3)
        if not fine or min(size if isinstance(size, list) else [size]) < 1:
            wanted = {
                "resnet18": "a width, or [channels, height, width]",
                "identity": "a width, or one for each of three levels",
            }
            raise ValueError(
                f"`modality_configs[{name!r}]` has `feature_size` {size!r}: backbone {backbone!r} needs "
                f"{wanted.get(backbone, 'a positive width')}."
            )
        if backbone == "identity" and not isinstance(size, list):
            raise ValueError(
                f"`modality_configs[{name!r}]`: `identity` needs `feature_size` [shallow, mid, deep] widths."
            )

    def validate_levels(self) -> None:
        if not self.levels or list(self.levels) != [name for name in LEVELS if name in self.levels]:
            raise ValueError(f"`levels` is {list(self.levels)}: name some of {list(LEVELS)}, in this order, each once.")
        for name, order in (self.level_order or {}).items():
            if name not in self.modalities or sorted(order) != [0, 1, 2]:
                raise ValueError(
                    f"`level_order` has {name!r}: {list(order)}: give a permutation of 0, 1, 2 for one of "
                    f"{list(self.modalities)}."
                )
        if "text" in self.modalities and self.text_config is not None:
            depth, layers = self.text_config.num_hidden_layers, self.text_layers
            if len(layers) != 3 or not all(0 <= layer <= depth for layer in layers):
                raise ValueError(
                    f"`text_level_layers` is {layers}: need 3 indices in 0 … {depth}, the encoder's depth."
                )

    def validate_widths(self) -> None:
        if self.hidden_size % 2:
            raise ValueError(f"`hidden_size` is {self.hidden_size}: it must be even.")
        if self.shared_width < 1 or self.private_width < 1 or self.shared_width + self.private_width > self.hidden_size:
            raise ValueError(
                f"`shared_size` {self.shared_width} and `private_size` {self.private_width} must be positive and together at "
                f"most `hidden_size` {self.hidden_size}: orthogonal subspaces need room."
            )
        if self.shared_width % self.exchange_heads:
            raise ValueError(
                f"`exchange_heads` {self.exchange_heads} does not divide `shared_size` {self.shared_width}."
            )
        if self.exchange_max_sources is not None and self.exchange_max_sources < 1:
            raise ValueError(
                f"`exchange_max_sources` is {self.exchange_max_sources}: at least 1, or None for all tokens."
            )
        if self.inter_stat_rank is not None and not 1 <= self.inter_stat_rank <= self.hidden_size:
            raise ValueError(f"`inter_stat_rank` is {self.inter_stat_rank}: need 1 … `hidden_size` {self.hidden_size}.")
        if len(self.tcn_dilations) != 3 or self.tcn_kernel_size % 2 == 0:
            raise ValueError(
                f"`tcn_dilations` {list(self.tcn_dilations)} must be three, and `tcn_kernel_size` {self.tcn_kernel_size} odd."
            )

    def validate_budgets(self) -> None:
        budgets = self.initial_budgets()
        if len(budgets) != len(self.levels) or not all(0 < value < 1 for value in budgets):
            raise ValueError(
                f"`budget_init` is {self.budget_init}: shares between 0 and 1, one or one for each of {list(self.levels)}."
            )
        if self.budget_scale < 0 or self.gate_scale_init <= 0:
            raise ValueError(
                f"`budget_scale` {self.budget_scale} must not be negative, `gate_scale_init` {self.gate_scale_init} positive."
            )

    def validate_loss_weights(self) -> None:
        for name in ("intra_loss_weight", "inter_loss_weight", "intra_separation", "budget_penalty"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}: it must not be negative.")
        # Appendix B varies one and keeps the others, so they need not sum to 1.
        if len(self.inter_weights) != 3 or min(self.inter_weights) < 0:
            raise ValueError(f"`inter_weights` is {list(self.inter_weights)}: three, none of them negative, Eq. (12).")
        if self.whitening_eps <= 0 or self.stat_segments < 1:
            raise ValueError(
                f"`whitening_eps` {self.whitening_eps} must be positive and `stat_segments` {self.stat_segments} at least 1."
            )
        # The condition of a covariance of r columns is at most r/eps; beyond 1e6 its factor in float32 is noise or infinite.
        rank = max(
            self.shared_width,
            self.private_width,
            self.hidden_size if self.inter_stat_rank is None else self.inter_stat_rank,
        )
        if self.whitening_eps < 1e-6 * rank:
            raise ValueError(
                f"`whitening_eps` is {self.whitening_eps}: covariances of {rank} columns need at least {1e-6 * rank:g} in "
                "float32; raise it, or lower `shared_size`, `private_size` or `inter_stat_rank`."
            )
