"""Checks of what a caller passes for each modality, done once and the same for every architecture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .layers import clear_padding, values_are_at_hand


@dataclass
class ModalityInput:
    """One modality of a batch: `states` (B, T, D) or ids (B, T), `mask` (B, T) bool, `present` (B,) bool."""

    states: Tensor
    mask: Tensor

    @property
    def present(self) -> Tensor:
        return self.mask.any(1)


def as_bool_mask(name: str, mask: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
    """
    The mask as bool; all valid when `None`.

    Raises:
        ValueError: the mask does not have one entry for every step; a mask of another length would be misread silently.
    """
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(
            f"`{name}_attention_mask` has shape {tuple(mask.shape)} but the {name} input has {shape[0]} samples of "
            f"{shape[1]} steps: pass a mask of shape {tuple(shape)}, or `None` if all steps are valid."
        )
    return mask.to(torch.bool)


def check_right_padded(name: str, mask: Tensor) -> None:
    """
    Check that padding lies behind the valid steps, for models that read them in order; where looking costs nothing.

    Args:
        name: of the modality.
        mask: (B, T) bool.

    Raises:
        ValueError: a valid step follows a padded one.
    """
    if values_are_at_hand(mask) and bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        row = int((mask[:, 1:] & ~mask[:, :-1]).any(1).nonzero()[0])
        field = "attention_mask" if name == "text" else f"{name}_attention_mask"
        raise ValueError(
            f"`{field}` of sample {row} has valid steps behind padded ones: pad on the right, and cut steps out of the "
            f"{name} itself instead of masking them."
        )


def check_finite(name: str, states: Tensor) -> None:
    """
    Check cleared features (B, T, ...), where looking costs nothing: NaN would come out as NaN for every class.

    Raises:
        ValueError: a valid step holds NaN or an infinite value.
    """
    # One sum tells; only when it is odd, which large numbers can cause as well, every value is looked at.
    if not values_are_at_hand(states) or math.isfinite(states.detach().sum().item()):
        return
    bad = ~torch.isfinite(states)
    if bad.any():
        row = int(bad.flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f"`{name}_features` of sample {row} hold {int(bad[row].sum())} NaN or infinite values: repair them, replace "
            f"them by 0, or mask the sample's {name} out."
        )


def check_beside_text(inputs: dict[str, Tensor | None], shape: tuple[int, int]) -> None:
    """
    Check the inputs that go position by position with the text.

    Args:
        inputs: by name.
        shape: of `input_ids`, or of what stands for missing texts.

    Raises:
        ValueError: one of them has another shape.
    """
    for name, value in inputs.items():
        if value is not None and tuple(value.shape) != tuple(shape):
            raise ValueError(
                f"`{name}` has shape {tuple(value.shape)} but the text has shape {tuple(shape)}: they describe the same "
                "positions, make both with the processor."
            )


def check_rows(inputs: dict[str, Tensor | None], rows: int) -> None:
    """
    Check the inputs that have one row, or one number, per sample.

    Args:
        inputs: by name.
        rows: samples of `input_ids`.

    Raises:
        ValueError: one of them has another number of rows.
    """
    for name, value in inputs.items():
        if value is not None and (value.dim() == 0 or value.shape[0] != rows):
            raise ValueError(
                f"`{name}` has shape {tuple(value.shape)} but `input_ids` has {rows} samples: they describe the same samples."
            )


def feature_input(
    name: str, features: Tensor | None, mask: Tensor | None, width: int, dtype: torch.dtype
) -> ModalityInput | None:
    """
    Check and clean `<name>_features`.

    Args:
        name: modality, for the error messages.
        features: (B, T, D) float, or `None` when no sample of the batch has the modality.
        mask: (B, T), or `None` when all steps are valid.
        width: the D that the config declares.
        dtype: dtype of the model, which stored features need not share.

    Raises:
        ValueError: wrong number of dimensions, wrong width, no steps, a mask that does not fit, or (on CPU, where looking
            costs nothing) NaN or infinite values in valid steps.
    """
    if features is None:
        if mask is not None:
            raise ValueError(f"`{name}_attention_mask` is given without `{name}_features`: pass both or neither.")
        return None
    if features.dim() != 3:
        raise ValueError(
            f"`{name}_features` has shape {tuple(features.shape)}: expected (batch_size, steps, {width}). "
            f"A single vector per sample is one step: unsqueeze dimension 1."
        )
    if features.shape[2] != width:
        raise ValueError(
            f"`{name}_features` has width {features.shape[2]} but `config.{name}_feature_size` is {width}: "
            f"extract the features that the checkpoint was trained on, or train with `{name}_feature_size="
            f"{features.shape[2]}`."
        )
    if features.shape[1] == 0:
        raise ValueError(f"`{name}_features` has no steps: pass `None` when no sample of the batch has {name}.")
    bool_mask = as_bool_mask(name, mask, (features.shape[0], features.shape[1]), features.device)
    states = clear_padding(features, bool_mask).to(dtype)
    check_finite(name, states)
    return ModalityInput(states, bool_mask)


def check_batch_sizes(inputs: dict[str, ModalityInput | None]) -> int:
    """
    The one batch size of all modalities that are there.

    Raises:
        ValueError: no modality is given at all, or two of them disagree.
    """
    sizes = {name: item.states.shape[0] for name, item in inputs.items() if item is not None}
    if not sizes:
        names = ", ".join(f"`{name}`" for name in inputs)
        raise ValueError(f"all modalities are missing: give at least one of {names}.")
    first = next(iter(sizes.values()))
    if any(size != first for size in sizes.values()):  # no set: an exporter's symbolic sizes cannot be hashed
        raise ValueError(f"the modalities have different batch sizes {sizes}: they must describe the same samples.")
    return first
