"""Configuration of LQ-Former.

Origins beside the fields: [paper] the abstract, [public] README and code of the public repository, [figure] its overview
figure, [choice] ours.
"""

from __future__ import annotations

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_connector import ConnectorConfig


@strict
class LQFormerConfig(ConnectorConfig):
    """Configuration of [`LQFormerModel`]."""

    model_type = "lq_former"
    keys_to_ignore_at_inference = [
        "loss_terms",
        "query_attention_mask",
        "hidden_states",
        "attentions",
        "cross_attentions",
    ]

    num_hidden_layers: int = 2  # two layers with cross-attention in each [public]
    # Captions as queries [paper]; the release has 16 with specials, which cuts its own sample captions -> 32 [choice].
    num_caption_tokens: int = 32
    num_learned_queries: int = 16  # [public]
    # `embeddings`: of BERT [public]; `encoder`: states of a text encoder that the caller owns, through a linear layer [figure]
    caption_source: Literal["embeddings", "encoder"] = "embeddings"
    caption_embed_size: int | None = None  # width of those states
    freeze_caption_embeddings: bool = True  # [figure]
    caption_fill: Literal["filler", "mask"] = "filler"  # what stands in slots without a caption token [choice]
    output_projection: bool = True  # Linear(d, d) after the last layer [public]

    @property
    def query_counts(self) -> tuple[int, int]:
        return self.num_caption_tokens, self.num_learned_queries

    def validate_caption(self) -> None:
        if (self.caption_source == "encoder") != (self.caption_embed_size is not None):
            raise ValueError(
                f"`caption_source` is {self.caption_source!r} and `caption_embed_size` is {self.caption_embed_size}: the "
                f"width of the text encoder's states is needed by `encoder`, and only there."
            )
