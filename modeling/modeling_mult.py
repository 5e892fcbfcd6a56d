"""MulT: every modality reads every other one, without alignment.

Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov: "Multimodal Transformer for Unaligned Multimodal Language Sequences", ACL
2019.

    X_m ── temporal convolution ── + positions ── Z_m^[0]
    per target α:  crossmodal Transformers β → α, γ → α ── side by side ── self-attention Transformer ── last step
    last steps of all targets ── residual block ── head

The paper's text are GloVe vectors; here they are the states of the text backbone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .configuration_mult import MultConfig
from .crossmodal_transformer import CrossmodalTransformer, TemporalConv
from .fusion_base import FusionClassifier, FusionModel, FusionPreTrainedModel
from .layers import Dropout, ReluLinear, clear_padding, last_step, sinusoidal_positions
from .modality_inputs import ModalityInput
from .recorder import Recorder
from .sequence_encoder import TransformerStack


class MultPreTrainedModel(FusionPreTrainedModel):
    """Base of the MulT family."""

    config: MultConfig
    config_class = MultConfig
    _no_split_modules = ["TransformerLayer", "CrossmodalLayer"]
    citation = """@inproceedings{tsai2019mult,
  title = {Multimodal Transformer for Unaligned Multimodal Language Sequences},
  author = {Tsai, Yao-Hung Hubert and Bai, Shaojie and Liang, Paul Pu and Kolter, J. Zico and Morency, Louis-Philippe and
            Salakhutdinov, Ruslan},
  booktitle = {Proceedings of the 57th Annual Meeting of the Association for Computational Linguistics},
  year = {2019}
}"""
    _auto_map = {
        "AutoConfig": "configuration_mult.MultConfig",
        "AutoModel": "modeling_mult.MultModel",
        "AutoModelForSequenceClassification": "modeling_mult.MultForSequenceClassification",
    }


class MultModel(MultPreTrainedModel, FusionModel):
    """Directional crossmodal Transformers and the sequence models behind them."""

    def __init__(self, config: MultConfig) -> None:
        super().__init__(config)
        names, size = list(config.modalities), config.hidden_size
        widths = {"text": config.text_config.hidden_size if "text" in names else 0, **config.feature_sizes}
        self.convolutions = nn.ModuleDict(
            {name: TemporalConv(widths[name], size, getattr(config, f"{name}_kernel_size")) for name in names}
        )
        options = (config.crossmodal_layers, config.num_heads, config.attention_dropout, config.residual == "plain")
        self.crossmodal = nn.ModuleDict(
            {
                target: nn.ModuleDict(
                    {source: CrossmodalTransformer(config, size, *options) for source in names if source != target}
                )
                for target in names
            }
        )
        joined = (len(names) - 1) * size
        rest = (config.memory_layers, config.num_heads, config.attention_dropout, 4 * joined)
        self.memories = nn.ModuleDict({name: TransformerStack(config, joined, *rest) for name in names})
        self.embed_dropout, self.output_dropout = Dropout(config.embed_dropout), Dropout(config.output_dropout)
        self.embedding_size = len(names) * joined
        self.up_proj = ReluLinear(self.embedding_size, self.embedding_size)
        self.down_proj = nn.Linear(self.embedding_size, self.embedding_size)
        self.post_init()

    def low_level(self, name: str, item: ModalityInput, token_type_ids: Tensor | None, recorder: Recorder) -> Tensor:
        """Z_m^[0] = X̂_m + PE, section 3.2, (B, T, d)."""
        states = self.encode_text(item, token_type_ids, recorder) if name == "text" else item.states
        states = self.convolutions[name](states, item.mask)
        states = states + sinusoidal_positions(states.shape[1], states.shape[2], states)
        return clear_padding(self.embed_dropout(states), item.mask)

    def fuse(
        self, given: dict[str, ModalityInput], token_type_ids: Tensor | None, recorder: Recorder
    ) -> tuple[Tensor, None]:
        low = {name: self.low_level(name, item, token_type_ids, recorder) for name, item in given.items()}
        rows = []
        for target, item in given.items():
            streams = [
                self.crossmodal[target][source](low[target], low[source], given[source].mask, recorder)
                for source in given
                if source != target
            ]
            # Section 3.2, "Self-Attention Transformer and Prediction": Z_α = [Z_{β→α}^[D]; Z_{γ→α}^[D]], (B, T, (M − 1)·d),
            # a sequence model over it, and of that the last element.
            states = clear_padding(torch.cat(streams, -1), item.mask)
            states = self.memories[target](states, item.mask, recorder)
            rows.append(last_step(states, item.mask))
        joined = torch.cat(rows, -1)  # through fully connected layers: a residual block [public] and the head
        return joined + self.down_proj(self.output_dropout(torch.relu(self.up_proj(joined)))), None


class MultForSequenceClassification(MultPreTrainedModel, FusionClassifier):
    """[`MultModel`] with a linear head; regression with `num_labels=1`."""

    model_class = MultModel
