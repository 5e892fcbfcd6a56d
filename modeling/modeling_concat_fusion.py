"""Late fusion by concatenation: each modality to one vector, the vectors side by side through a small network.

z = ReLU(W [z_text; z_audio; z_video] + b),   z_m = 0 where a sample lacks m
"""

from __future__ import annotations

import torch
from torch import Tensor

from .configuration_concat_fusion import ConcatFusionConfig
from .fusion_base import FusionClassifier, FusionPreTrainedModel
from .layers import Dropout, ReluLinear
from .modality_inputs import ModalityInput
from .recorder import Recorder
from .utterance_model import UtteranceModel


class ConcatFusionPreTrainedModel(FusionPreTrainedModel):
    """Base of the late fusion family."""

    config: ConcatFusionConfig
    config_class = ConcatFusionConfig
    _auto_map = {
        "AutoConfig": "configuration_concat_fusion.ConcatFusionConfig",
        "AutoModel": "modeling_concat_fusion.ConcatFusionModel",
        "AutoModelForSequenceClassification": "modeling_concat_fusion.ConcatFusionForSequenceClassification",
    }


class ConcatFusionModel(ConcatFusionPreTrainedModel, UtteranceModel):
    """Vectors of all modalities, concatenated and mixed."""

    def __init__(self, config: ConcatFusionConfig) -> None:
        super().__init__(config)
        self.embedding_size = config.hidden_size
        self.dropout = Dropout(config.fusion_dropout)
        self.fusion = ReluLinear(len(config.modalities) * config.hidden_size, config.hidden_size)
        self.post_init()

    def fuse(
        self, given: dict[str, ModalityInput], token_type_ids: Tensor | None, recorder: Recorder
    ) -> tuple[Tensor, None]:
        rows = [self.utterance(name, item, token_type_ids, recorder) for name, item in given.items()]
        return torch.relu(self.fusion(self.dropout(torch.cat(rows, -1)))), None


class ConcatFusionForSequenceClassification(ConcatFusionPreTrainedModel, FusionClassifier):
    """[`ConcatFusionModel`] with a linear head; regression with `num_labels=1`."""

    model_class = ConcatFusionModel
