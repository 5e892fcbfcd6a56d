"""Three token sequences per modality, shallow, mid and deep, at one width. CLCR, section 2.2.

    H_m^l = LN( X_m^l W_m^l + PE_m^l )

X_m^l is what the backbone of modality m gives at level l: three layers of a text encoder, three stages of a temporal
convolution network, three stages of a ResNet, or three sequences that are passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from transformers import AutoModel, ResNetConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_clcr import ClcrConfig
from .layers import Dropout, clear_padding, masked_mean, sinusoidal_positions
from .modality_inputs import ModalityInput
from .picture_augmentation import random_crop, random_mirror
from .text_backbone import run_text_backbone

Level = tuple[Tensor, Tensor]  # tokens (B, T, D) and mask (B, T)

IMAGE_GRID = 4  # a picture becomes 4 × 4 tokens [choice]
_TCN_KEYS = {
    "kernel_size",
    "dilations",
    "dropout",
    "hidden_size",
    "center",
    "input_projection",
    "input_dropout",
    "pictures",
}
_PICTURE_KEYS = {"size", "channels", "cosines", "shift", "mirror"}


class CosineTransform(nn.Module):
    """
    The lowest frequencies of a picture: an orthonormal cosine transform (DCT-II) of each channel, cut.

    Args:
        rows, columns: how many frequencies are kept in each direction.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    @staticmethod
    def _table(count: int, size: int, like: Tensor) -> Tensor:
        """(count, size), made on the fly: a buffer would not survive loading."""
        place = (torch.arange(size, device=like.device) + 0.5) * (math.pi / size)
        table = torch.cos(torch.arange(count, device=like.device)[:, None] * place) * math.sqrt(2.0 / size)
        table[0] = math.sqrt(1.0 / size)
        return table.to(like.dtype)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, rows, columns)."""
        height, breadth = pictures.shape[-2:]
        across = self._table(self.columns, breadth, pictures)
        return self._table(self.rows, height, pictures) @ (pictures @ across.T)


class PictureRows(nn.Module):
    """
    Rows that are small pictures, each through the same 3 × 3 convolutions of stride 2, or reduced to low frequencies.

    Args:
        width: of a row, C·H·W.
        size: (C, H, W).
        channels: of every convolution; each is followed by a normalisation of the one picture and a ReLU.
        cosines: (rows, columns) of [`CosineTransform`], in place of convolutions: nothing to learn, for few samples.
        shift: in training the pictures of a sample move by up to as many pixels in both directions, all alike.
        mirror: in training every second sample is mirrored.
    """

    def __init__(
        self,
        width: int,
        size: Sequence[int],
        channels: Sequence[int] | None = None,
        cosines: Sequence[int] | None = None,
        shift: int = 0,
        mirror: bool = False,
    ) -> None:
        super().__init__()
        if math.prod(size) != width or len(size) != 3:
            raise ValueError(
                f"`pictures` of a TCN has size {list(size)}, [channels, height, width]: its product must be the "
                f"`feature_size` {width}."
            )
        self.size, self.shift, self.mirror = tuple(size), shift, mirror
        before, height, breadth = size
        if cosines is not None:
            if channels is not None:
                raise ValueError(
                    f"`pictures` of a TCN has channels {list(channels)} and cosines {list(cosines)}: give one of them."
                )
            if len(cosines) != 2 or not (1 <= cosines[0] <= height and 1 <= cosines[1] <= breadth):
                raise ValueError(
                    f"`pictures` of a TCN has cosines {list(cosines)}: two numbers, 1 to the height {height} and 1 to the "
                    f"width {breadth} of its pictures."
                )
            self.layers: nn.Module = CosineTransform(*cosines)
            self.output_size = before * math.prod(cosines)
            return
        layers: list[nn.Module] = []
        for after in (16, 32) if channels is None else channels:
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.ReLU()]
            before, height, breadth = after, -(-height // 2), -(-breadth // 2)
        self.layers = nn.Sequential(*layers)
        self.output_size = before * height * breadth

    def _moved(self, pictures: Tensor) -> Tensor:
        """(B, T, C, H, W), every sample in a place of its own; what leaves on one side is 0 on the other."""
        height, breadth = self.size[1:]
        if self.shift:
            wide = nn.functional.pad(pictures, (self.shift,) * 4)
            places = torch.randint(0, 2 * self.shift + 1, (len(pictures), 2)).tolist()
            pictures = torch.stack(
                [wide[i, ..., top : top + height, left : left + breadth] for i, (top, left) in enumerate(places)]
            )
        return random_mirror(pictures) if self.mirror else pictures

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, C·H·W) -> (B, T, output_size)."""
        pictures = states.unflatten(-1, self.size)
        if self.training:
            pictures = self._moved(pictures)
        return self.layers(pictures.flatten(0, 1)).flatten(1).unflatten(0, states.shape[:2])


class TemporalStage(GradientCheckpointingLayer):
    """Two dilated, weight-normed, non-causal convolutions with a residual path; length is kept."""

    def __init__(self, input_size: int, output_size: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2

        def convolution(width: int) -> nn.Module:
            return parametrizations.weight_norm(
                nn.Conv1d(width, output_size, kernel_size, padding=padding, dilation=dilation)
            )

        self.first, self.second = convolution(input_size), convolution(output_size)
        self.shortcut = nn.Conv1d(input_size, output_size, 1) if input_size != output_size else nn.Identity()
        self.dropout = Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """`states` (B, D, T) with zeros on padding, `mask` (B, 1, T) bool -> (B, D', T), zeros on padding."""
        # Cleared after every convolution: a bias on padded frames would enter valid ones through the next one.
        # A product: all states are finite here, and a broadcast `masked_fill` takes twice as long.
        valid = mask.to(states.dtype)
        hidden = self.dropout(torch.relu(self.first(states))) * valid
        hidden = self.dropout(torch.relu(self.second(hidden)))
        return torch.relu(hidden + self.shortcut(states)) * valid


class TemporalConvolutionLevels(nn.Module):
    """
    Three-stage temporal convolution network; receptive fields grow with the level.

    Ahead of it, if `backbone_config` says so, in this order: `center` takes every sample's mean over its valid steps away,
    which holds what does not move, such as a face or a microphone; `pictures` are the arguments of [`PictureRows`];
    `input_dropout` drops elements; `input_projection` is the width of a linear layer for wide inputs, such as pixels.
    """

    def __init__(self, config: ClcrConfig, input_size: int, overrides: dict[str, Any], depth: int) -> None:
        super().__init__()
        unknown = set(overrides) - _TCN_KEYS
        if unknown:
            raise ValueError(f"`backbone_config` of a TCN has {sorted(unknown)}: it takes {sorted(_TCN_KEYS)}.")
        width = overrides.get("hidden_size", config.hidden_size)
        kernel = overrides.get("kernel_size", config.tcn_kernel_size)
        dilations = overrides.get("dilations", config.tcn_dilations)
        dropout = overrides.get("dropout", config.tcn_dropout)
        self.center = bool(overrides.get("center", False))
        self.input_dropout = Dropout(overrides.get("input_dropout", 0.0))
        self.pictures, self.input_projection = None, None
        if overrides.get("pictures") is not None:
            given = set(overrides["pictures"])
            if given - _PICTURE_KEYS or "size" not in given:
                raise ValueError(
                    f"`pictures` of a TCN has {sorted(given)}: it takes {sorted(_PICTURE_KEYS)}, and needs `size`."
                )
            self.pictures = PictureRows(input_size, **overrides["pictures"])
            input_size = self.pictures.output_size
        if overrides.get("input_projection") is not None:
            self.input_projection = nn.Linear(input_size, overrides["input_projection"], bias=False)
            input_size = overrides["input_projection"]
        self.stages = nn.ModuleList(
            TemporalStage(input_size if index == 0 else width, width, kernel, dilations[index], dropout)
            for index in range(depth)
        )
        self.output_sizes = [width] * 3

    def forward(self, item: ModalityInput) -> list[Level]:
        states, mask = item.states, item.mask[:, None]
        if self.center:
            states = clear_padding(states - masked_mean(states, item.mask)[:, None], item.mask)
        if self.pictures is not None:
            states = clear_padding(self.pictures(states), item.mask)
        states = self.input_dropout(states)
        if self.input_projection is not None:
            states = self.input_projection(states)
        states = states.transpose(1, 2)
        levels = []
        for stage in self.stages:
            states = stage(states, mask)
            levels.append((states.transpose(1, 2), item.mask))
        return levels


class ResNetLevels(nn.Module):
    """
    Stages 2, 3 and 4 of a ResNet-18, each pooled to 4 × 4 tokens per picture.

    Sequences (B, T, D), such as spectrograms, are one-channel pictures; frames (B, T, C, H, W) are pictures one by one,
    their tokens in order of time.

    Args:
        size: width of a sequence, or [channels, height, width] of frames.
        overrides: fields of `ResNetConfig`; and `crop`, the smallest and largest part of the area that training shows of a
            sample's frames, and `mirror`, whether it shows them mirrored half the time.
        depth: how many of the stages are wanted.
    """

    def __init__(self, size: int | list[int], overrides: dict[str, Any], depth: int) -> None:
        super().__init__()
        overrides = dict(overrides)
        self.crop, self.mirror = overrides.pop("crop", None), overrides.pop("mirror", False)
        if (self.crop is not None or self.mirror) and not isinstance(size, list):
            raise ValueError(
                f"`crop` is {self.crop} and `mirror` is {self.mirror} but `feature_size` is {size}: only frames, "
                "[channels, height, width], can be cut and mirrored."
            )
        if self.crop is not None and not (len(self.crop) == 2 and 0 < self.crop[0] <= self.crop[1] <= 1):
            raise ValueError(f"`crop` is {self.crop}: two parts of the area, 0 < smallest <= largest <= 1.")
        fields = {
            "num_channels": size[0] if isinstance(size, list) else 1,
            "layer_type": "basic",
            "embedding_size": 64,
            "hidden_sizes": [64, 128, 256, 512],
            "depths": [2, 2, 2, 2],
            **overrides,
        }
        stages = depth + 1
        fields.update({name: fields[name][:stages] for name in ("hidden_sizes", "depths")})
        self.network = AutoModel.from_config(ResNetConfig(**fields))
        self.output_sizes = list(fields["hidden_sizes"][1:])

    def _tokens(self, pictures: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> (N, 16, D_l) per level."""
        states = self.network(pictures, output_hidden_states=True, return_dict=True).hidden_states[2:]
        return [nn.functional.adaptive_avg_pool2d(x, IMAGE_GRID).flatten(2).transpose(1, 2) for x in states]

    def forward(self, item: ModalityInput) -> list[Level]:
        images = item.states.dim() == 5
        if self.training and images:
            item = replace(item, states=self._augmented(item.states))
        valid = item.mask if images else item.present[:, None]  # (B, pictures)
        mask = valid.repeat_interleave(IMAGE_GRID**2, 1)
        tokens = [item.states.new_zeros(*valid.shape, IMAGE_GRID**2, width) for width in self.output_sizes]
        for pictures, where in self._groups(item, images):
            for level, made in enumerate(self._tokens(pictures)):
                tokens[level] = tokens[level].to(made.dtype).index_put(where, made)
        return [(x.flatten(1, 2), mask) for x in tokens]

    def _augmented(self, frames: Tensor) -> Tensor:
        if self.crop is not None:
            frames = random_crop(frames, self.crop)
        return random_mirror(frames) if self.mirror else frames

    @staticmethod
    def _groups(item: ModalityInput, images: bool) -> list[tuple[Tensor, tuple[Tensor, Tensor]]]:
        """Pictures of one size with their place; padding is never seen, neither by a kernel nor by batch statistics."""
        if images:
            where = item.mask.nonzero(as_tuple=True)
            return [(item.states[where], where)] if len(where[0]) else []
        lengths = item.mask.sum(1)
        groups = []
        for length in lengths[lengths > 0].unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            groups.append((item.states[rows, None, :length], (rows, torch.zeros_like(rows))))
        return groups


class GivenLevels(nn.Module):
    """Three sequences that were made elsewhere: a tensor (B, T, D_1 + D_2 + D_3) is split by width."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.output_sizes = list(sizes)

    def forward(self, item: ModalityInput) -> list[Level]:
        return [(states, item.mask) for states in item.states.split(self.output_sizes, -1)]


class LevelProjection(nn.Module):
    """`H = LN(X W + PE)`; W without bias, the position table of its own when learned."""

    def __init__(self, input_size: int, hidden_size: int, learned_positions: int | None) -> None:
        super().__init__()
        self.projection = nn.Linear(input_size, hidden_size, bias=False)  # W_m^l
        self.positions = None if learned_positions is None else nn.Embedding(learned_positions, hidden_size)  # PE_m^l
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), (B, T) -> (B, T, d), zeros on padding."""
        states = self.projection(states)
        length = states.shape[1]
        if self.positions is None:
            table = sinusoidal_positions(length, states.shape[2], states)
        elif length > self.positions.num_embeddings:
            raise ValueError(
                f"a sequence has {length} tokens but the learned position tables have `max_positions` = "
                f"{self.positions.num_embeddings} rows: cut it, or use `position_embedding='sinusoidal'`."
            )
        else:
            table = self.positions.weight[:length]
        return clear_padding(self.norm(states + table), mask)


class SemanticHierarchy(nn.Module):
    """Backbones of all modalities but text, which the model owns itself, and the projections of every level."""

    def __init__(self, config: ClcrConfig) -> None:
        super().__init__()
        self.config = config
        positions = config.max_positions if config.position_embedding == "learned" else None
        self.backbones, self.projections = nn.ModuleDict(), nn.ModuleDict()
        for name in config.modalities:
            used = [config.backbone_level(name, level) for level in config.level_indices]
            if name == "text":
                sizes = [config.text_config.hidden_size] * 3
            else:
                self.backbones[name] = self._backbone(config, name, max(used) + 1)
                sizes = self.backbones[name].output_sizes
            self.projections[name] = nn.ModuleList(
                LevelProjection(sizes[level], config.hidden_size, positions) for level in used
            )

    @staticmethod
    def _backbone(config: ClcrConfig, name: str, depth: int) -> nn.Module:
        settings = config.modality_configs[name]
        size, overrides = settings["feature_size"], dict(settings.get("backbone_config") or {})
        if settings["backbone"] == "tcn":
            return TemporalConvolutionLevels(config, size, overrides, depth)
        if settings["backbone"] == "resnet18":
            return ResNetLevels(size, overrides, depth)
        return GivenLevels(size)

    def text_levels(self, text_model: nn.Module, item: ModalityInput, token_type_ids: Tensor | None) -> list[Level]:
        """Three layers of the text encoder; rows without text come out as padding."""
        # A row without any key is read differently by every attention backend: it keeps its first token, then is cleared.
        first = torch.zeros_like(item.mask)
        first[:, 0] = True
        visible = item.mask | (first & ~item.present[:, None])
        ids = item.states.masked_fill(~item.mask, self.config.text_config.pad_token_id or 0)
        out = run_text_backbone(text_model, ids, visible, token_type_ids, output_hidden_states=True)
        return [(clear_padding(out.hidden_states[layer], item.mask), item.mask) for layer in self.config.text_layers]

    def forward(self, backbone_levels: dict[str, list[Level]]) -> list[dict[str, Level]]:
        """H_m^l and its mask: one dictionary by modality for each of `config.levels`."""
        config, levels = self.config, []
        for slot, level in enumerate(config.level_indices):
            made = {}
            for name, given in backbone_levels.items():
                states, mask = given[config.backbone_level(name, level)]
                made[name] = (self.projections[name][slot](states, mask), mask)
            levels.append(made)
        return levels
