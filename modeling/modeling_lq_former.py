"""LQ-Former: a small query former whose queries are the tokens of a caption and learned vectors.

Paper: the explainable multimodal emotion and intent task with XMEI-Qwen (abstract); sizes from its public repository, see
the config. Unlike in InstructBLIP the caption tokens go through cross-attention themselves.

    caption ids ── embeddings ─┐
                               ├─ LN ── [ self-attention ── cross-attention ── feed-forward ] × L ── Linear ── N tokens
    learned queries ───────────┘                                  │
                                             features of the modality
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.utils import can_return_tuple

from .configuration_lq_former import LQFormerConfig
from .layers import Dropout, clear_padding, key_mask, masked_mean
from .modeling_connector import CaptionEmbeddings, ConnectorOutput, ConnectorPreTrainedModel
from .query_former_layers import LearnedTokens, QueryFormerEncoder, QueryRecorder

LQFormerOutput = ConnectorOutput


class LQFormerPreTrainedModel(ConnectorPreTrainedModel):
    """Base of the LQ-Former family."""

    config: LQFormerConfig
    config_class = LQFormerConfig
    _auto_map = {
        "AutoConfig": "configuration_lq_former.LQFormerConfig",
        "AutoModel": "modeling_lq_former.LQFormerModel",
    }


class LQFormerModel(LQFormerPreTrainedModel):
    """Turns features of any length into N = N_g + N_e tokens, guided by a caption."""

    def __init__(self, config: LQFormerConfig) -> None:
        super().__init__(config)
        size, slots = config.hidden_size, config.num_caption_tokens
        from_ids = config.caption_source == "embeddings"
        tables = (size if from_ids else None, from_ids, config.freeze_caption_embeddings)
        self.embeddings = CaptionEmbeddings(config, *tables) if slots else None
        width = config.caption_embed_size
        self.caption_projection = nn.Linear(width, size) if slots and width is not None else None
        self.fillers = LearnedTokens(slots, size) if slots and config.caption_fill == "filler" else None
        self.queries = LearnedTokens(config.num_learned_queries, size)
        self.layernorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.encoder = QueryFormerEncoder(config)
        self.output_projection = nn.Linear(size, size) if config.output_projection else None
        self.post_init()

    def query_states(
        self, input_ids: Tensor | None, caption_embeds: Tensor | None, attention_mask: Tensor | None, rows: int
    ) -> tuple[Tensor, Tensor]:
        """Queries before their normalisation (B, N, d), and which of them hold something (B, N) bool."""
        learned = self.queries.weight.expand(rows, -1, -1)
        everyone = torch.ones(learned.shape[:2], dtype=torch.bool, device=learned.device)
        name = "input_ids" if self.config.caption_source == "embeddings" else "caption_embeds"
        other = caption_embeds if name == "input_ids" else input_ids
        if other is not None:
            raise ValueError(f"`config.caption_source` is {self.config.caption_source!r}: captions come as `{name}`.")
        values, valid = self._caption(name, input_ids if name == "input_ids" else caption_embeds, attention_mask, rows)
        if self.embeddings is None:
            return learned, everyone
        tables = self.embeddings
        positions = tables.position_embeddings.weight[: valid.shape[1]]  # (N_g, d)
        # g_j = E_w(id_j) + E_pos(j) + E_type(0), or Linear(state_j) + E_pos(j)
        slots = positions.expand(rows, -1, -1)
        if values is not None and self.caption_projection is not None:
            slots = slots + self.caption_projection(values.to(positions.dtype))
        elif values is not None and tables.word_embeddings is not None and tables.token_type_embeddings is not None:
            slots = tables.word_embeddings(values) + tables.token_type_embeddings.weight[0] + positions
        if self.fillers is not None:  # g_j = filler_j + E_pos(j) where the caption has no token
            slots = torch.where(valid[..., None], slots, self.fillers.weight + positions)
            valid = torch.ones_like(valid)
        return torch.cat([slots, learned], 1), torch.cat([valid, everyone], 1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: torch.FloatTensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        caption_embeds: torch.FloatTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ConnectorOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, caption_length)`, *optional*):
                Caption with special tokens, cut to `config.num_caption_tokens`. `None` if no sample has a caption.
            attention_mask (`torch.Tensor` of shape `(batch_size, caption_length)`, *optional*):
                1 for tokens. A row of zeros is a sample without caption.
            encoder_hidden_states (`torch.FloatTensor` of shape `(batch_size, num_features, encoder_hidden_size)`, *optional*):
                Features of one modality. `None` if no sample has them.
            encoder_attention_mask (`torch.Tensor` of shape `(batch_size, num_features)`, *optional*):
                1 for valid features. A row of zeros is a sample without them: cross-attention adds nothing to it.
            caption_embeds (`torch.FloatTensor` of shape `(batch_size, caption_length, caption_embed_size)`, *optional*):
                In place of `input_ids` when `config.caption_source` is `encoder`.
            output_attentions, output_hidden_states (`bool`, *optional*):
                Attention maps are computed without a fused kernel, whatever the implementation.

        Returns:
            [`ConnectorOutput`].
        """
        config = self.config
        recorder = QueryRecorder(
            bool(config.output_hidden_states if output_hidden_states is None else output_hidden_states),
            bool(config.output_attentions if output_attentions is None else output_attentions),
        )
        given: dict[str, Tensor | None] = {
            "input_ids": input_ids,
            "caption_embeds": caption_embeds,
            "encoder_hidden_states": encoder_hidden_states,
        }
        rows = self._rows(given)
        features = self._features(encoder_hidden_states, encoder_attention_mask, rows)
        states, valid = self.query_states(input_ids, caption_embeds, attention_mask, rows)
        states = self.dropout(self.layernorm(states))  # once
        masked = config.caption_fill == "mask" and config.num_caption_tokens > 0
        query_keys = key_mask(config, states, states, valid) if masked else None
        states = self.encoder(states, query_keys, features, recorder)
        if self.output_projection is not None:
            states = self.output_projection(states)
        if masked:
            states = clear_padding(states, valid)
        return ConnectorOutput(
            last_hidden_state=states,
            query_attention_mask=valid.long(),
            embeddings=masked_mean(states, valid) if masked else states.mean(1),
            **recorder.fields,
        )

    def _extra_flops(self) -> int:
        config = self.config
        found = 0
        if self.output_projection is not None:
            found += 2 * sum(config.query_counts) * config.hidden_size**2
        if self.caption_projection is not None:
            found += 2 * config.num_caption_tokens * self.caption_projection.in_features * config.hidden_size
        return found
