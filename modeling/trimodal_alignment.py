"""Alignment of text, audio and video by symmetric InfoNCE over the three pairs (TCA in the overview figure of XMEI-Qwen)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

SIDES = ("text", "audio", "video")


def symmetric_info_nce(first: Tensor, second: Tensor, same: Tensor, temperature: float) -> Tensor:
    """
    Mean of both directions of InfoNCE.

    Args:
        first, second: unit vectors (n, d), row i of both from sample i.
        same: (n, n) bool, pairs of samples that are not negatives of each other; the diagonal is ignored.
        temperature: τ.

    Returns:
        −½ Σ_i [ log p(second_i | first_i) + log p(first_i | second_i) ] / n; 0 for no sample.
    """
    if not len(first):
        return first.new_zeros(())
    scores = first @ second.T / temperature  # (n, n)
    diagonal = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    scores = scores.masked_fill(same & ~diagonal, float("-inf"))
    return -0.5 * (scores.log_softmax(1).diagonal() + scores.log_softmax(0).diagonal()).mean()


class TrimodalAlignment(nn.Module):
    """
    Projects one vector per modality to a common space and pulls those of a sample together.

    Args:
        text_size: width of the text encoder.
        media_size: width of audio and video tokens.
        dim: of the common space.
        temperature: τ.
    """

    def __init__(self, text_size: int, media_size: int, dim: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.text = nn.Linear(text_size, dim)
        self.audio = nn.Linear(media_size, dim)
        self.video = nn.Linear(media_size, dim)

    def forward(self, vectors: dict[str, tuple[Tensor, Tensor]], ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """
        Args:
            vectors: per side of `SIDES` that the batch has, (B, width) and which samples have it (B,) bool.
            ids, mask: (B, S) tokens of the subtitles; samples with the same ones are no negatives of each other.

        Returns:
            `tca_<a>_<b>` for every pair of sides; 0 where no sample has both.
        """
        ids = ids.masked_fill(mask == 0, -1)
        same = (ids[:, None] == ids[None]).all(-1)  # (B, B)
        device_type = ids.device.type
        terms = {}
        with torch.autocast(device_type, enabled=False):  # similarities over τ = 0.07 need float32
            points = {
                side: (nn.functional.normalize(self._project(side, states), dim=-1), there)
                for side, (states, there) in vectors.items()
            }
            for a, b in itertools.combinations(SIDES, 2):
                if a not in points or b not in points:
                    terms[f"tca_{a}_{b}"] = torch.zeros((), device=ids.device)
                    continue
                both = points[a][1] & points[b][1]
                pair = (points[a][0][both], points[b][0][both], same[both][:, both])
                terms[f"tca_{a}_{b}"] = symmetric_info_nce(*pair, self.temperature)
        return terms

    def _project(self, side: str, states: Tensor) -> Tensor:
        layer = getattr(self, side)
        return nn.functional.linear(states.float(), layer.weight.float(), layer.bias.float())
