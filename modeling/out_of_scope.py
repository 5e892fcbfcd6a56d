"""Out of scope: when a classifier's answer is "none of these"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

METHODS = ("max_softmax", "energy", "prototype", "doc", "class")


@dataclass(frozen=True)
class OutOfScope:
    """
    The rule by which a classifier rejects what belongs to none of its classes; `config.out_of_scope` holds its fields.

    A sample is in scope when its margin is at least 0 (above 0 for `doc` and `class`), with z the K logits:

    - `max_softmax` (Hendrycks & Gimpel, 2017): max softmax(z / T) − threshold.
    - `energy` (Liu et al., 2020): T · logsumexp(z / T) − threshold, the negative free energy.
    - `prototype`: the largest cosine of the embedding with a class's mean embedding − threshold.
    - `doc` (Shu et al., 2017, as MIntRec2.0 applies it): max σ(z) − the threshold of the class where it is.
    - `class`: the model has a class for it, which is named by `label`; nothing is thresholded.

    Args:
        method: one of `METHODS`.
        label: what a rejected sample is called.
        threshold: of the score; of all methods but `doc` and `class`.
        thresholds: one per class, for `doc`.
        temperature: T > 0 of `max_softmax` and `energy`.
        prototypes: (K, d) mean embeddings of the classes, unit length, for `prototype`.
        fitted: where the numbers come from, for the reader; not read.

    Raises:
        ValueError: a field is unknown, missing, of another method, or has an impossible value.
    """

    method: str
    label: str = "UNK"
    threshold: float | None = None
    thresholds: tuple[float, ...] | None = None
    temperature: float = 1.0
    prototypes: tuple[tuple[float, ...], ...] | None = None
    fitted: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"`out_of_scope` has the method {self.method!r}: choose one of {list(METHODS)}.")
        needs = {"doc": {"thresholds"}, "class": set(), "prototype": {"threshold", "prototypes"}}
        wanted = needs.get(self.method, {"threshold"})
        given = {name for name in ("threshold", "thresholds", "prototypes") if getattr(self, name) is not None}
        if given != wanted:
            raise ValueError(
                f"`out_of_scope` with the method {self.method!r} takes {sorted(wanted)}, but {sorted(given)} is given: fit it "
                "anew with `examples/fit_out_of_scope.py`."
            )
        if not self.temperature > 0:
            raise ValueError(f"`out_of_scope` has the temperature {self.temperature}: choose a positive one.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OutOfScope:
        """From what a config holds."""
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown or "method" not in values:
            raise ValueError(f"`out_of_scope` holds {sorted(values)}: it has `method` and some of {known[1:]}.")
        return cls(**values)

    @classmethod
    def of(cls, config: Any) -> OutOfScope | None:
        """The rule of a model's config, if it has one."""
        values = getattr(config, "out_of_scope", None)
        return None if values is None else cls.from_dict(values)

    def check(self, id2label: Mapping[int, str]) -> None:
        """
        Raises:
            ValueError: the rule does not fit the classes of the model.
        """
        count = len(id2label)
        for name in ("thresholds", "prototypes"):
            values = getattr(self, name)
            if values is not None and len(values) != count:
                raise ValueError(
                    f"`out_of_scope` has {len(values)} {name} but the model has {count} classes: fit it anew."
                )
        if (self.label in id2label.values()) != (self.method == "class"):
            rule = "must be one of the classes" if self.method == "class" else "must be none of the classes"
            raise ValueError(f"`out_of_scope` has the label {self.label!r}, which {rule} {list(id2label.values())}.")
        if self.method == "class" and id2label[count - 1] != self.label:
            raise ValueError(
                f"`out_of_scope`: {self.label!r} must be the last class, but that is {id2label[count - 1]!r}."
            )

    def scores(self, logits: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """
        How much samples look like the known classes, high for in scope.

        Args:
            logits: (n, K).
            embeddings: (n, d), for `prototype`.

        Returns:
            (n,) float32.
        """
        values = logits.float()
        if self.method == "prototype":
            if embeddings is None:
                raise ValueError("`out_of_scope` compares with prototypes: pass `embeddings` beside `logits`.")
            means = torch.tensor(self.prototypes, dtype=torch.float32, device=embeddings.device)
            if embeddings.shape[-1] != means.shape[-1]:
                raise ValueError(
                    f"`out_of_scope` has prototypes of width {means.shape[-1]} but embeddings have {embeddings.shape[-1]}: fit "
                    "it anew."
                )
            return (F.normalize(embeddings.float(), dim=-1) @ F.normalize(means, dim=-1).T).amax(-1)
        if self.method == "energy":
            return self.temperature * torch.logsumexp(values / self.temperature, -1)
        if self.method == "doc":
            return values.sigmoid().amax(-1)
        if self.method == "class":
            return values.softmax(-1)[..., :-1].amax(-1)
        return (values / self.temperature).softmax(-1).amax(-1)

    def margins(self, logits: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Scores less the thresholds that apply to them, (n,)."""
        scores = self.scores(logits, embeddings)
        if self.method == "class":
            return scores - logits.float().softmax(-1)[..., -1]
        if self.method == "doc":
            return scores - torch.tensor(self.thresholds, device=scores.device)[logits.argmax(-1)]
        return scores - torch.tensor(self.threshold, dtype=torch.float32, device=scores.device)

    def accepts(self, margins: Tensor) -> Tensor:
        """Which margins stand for samples in scope, (n,) bool."""
        return margins > 0 if self.method in ("doc", "class") else margins >= 0
