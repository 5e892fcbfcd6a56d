"""The parts of MulT: temporal convolution and the directional crossmodal Transformer."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from .layers import Attention, Dropout, FeedForward, KeyMask, clear_padding, key_mask
from .recorder import Recorder


class TemporalConv(nn.Module):
    """
    X̂ = Conv1D(X, k), section 3.2; steps before the first and behind the last valid one count as zeros.

    Written as a linear layer over windows, so that it is initialised as one.
    """

    def __init__(self, input_size: int, hidden_size: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.window = nn.Linear(input_size * kernel_size, hidden_size, bias=False)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, d), zeros on padding."""
        states = clear_padding(states, mask)
        if self.kernel_size > 1:
            side = self.kernel_size // 2
            states = nn.functional.pad(states, (0, 0, side, side)).unfold(1, self.kernel_size, 1)  # (B, T, D, k)
            states = states.transpose(2, 3).flatten(2)  # (B, T, k·D), the earliest step first
        return clear_padding(self.window(states), mask)


class CrossmodalLayer(GradientCheckpointingLayer):
    """
    One layer of the recursion of section 3.2, from the source β to the target α:

        Ẑ = CM_{β→α}(LN(Z), LN(Z_β^[0])) + LN(Z),   Z' = f(LN(Ẑ)) + LN(Ẑ)

    with f a feed-forward block and CM the multi-head form of section 3.1,

        CM_{β→α}(X_α, X_β) = softmax(X_α W_Q (X_β W_K)ᵀ / √d_k) X_β W_V.

    With `plain` residuals Z and Ẑ themselves are added.
    """

    def __init__(self, config: PreTrainedConfig, hidden_size: int, num_heads: int, dropout: float, plain: bool) -> None:
        super().__init__()
        self.plain = plain
        self.target_norm, self.source_norm = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.attention = Attention(config, hidden_size, num_heads, dropout)
        self.output_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = FeedForward(hidden_size, 4 * hidden_size, "relu", dropout)
        self.dropout = Dropout(dropout)

    def forward(self, states: Tensor, source: Tensor, source_keys: KeyMask) -> tuple[Tensor, Tensor | None]:
        """States (B, T_α, d) and the attention weights (B, H, T_α, T_β), if the implementation gives them."""
        query, source = self.target_norm(states), self.source_norm(source)
        attended, weights = self.attention(query, source, source, source_keys)  # CM_{β→α}
        states = self.dropout(attended) + (states if self.plain else query)  # Ẑ
        normed = self.output_norm(states)
        return self.dropout(self.feed_forward(normed)) + (states if self.plain else normed), weights  # Z′


class CrossmodalTransformer(nn.Module):
    """D layers through which the target reads the source; the source stays what it was, its low-level states."""

    def __init__(
        self, config: PreTrainedConfig, hidden_size: int, num_layers: int, num_heads: int, dropout: float, plain: bool
    ) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            CrossmodalLayer(config, hidden_size, num_heads, dropout, plain) for _ in range(num_layers)
        )

    def forward(self, target: Tensor, source: Tensor, source_mask: Tensor, recorder: Recorder) -> Tensor:
        """
        Args:
            target: Z_α^[0], (B, T_α, d).
            source: Z_β^[0], (B, T_β, d), with mask (B, T_β); a sample that lacks it is not changed by attention.

        Returns:
            Z_{β→α}^[D], (B, T_α, d).
        """
        keys = key_mask(self.config, target, source, source_mask)
        for layer in self.layers:
            target, weights = layer(target, source, keys)
            recorder.add(target, weights)
        return target
