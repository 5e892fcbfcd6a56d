"""Losses shared by the architectures. All contrastive terms run in float32, whatever the autocast dtype."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist

from .layers import values_are_at_hand


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """
    Rows of all processes, with gradient, padded with zeros where a process has fewer.

    Args:
        rows: (n, ...) of this process; n may differ between processes.

    Returns:
        (world · n_max, ...) and the offset of this process's first row.
    """
    if world_size() == 1:
        return rows, 0
    count = torch.tensor([rows.shape[0]], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    longest = int(torch.stack(counts).max())
    padding = rows.new_zeros(longest - rows.shape[0], *rows.shape[1:])
    padded = torch.cat([rows, padding])
    # Gathering with gradient communicates in the backward pass too. Whether it does may not depend on this process's rows
    # (an absent view has none with gradient): the others would wait for it forever.
    if padded.is_floating_point() and torch.is_grad_enabled():
        from torch.distributed.nn.functional import all_gather

        if not padded.requires_grad:
            padded.requires_grad_()
        parts = all_gather(padded)
        for part in parts:
            # Its backward pass sends memory as it lies: the gradient of a transposed view would arrive in another order.
            part.register_hook(torch.Tensor.contiguous)
        gathered = torch.cat(parts)
    else:
        parts = [torch.zeros_like(padded) for _ in range(world_size())]
        dist.all_gather(parts, padded)
        gathered = torch.cat(parts)
    return gathered, dist.get_rank() * longest


def global_mean(values: Tensor, valid: Tensor, gather: bool) -> Tensor:
    """
    Mean of `values` over the valid rows.

    With `gather` the mean of all processes' rows, scaled such that the average over processes (which is what data-parallel
    training takes of losses and gradients) is the mean over the whole batch.
    """
    total = values.masked_fill(~valid, 0.0).sum()
    count = valid.sum().to(total.dtype)
    if gather and world_size() > 1:
        dist.all_reduce(count)
        total = total * world_size()
    return total / count.clamp(min=1.0)


def mean_over_present(losses: list[Tensor], valid: list[Tensor], gather: bool) -> Tensor:
    """
    Mean of the losses of several views, without those of which no row counts; with `gather`, in any process.

    Args:
        losses: () each, 0 where no row counts.
        valid: (B,) bool each.
    """
    counts = torch.stack([rows.sum() for rows in valid])
    if gather and world_size() > 1:
        dist.all_reduce(counts)
    return torch.stack(losses).sum() / (counts > 0).sum().clamp(min=1)


def clear_rows(rows: Tensor, valid: Tensor) -> Tensor:
    """Zero the rows (N, d) that do not count, whatever they hold."""
    return rows.masked_fill(~valid[:, None], 0.0)


def without_autocast(rows: Tensor) -> torch.autocast:
    """Products inside keep the dtype of their factors: autocast would compute the cosines in half precision."""
    return torch.autocast(rows.device.type, enabled=False)


def info_nce(
    anchors: Tensor,
    views: Tensor,
    valid: Tensor,
    temperature: float,
    labels: Tensor | None = None,
    gather: bool = False,
) -> Tensor:
    """
    InfoNCE from each anchor to the views of all samples, the positive being its own.

    `mean_i −log( exp(cos(a_i, v_i)/τ) / Σ_j exp(cos(a_i, v_j)/τ) )`, j over all valid samples including i.

    Args:
        anchors, views: (B, d).
        valid: (B,) bool, rows and columns that take part.
        temperature: τ.
        labels: (B,) long; when given, other samples of the same class are no negatives.
        gather: columns from all processes.

    Returns:
        () float32; 0 when at most one row is valid.
    """
    # Cleared before anything is multiplied: 0 · NaN would enter the gradients of the rows that count.
    anchors, views = (
        nn.functional.normalize(clear_rows(rows.float(), valid), dim=-1, eps=1e-8) for rows in (anchors, views)
    )
    columns, column_valid, column_labels, offset = views, valid, labels, 0
    if gather:
        columns, offset = gather_rows(views)
        column_valid = gather_rows(valid.long())[0] > 0
        column_labels = gather_rows(labels)[0] if labels is not None else None
    with without_autocast(anchors):
        logits = anchors @ columns.T / temperature  # (B, B·world)
    target = torch.arange(len(anchors), device=anchors.device) + offset
    keep = column_valid[None].expand_as(logits)
    if labels is not None and column_labels is not None:
        own = torch.zeros_like(keep).scatter(1, target[:, None], True)
        keep = keep & ((labels[:, None] != column_labels[None]) | own)
    # A row that does not count keeps its own column, so that its softmax is finite; its value is dropped below.
    keep = keep | torch.zeros_like(keep).scatter(1, target[:, None], True)
    logits = logits.masked_fill(~keep, float("-inf"))
    return global_mean(nn.functional.cross_entropy(logits, target, reduction="none"), valid, gather)


def class_means(rows: Tensor, classes: Tensor, valid: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """
    Mean row of each class.

    Args:
        rows: (N, d).
        classes: (N,) long; entries of invalid rows are not read.
        valid: (N,) bool.

    Returns:
        means (num_classes, d), zeros for classes without a row, and counts (num_classes,).
    """
    index = classes.masked_fill(~valid, 0)
    weight = valid.to(rows.dtype)
    sums = rows.new_zeros(num_classes, rows.shape[1]).index_add(0, index, clear_rows(rows, valid))
    counts = rows.new_zeros(num_classes).index_add(0, index, weight)
    return sums / counts.clamp(min=1.0)[:, None], counts


def samples_per_class(classes: Tensor, valid: Tensor, num_classes: int, gather: bool = False) -> Tensor:
    """
    Mean number of samples of the classes that are there: how much a prototype of this batch averages.

    Args:
        classes: (B,) long; entries of invalid rows are not read.
        valid: (B,) bool.
        num_classes: C.
        gather: of all processes.

    Returns:
        () float32; 0 when no row counts.
    """
    counts = torch.zeros(num_classes, device=classes.device)
    counts = counts.index_add(0, classes.masked_fill(~valid, 0), valid.float())
    if gather and world_size() > 1:
        dist.all_reduce(counts)
    return counts.sum() / (counts > 0).sum().clamp(min=1)


def prototype_loss(
    rows: Tensor,
    classes: Tensor,
    valid: Tensor,
    num_classes: int,
    temperature: float,
    normalize_instances: bool = False,
    stop_gradient: bool = False,
    gather: bool = False,
) -> Tensor:
    """
    Pull every row to the prototype of its class, computed in the batch.

    `r_c = normalize(mean_{i: y_i = c} h_i)`, `mean_i −log softmax_c(cos(h_i, r_c)/τ)[y_i]` over the classes that are there.

    Args:
        rows: (N, d), all views of all samples.
        classes: (N,) long.
        valid: (N,) bool.
        num_classes: C.
        temperature: τ.
        normalize_instances: average unit vectors in place of raw ones.
        stop_gradient: no gradient into the prototypes.
        gather: prototypes from the rows of all processes.

    Returns:
        () float32.
    """
    rows = clear_rows(rows.float(), valid)
    unit = nn.functional.normalize(rows, dim=-1, eps=1e-8)
    members = unit if normalize_instances else rows
    member_classes, member_valid = classes.masked_fill(~valid, 0), valid
    if gather:
        members, _ = gather_rows(members)
        member_classes, _ = gather_rows(member_classes)
        member_valid = gather_rows(valid.long())[0] > 0
    means, counts = class_means(members, member_classes, member_valid, num_classes)
    prototypes = nn.functional.normalize(means, dim=-1, eps=1e-8)
    if stop_gradient:
        prototypes = prototypes.detach()
    with without_autocast(unit):
        logits = (unit @ prototypes.T / temperature).masked_fill(counts[None] == 0, float("-inf"))
    target = classes.masked_fill(~valid, 0)
    # A row that does not count may point at an absent class: give it a finite row, its value is dropped below.
    logits = logits.masked_fill(~valid[:, None], 0.0)
    return global_mean(nn.functional.cross_entropy(logits, target, reduction="none"), valid, gather)


def check_classes(logits: Tensor, labels: Tensor) -> None:
    """
    Check class labels; their values only where looking costs nothing.

    Raises:
        ValueError: labels are no integers, not one per sample, or no class of the model.
    """
    count, classes = logits.shape
    if labels.dtype.is_floating_point or tuple(labels.shape) != (count,):
        raise ValueError(
            f"`labels` has shape {tuple(labels.shape)} and dtype {labels.dtype}: expected one class id per sample, shape "
            f"({count},), integers."
        )
    if values_are_at_hand(labels):
        outside = (labels != -100) & ((labels < 0) | (labels >= classes))
        if outside.any():
            row = int(outside.nonzero()[0])
            raise ValueError(
                f"`labels` of sample {row} is {int(labels[row])} but `config.num_labels` is {classes}: class ids are 0 to "
                f"{classes - 1}, and -100 for a sample without label."
            )


def task_loss(
    logits: Tensor,
    labels: Tensor,
    problem_type: str,
    regression_loss: str = "l1",
    class_weight: Tensor | None = None,
) -> Tensor:
    """
    Loss of the task itself: cross-entropy (labels −100 ignored), binary cross-entropy, L1 or squared error.

    Args:
        logits: (B, num_labels).
        labels: (B,) long, (B,) float in regression, (B, num_labels) for several labels.

    Raises:
        ValueError: class labels that are none, see [`check_classes`].
    """
    logits = logits.float()
    if problem_type == "regression":
        difference = nn.functional.l1_loss if regression_loss == "l1" else nn.functional.mse_loss
        return difference(logits.squeeze(-1), labels.to(logits.dtype))
    if problem_type == "multi_label_classification":
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    check_classes(logits, labels)
    labels = labels.long()
    total = nn.functional.cross_entropy(logits, labels, weight=class_weight, ignore_index=-100, reduction="sum")
    known = labels != -100
    weights = known.to(logits.dtype) if class_weight is None else class_weight[labels.masked_fill(~known, 0)] * known
    return total / weights.sum().clamp(min=torch.finfo(logits.dtype).tiny)  # 0, not NaN, when every label is ignored


def soft_target_loss(logits: Tensor, target: Tensor, known: Tensor, class_weight: Tensor | None = None) -> Tensor:
    """
    Mean over the known rows of the cross-entropy with target distributions; class weights enter both sums.

    Args:
        logits: (B, C).
        target: (B, C), rows sum to 1.
        known: (B,) bool, rows that count.
        class_weight: (C,).

    Returns:
        () float32; 0 when no row counts.
    """
    per_class = target if class_weight is None else target * class_weight
    per_class = per_class * known[:, None]
    total = -(logits.float().log_softmax(-1) * per_class).sum()
    return total / per_class.sum().clamp(min=torch.finfo(torch.float32).tiny)
