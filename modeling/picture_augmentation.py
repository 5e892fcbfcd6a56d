"""Random crops and mirror images of training pictures, alike for all pictures of a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ASPECT = (3 / 4, 4 / 3)  # width to height of a crop, as the image networks of the field were trained


def random_mirror(pictures: Tensor) -> Tensor:
    """(B, T, C, H, W), every second sample, on average, mirrored."""
    turned = (torch.rand(len(pictures)) < 0.5).to(pictures.device)
    return torch.where(turned[:, None, None, None, None], pictures.flip(-1), pictures)


def random_crop(pictures: Tensor, area: Sequence[float]) -> Tensor:
    """
    A part of the pictures at their old size; one part per sample.

    Args:
        pictures: (B, T, C, H, W) float.
        area: smallest and largest part of the area, 0 < smallest <= largest <= 1.

    Returns:
        (B, T, C, H, W). The part is drawn by area (uniform), proportions (3:4 to 4:3, uniform in their logarithm, then cut to
        the picture) and place (uniform), from the generator of the CPU.
    """
    height, breadth = pictures.shape[-2:]
    cut = []
    for sample in pictures:
        draws = torch.rand(4).tolist()
        share = area[0] + draws[0] * (area[1] - area[0])
        low, high = (math.log(bound) for bound in _ASPECT)
        stretch = math.exp((low + draws[1] * (high - low)) / 2)
        rows = min(max(round(height * math.sqrt(share) / stretch), 1), height)
        columns = min(max(round(breadth * math.sqrt(share) * stretch), 1), breadth)
        top, left = int(draws[2] * (height - rows + 1)), int(draws[3] * (breadth - columns + 1))
        part = sample[..., top : top + rows, left : left + columns].float()
        cut.append(
            nn.functional.interpolate(part, (height, breadth), mode="bilinear", align_corners=False, antialias=True)
        )
    return torch.stack(cut).to(pictures.dtype)
