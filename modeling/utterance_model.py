"""One vector per sample and modality: what the unimodal baseline reads and late fusion puts together."""

from __future__ import annotations

from torch import Tensor, nn

from .configuration_utterance import UtteranceConfig
from .fusion_base import FusionModel
from .layers import masked_mean
from .modality_inputs import ModalityInput
from .recorder import Recorder
from .sequence_encoder import SequenceEncoder


class UtteranceModel(FusionModel):
    """
    Text: pooled states of the backbone, a linear layer. Audio and video: a Transformer over the frames, its mean. Then a
    layer norm; zeros where a sample lacks the modality.
    """

    def __init__(self, config: UtteranceConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.encoders, self.norms = nn.ModuleDict(), nn.ModuleDict()
        for name in config.modalities:
            if name == "text":
                self.encoders[name] = nn.Linear(config.text_config.hidden_size, size)
            else:
                sizes = (size, config.encoder_layers, config.encoder_heads, config.encoder_dropout)
                self.encoders[name] = SequenceEncoder(config, config.feature_sizes[name], *sizes)
            self.norms[name] = nn.LayerNorm(size)

    def utterance(self, name: str, item: ModalityInput, token_type_ids: Tensor | None, recorder: Recorder) -> Tensor:
        """(B, d) of one modality."""
        if name == "text":
            states = self.encode_text(item, token_type_ids, recorder)
            row = self.encoders[name](self.pool_text(states, item.mask))
        else:
            row = masked_mean(self.encoders[name](item.states, item.mask, recorder), item.mask)
        return self.norms[name](row).masked_fill(~item.present[:, None], 0.0)
