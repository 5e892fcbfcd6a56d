"""Class prototypes per modality and the labels that follow from the distances to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist

from .losses import gather_rows, world_size


def structure_classes(values: Tensor, bins: str | Sequence[float]) -> Tensor:
    """
    Class of a regression target.

    Args:
        values: (...) float.
        bins: "sign" (below, at, above 0), "round7" (rounded half to even, clipped to −3…3), or sorted edges, of which a
            value belongs above those that it exceeds.

    Returns:
        (...) long.
    """
    if isinstance(bins, str) and bins == "sign":
        return values.sign().long() + 1
    if isinstance(bins, str):
        return values.clamp(-3, 3).round().long() + 3
    return torch.bucketize(values, torch.tensor(list(bins), device=values.device, dtype=values.dtype))


class ClassSums:
    """
    Sums and counts per modality and class over many batches, in float64, and over all processes.

    Args:
        modalities, classes, width: M, C, d.
        device: of the sums.
    """

    def __init__(self, modalities: int, classes: int, width: int, device: torch.device) -> None:
        # Devices without float64 add in float32.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(modalities, classes, width, dtype=dtype, device=device)
        self.counts = torch.zeros(modalities, classes, dtype=torch.long, device=device)
        self.values = torch.zeros(classes, dtype=dtype, device=device)
        self.samples = torch.zeros(classes, dtype=torch.long, device=device)

    def add(self, rows: Tensor, assigned: Tensor, present: Tensor, classes: Tensor, values: Tensor) -> None:
        """
        Args:
            rows: (B, M, d).
            assigned: (B, M) long, class whose prototype the row enters.
            present: (B, M) bool, rows that enter one.
            classes: (B,) long, true class, −1 where unknown.
            values: (B,) float, target of a regression.
        """
        for index in range(rows.shape[1]):
            chosen = present[:, index]
            self.sums[index].index_add_(0, assigned[chosen, index], rows[chosen, index].to(self.sums.dtype))
            self.counts[index] += torch.bincount(assigned[chosen, index], minlength=self.counts.shape[1])
        known = classes >= 0
        self.values.index_add_(0, classes[known], values[known].to(self.values.dtype))
        self.samples += torch.bincount(classes[known], minlength=len(self.samples))

    def reduce(self) -> ClassSums:
        """Add up what all processes have."""
        if world_size() > 1:
            for tensor in (self.sums, self.counts, self.values, self.samples):
                dist.all_reduce(tensor)
        return self


class FeatureBank:
    """
    The last seen features of every training sample, for prototypes that follow every step.

    Not part of the weights. The checkpoints of a run hold it beside them ([`state`]): its rows are of many steps, which no pass
    over the training rows would bring back.

    Args:
        modalities, width: M, d.
    """

    names = ("rows", "present", "classes", "values")

    def __init__(self, modalities: int, width: int, device: torch.device) -> None:
        self.rows = torch.zeros(0, modalities, width, device=device)
        self.present = torch.zeros(0, modalities, dtype=torch.bool, device=device)
        self.classes = torch.zeros(0, dtype=torch.long, device=device)
        self.values = torch.zeros(0, device=device)

    def state(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {name: getattr(self, name) for name in self.names}

    def load(self, state: Mapping[str, Tensor]) -> FeatureBank:
        """Take what [`state`] gave."""
        for name in self.names:
            setattr(self, name, state[name].to(self.rows.device))
        return self

    def fill(self, batches: Sequence[tuple[Tensor, ...]]) -> None:
        """[`store`] all batches of a pass; processes need not have the same number of them."""
        none = (self.classes[:0], self.rows[:0], self.present[:0], self.classes[:0], self.values[:0])
        self.store(*(torch.cat(parts) for parts in zip(none, *batches, strict=True)))

    def store(self, index: Tensor, rows: Tensor, present: Tensor, classes: Tensor, values: Tensor) -> None:
        """Keep the rows (B, M, d) of the samples `index` (B,) of all processes, so that all banks are equal."""
        parts = [index + 1, rows.float(), present.long(), classes, values.float()]
        if world_size() > 1:
            parts = [gather_rows(part.contiguous())[0] for part in parts]
        there = parts[0] > 0  # gathering pads with zeros
        index, rows, marks, classes, values = (part[there] for part in parts)
        index, missing = index - 1, int(parts[0].max()) - len(self.rows)
        if missing > 0:
            self.rows = torch.cat([self.rows, self.rows.new_zeros(missing, *self.rows.shape[1:])])
            self.present = torch.cat([self.present, self.present.new_zeros(missing, self.present.shape[1])])
            self.classes = torch.cat([self.classes, self.classes.new_full((missing,), -1)])
            self.values = torch.cat([self.values, self.values.new_zeros(missing)])
        self.rows[index], self.present[index] = rows, marks > 0
        self.classes[index], self.values[index] = classes, values


class PrototypeLabels(nn.Module):
    """
    Prototypes of every class in every modality, Eq. (4), and the labels they give, Eq. (5).

    Labels are targets: nothing here has a gradient. Buffers are part of the checkpoint.

    Args:
        modalities, classes, width: M, C, d.
        temperature: of the soft labels.
        shrinkage: κ in `(n_k c_k + κ c̄) / (n_k + κ)`.
        values: C, what each class stands for until it is measured.
    """

    prototypes: Tensor
    prototype_counts: Tensor
    bin_values: Tensor
    class_counts: Tensor
    epochs_started: Tensor

    def __init__(
        self,
        modalities: int,
        classes: int,
        width: int,
        temperature: float,
        shrinkage: float,
        values: Sequence[float],
    ) -> None:
        super().__init__()
        self.temperature, self.shrinkage, self.default_values = temperature, shrinkage, list(values)
        self.register_buffer("prototypes", torch.zeros(modalities, classes, width))
        self.register_buffer("prototype_counts", torch.zeros(modalities, classes, dtype=torch.long))
        self.register_buffer("bin_values", torch.tensor(self.default_values))
        self.register_buffer("class_counts", torch.zeros(classes, dtype=torch.long))
        self.register_buffer("epochs_started", torch.zeros((), dtype=torch.long))

    @property
    def ready(self) -> Tensor:
        """(M,) bool, modalities with at least one prototype."""
        return self.prototype_counts.any(1)

    @torch.no_grad()
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            features: (B, M, d).

        Returns:
            Soft labels (B, M, C) float32, uniform in a modality without any prototype, and hard labels (B, M) long.
        """
        distance = (features.detach().float()[:, :, None] - self.prototypes.float()[None]).norm(dim=-1)  # (B, M, C)
        unseen = (self.prototype_counts == 0) & self.ready[:, None]
        distance = distance.masked_fill(~self.ready[:, None], 0.0).masked_fill(unseen, float("inf"))
        return torch.softmax(-distance / self.temperature, -1), distance.argmin(-1)

    @torch.no_grad()
    def set_from(self, found: ClassSums) -> None:
        """Take the class means; a class without samples keeps the prototype it had."""
        counts = found.counts[..., None].to(found.sums.dtype)  # (M, C, 1)
        overall = found.sums.sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp(min=1)  # (M, 1, d)
        means = (found.sums + self.shrinkage * overall) / (counts + self.shrinkage).clamp(min=1)
        seen = found.counts > 0
        self.prototypes.copy_(torch.where(seen[..., None], means.to(self.prototypes.dtype), self.prototypes))
        self.prototype_counts.copy_(torch.where(seen, found.counts, self.prototype_counts))
        measured = found.samples > 0
        values = (found.values / found.samples.clamp(min=1)).to(self.bin_values.dtype)
        self.bin_values.copy_(torch.where(measured, values, self.bin_values))
        self.class_counts.copy_(torch.where(measured, found.samples, self.class_counts))

    def class_weight(self) -> Tensor | None:
        """(C,) weights n̄ / n_k, 1 on average over the samples; `None` before anything was counted."""
        counts = self.class_counts.float()
        if not counts.any():
            return None
        seen = counts > 0
        return torch.where(seen, counts.sum() / (seen.sum() * counts.clamp(min=1)), torch.ones_like(counts))
