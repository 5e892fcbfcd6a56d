"""Configuration of MulT.

Origins beside the fields: [paper] stated in the paper, [public] read in the authors' published settings, [choice] ours.
"""

from __future__ import annotations

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_fusion import FusionConfig


@strict
class MultConfig(FusionConfig):
    """
    Configuration of [`MultForSequenceClassification`].

    Args:
        hidden_size: d, the common width behind the temporal convolutions.
        text_kernel_size, audio_kernel_size, video_kernel_size: steps that a convolution sees, odd.
        crossmodal_layers: D, layers of each directional Transformer.
        memory_layers: layers of each self-attention Transformer over the joined streams.
        num_heads: of every attention; divides `hidden_size`.
        residual: what a crossmodal layer adds its result to, the normalised or the plain states.
        attention_dropout: on attention weights and behind the sub-layers.
        embed_dropout: on the sequences that enter the Transformers.
        output_dropout: inside the residual block in front of the head.
    """

    model_type = "mult"

    hidden_size: int = 40  # [public]
    text_kernel_size: int = 1  # [public]
    audio_kernel_size: int = 1
    video_kernel_size: int = 1
    crossmodal_layers: int = 4  # [public]
    # Self-attention Transformers, section 3.2 [paper]; depth [public]; pre-norm with GELU, the stack of all baselines [choice].
    memory_layers: int = 3
    num_heads: int = 8  # [public]
    # As the recursion of section 3.2 is printed [paper]; the authors' code keeps the plain states [public].
    residual: Literal["normalized", "plain"] = "normalized"
    attention_dropout: float | int = 0.1  # [choice]
    embed_dropout: float | int = 0.25  # [public]
    output_dropout: float | int = 0.1  # [choice]

    def validate_pairs(self) -> None:
        if len(self.modalities) < 2:
            raise ValueError(f"`modalities` is {list(self.modalities)}: crossmodal attention needs two or three.")

    def validate_widths(self) -> None:
        self.check_divisible("hidden_size", "num_heads")
        for name in ("text", "audio", "video"):
            size = getattr(self, f"{name}_kernel_size")
            if size < 1 or size % 2 == 0:
                raise ValueError(f"`{name}_kernel_size` is {size}: it must be odd, so that a step keeps its place.")
        for name in ("crossmodal_layers", "memory_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: there must be at least one.")
