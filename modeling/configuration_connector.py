"""What the configurations of the query-based connectors share."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from .configuration_base import MMIntentConfig


@strict
class ConnectorConfig(MMIntentConfig):
    """
    Fields of a connector: queries that read the features of one modality through cross-attention.

    Args:
        hidden_size, num_attention_heads, intermediate_size (`int`): of the layers, d, H and f.
        num_hidden_layers (`int`): L.
        cross_attention_frequency (`int`): layer l has cross-attention if l is divisible by it.
        encoder_hidden_size (`int`): D, width of the features.
        vocab_size, max_position_embeddings (`int`): of the embedding tables that caption ids are looked up in.
        hidden_act (`str`): activation between the two linear layers of the feed-forward block.
        hidden_dropout_prob, attention_probs_dropout_prob (`float`): dropout rates.
        layer_norm_eps, initializer_range (`float`): BERT's.
    """

    hidden_size: int = 768  # BERT-base, and so BLIP-2's Q-Former
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    cross_attention_frequency: int = 1
    encoder_hidden_size: int = 1024  # 768: pooled CLIP frames; 1024: CLIP patch grids, HuBERT-large
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    @property
    def cross_attention_layers(self) -> list[int]:
        """Which layers have cross-attention, n_CA of them."""
        return list(range(0, self.num_hidden_layers, self.cross_attention_frequency))

    @property
    def query_counts(self) -> tuple[int, int]:
        """Number of slots for tokens of a caption, which come first, and of learned queries: N_g and N_e."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many queries it has.")

    def validate_layers(self) -> None:
        for name in ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: at least 1.")
        if self.cross_attention_frequency < 1:
            raise ValueError(f"`cross_attention_frequency` is {self.cross_attention_frequency}: at least 1.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` = {self.hidden_size} is not divisible by `num_attention_heads` = "
                f"{self.num_attention_heads}: choose a divisor."
            )

    def validate_queries(self) -> None:
        caption, learned = self.query_counts
        if caption < 0 or learned < 1:
            raise ValueError(f"there are {caption} caption slots and {learned} learned queries: at least 0 and 1.")
        if caption > self.max_position_embeddings:
            raise ValueError(
                f"there are {caption} caption slots but `max_position_embeddings` is {self.max_position_embeddings}: "
                f"use fewer slots or a longer table."
            )
