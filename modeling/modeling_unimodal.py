"""The unimodal baseline: text alone, audio alone or video alone, with the encoders that `concat_fusion` puts together."""

from __future__ import annotations

from torch import Tensor

from .configuration_unimodal import UnimodalConfig
from .fusion_base import FusionClassifier, FusionPreTrainedModel
from .modality_inputs import ModalityInput
from .recorder import Recorder
from .utterance_model import UtteranceModel


class UnimodalPreTrainedModel(FusionPreTrainedModel):
    """Base of the unimodal family."""

    config: UnimodalConfig
    config_class = UnimodalConfig
    _auto_map = {
        "AutoConfig": "configuration_unimodal.UnimodalConfig",
        "AutoModel": "modeling_unimodal.UnimodalModel",
        "AutoModelForSequenceClassification": "modeling_unimodal.UnimodalForSequenceClassification",
    }


class UnimodalModel(UnimodalPreTrainedModel, UtteranceModel):
    """The vector of the one modality; zeros for a sample that lacks it."""

    def __init__(self, config: UnimodalConfig) -> None:
        super().__init__(config)
        self.embedding_size = config.hidden_size
        self.post_init()

    def fuse(
        self, given: dict[str, ModalityInput], token_type_ids: Tensor | None, recorder: Recorder
    ) -> tuple[Tensor, None]:
        ((name, item),) = given.items()
        return self.utterance(name, item, token_type_ids, recorder), None


class UnimodalForSequenceClassification(UnimodalPreTrainedModel, FusionClassifier):
    """[`UnimodalModel`] with a linear head; regression with `num_labels=1`."""

    model_class = UnimodalModel
