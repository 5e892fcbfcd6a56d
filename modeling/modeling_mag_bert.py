"""MAG-BERT: a text encoder whose word embeddings are shifted by audio and video.

Rahman, Hasan, Lee, Zadeh, Mao, Morency, Hoque: "Integrating Multimodal Information in Large Pretrained Transformers", ACL 2020.
The gate stands behind the embedding layer, as in the authors' published runs; its equations are in `adaptation_gate.py`.

    words ── embeddings ── gate ── layers ── pooled, tanh ── head
    audio, video ── averaged per token ─┘

The paper has features that a forced aligner cut at the words. Here token i of n gets the mean of the i-th of n parts of the
frames: the best guess without times.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .adaptation_gate import AdaptationGate
from .configuration_mag_bert import MagBertConfig
from .fusion_base import FusionClassifier, FusionModel, FusionPreTrainedModel
from .modality_inputs import ModalityInput
from .recorder import Recorder
from .sequence_alignment import AdaptivePoolAlignment


class MagBertPreTrainedModel(FusionPreTrainedModel):
    """Base of the MAG-BERT family."""

    config: MagBertConfig
    config_class = MagBertConfig
    citation = """@inproceedings{rahman2020mag,
  title = {Integrating Multimodal Information in Large Pretrained Transformers},
  author = {Rahman, Wasifur and Hasan, Md Kamrul and Lee, Sangwu and Zadeh, AmirAli Bagher and Mao, Chengfeng and
            Morency, Louis-Philippe and Hoque, Ehsan},
  booktitle = {Proceedings of the 58th Annual Meeting of the Association for Computational Linguistics},
  year = {2020}
}"""
    _auto_map = {
        "AutoConfig": "configuration_mag_bert.MagBertConfig",
        "AutoModel": "modeling_mag_bert.MagBertModel",
        "AutoModelForSequenceClassification": "modeling_mag_bert.MagBertForSequenceClassification",
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AdaptationGate):
            init.zeros_(module.shift_bias)


class MagBertModel(MagBertPreTrainedModel, FusionModel):
    """Text encoder with the gate behind its embeddings; a sample without text is one padding token that gets shifted."""

    def __init__(self, config: MagBertConfig) -> None:
        super().__init__(config)
        if "embeddings" not in dict(self.text_model.named_children()):
            raise ValueError(
                f"`text_config` is a {config.text_config.model_type!r}: its encoder has no part `embeddings` behind which the "
                "gate could stand; choose one of the BERT family."
            )
        self.embedding_size = config.text_config.hidden_size
        width = self.text_model.get_input_embeddings().embedding_dim
        self.align = AdaptivePoolAlignment()
        self.gate = AdaptationGate(
            width, config.feature_sizes, config.shift_scale, config.gate_dropout, config.norm_eps
        )
        self.pooler = nn.Linear(self.embedding_size, self.embedding_size)
        self.post_init()

    def fuse(
        self, given: dict[str, ModalityInput], token_type_ids: Tensor | None, recorder: Recorder
    ) -> tuple[Tensor, None]:
        text = given["text"]
        seen = self.shown_positions(text)
        others = {name: item for name, item in given.items() if name != "text"}
        aligned = {name: self.align(item.states, item.mask, seen) for name, item in others.items()}
        present = torch.stack([item.present for item in others.values()]).any(0)

        def shifted(module: nn.Module, inputs: Any, words: Tensor) -> Tensor:
            return self.gate(words, aligned, present)

        hook = self.text_model.embeddings.register_forward_hook(shifted)
        try:
            states = self.encode_text(text, token_type_ids, recorder, in_one_piece=True)
        finally:
            hook.remove()
        return torch.tanh(self.pooler(self.pool_text(states, seen))), None


class MagBertForSequenceClassification(MagBertPreTrainedModel, FusionClassifier):
    """[`MagBertModel`] with a linear head; regression with `num_labels=1`."""

    model_class = MagBertModel
