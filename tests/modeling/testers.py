"""Tiny configurations and inputs, one tester per architecture; no test code in here.

`ALL_TESTERS` switches on the common, invariance, hub and training suites for an architecture.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import BertConfig

from hf_mmintent.modeling.configuration_clcr import ClcrConfig
from hf_mmintent.modeling.configuration_concat_fusion import ConcatFusionConfig
from hf_mmintent.modeling.configuration_fusion import FusionConfig
from hf_mmintent.modeling.configuration_mag_bert import MagBertConfig
from hf_mmintent.modeling.configuration_misa import MisaConfig
from hf_mmintent.modeling.configuration_mult import MultConfig
from hf_mmintent.modeling.configuration_mvcl_daf import MvclDafConfig
from hf_mmintent.modeling.configuration_plum_net import PlumNetConfig
from hf_mmintent.modeling.configuration_unimodal import UnimodalConfig
from hf_mmintent.modeling.modeling_clcr import ClcrForSequenceClassification, ClcrModel
from hf_mmintent.modeling.modeling_concat_fusion import ConcatFusionForSequenceClassification, ConcatFusionModel
from hf_mmintent.modeling.modeling_mag_bert import MagBertForSequenceClassification, MagBertModel
from hf_mmintent.modeling.modeling_misa import MisaForSequenceClassification, MisaModel
from hf_mmintent.modeling.modeling_mult import MultForSequenceClassification, MultModel
from hf_mmintent.modeling.modeling_mvcl_daf import MvclDafForSequenceClassification, MvclDafModel
from hf_mmintent.modeling.modeling_plum_net import PlumNetForSequenceClassification, PlumNetModel
from hf_mmintent.modeling.modeling_unimodal import UnimodalForSequenceClassification, UnimodalModel
from hf_mmintent.modeling.processing_clcr import ClcrProcessor
from hf_mmintent.modeling.processing_multimodal import MultimodalProcessor
from hf_mmintent.modeling.processing_mvcl_daf import MvclDafProcessor
from hf_mmintent.modeling.processing_plum_net import PlumNetProcessor

VOCAB, CLS, SEP, MASK, PAD = 120, 2, 3, 4, 0
LABELS = {0: "complain", 1: "praise", 2: "inform"}


def run(model: Any, inputs: dict[str, Tensor], **kwargs: Any) -> Any:
    """What a model gives, without gradients."""
    with torch.no_grad():
        return model(**inputs, **kwargs)


def prefix_mask(*lengths: int) -> Tensor:
    """(B, longest) bool, the first `lengths[b]` steps of every row."""
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def tiny_bert(**overrides: Any) -> BertConfig:
    """Two layers of width 16."""
    fields: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "pad_token_id": PAD,
    }
    return BertConfig(**{**fields, **overrides})


class ModelTester:
    """Tiny config and inputs of one architecture; a subclass per architecture."""

    base_class: ClassVar[type]
    model_class: ClassVar[type]
    processor_class: ClassVar[type]
    # values -> mask, both padded along dimension 1
    sequence_inputs: ClassVar[dict[str, str]] = {
        "input_ids": "attention_mask",
        "audio_features": "audio_attention_mask",
        "video_features": "video_attention_mask",
    }
    # further inputs of the text's length, and what padding they get
    beside_text: ClassVar[dict[str, int]] = {"token_type_ids": 0}
    modality_inputs: ClassVar[dict[str, str]] = {
        "text": "input_ids",
        "audio": "audio_features",
        "video": "video_features",
    }
    # parameters (by substring) that a training step may leave alone, each for a reason that the tester gives
    untrained: ClassVar[tuple[str, ...]] = ()
    lengths: ClassVar[dict[str, tuple[int, ...]]] = {
        "text": (9, 6, 8, 7),
        "audio": (11, 5, 8, 11),
        "video": (6, 7, 3, 7),
    }

    def config(self, **overrides: Any) -> Any:
        raise AssertionError("a tester defines its config")

    def inputs(self, training: bool = False) -> dict[str, Tensor]:
        """A batch of four ragged samples; with labels and whatever else training needs if `training`."""
        generator = torch.Generator().manual_seed(7)
        batch: dict[str, Tensor] = {}
        lengths = self.lengths["text"]
        ids, mask = torch.zeros(4, max(lengths), dtype=torch.long), torch.zeros(4, max(lengths), dtype=torch.long)
        for row, length in enumerate(lengths):
            ids[row, :length] = torch.randint(5, VOCAB, (length,), generator=generator)
            ids[row, 0], ids[row, length - 1] = CLS, SEP
            mask[row, :length] = 1
        batch.update(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids))
        for name, width in (("audio", 6), ("video", 8)):
            mask = torch.zeros(4, max(self.lengths[name]), dtype=torch.long)
            for row, length in enumerate(self.lengths[name]):
                mask[row, :length] = 1
            batch[f"{name}_features"] = torch.randn(4, mask.shape[1], width, generator=generator) * mask[..., None]
            batch[f"{name}_attention_mask"] = mask
        if training:
            batch["labels"] = torch.tensor([0, 1, 2, 1])
        return batch

    def pad(self, inputs: dict[str, Tensor], extra: int, fill: float) -> dict[str, Tensor]:
        """Append `extra` masked steps to every sequence input; feature padding holds `fill`."""
        inputs = dict(inputs)
        beside = [name for name in self.beside_text if name in inputs]
        for values, mask in self.sequence_inputs.items():
            if values not in inputs:
                continue
            steps = inputs[values][:, :1].expand(-1, extra, *inputs[values].shape[2:])
            padding = torch.full_like(steps, 5 if values == "input_ids" else fill)
            inputs[values] = torch.cat([inputs[values], padding], 1)
            inputs[mask] = torch.nn.functional.pad(inputs[mask], (0, extra))
            if values == "input_ids":
                for name in beside:
                    inputs[name] = torch.nn.functional.pad(inputs[name], (0, extra), value=self.beside_text[name])
        return inputs

    def without(self, inputs: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
        """The inputs with the modalities `names` left out entirely."""
        inputs = dict(inputs)
        for name in names:
            if name not in self.modality_inputs:
                continue
            values = self.modality_inputs[name]
            inputs.pop(values, None)
            inputs.pop(self.sequence_inputs[values], None)
            if values == "input_ids":
                for beside in self.beside_text:
                    inputs.pop(beside, None)
        return inputs

    def masked_out(self, inputs: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
        """The inputs with the modalities `names` there but masked in every row."""
        inputs = dict(inputs)
        for name in names:
            mask = self.sequence_inputs[self.modality_inputs[name]]
            inputs[mask] = torch.zeros_like(inputs[mask])
        return inputs

    def model(self, seed: int = 0, **overrides: Any) -> Any:
        torch.manual_seed(seed)
        return self.model_class(self.config(**overrides)).eval()

    def weighted_sum(self, config: Any, terms: dict[str, Tensor]) -> float:
        """The loss as the config weighs its terms."""
        raise AssertionError("a tester says how its loss is put together")

    def random_batch(self, seed: int) -> dict[str, Tensor]:
        """Four samples unlike those of another seed, with random labels."""
        generator = torch.Generator().manual_seed(seed)
        batch = self.inputs(training=True)
        names = [name for name in ("audio_features", "video_features") if name in batch]
        noise = {name: torch.randn(batch[name].shape, generator=generator) for name in names}
        for name, value in noise.items():
            batch[name] = value * batch[self.sequence_inputs[name]][..., None]
        return batch

    def processor(self, tokenizer: Any, **kwargs: Any) -> Any:
        return self.processor_class.from_config(self.config(), tokenizer, **kwargs)


class MvclDafTester(ModelTester):
    base_class, model_class, processor_class = MvclDafModel, MvclDafForSequenceClassification, MvclDafProcessor
    beside_text = {"token_type_ids": 0, "label_slot_mask": 0, "labelled_input_ids": 0}
    # Only the first position of the classifying fusion is read: its forward scores start from a zero state.
    untrained = (
        ".fusion.sources.video.score_lstm.forward_lstm.weight_hh",
        ".fusion.sources.audio.score_lstm.forward_lstm.weight_hh",
        ".fusion.sources.coarse.score_lstm.forward_lstm.weight_hh",
    )

    def config(self, **overrides: Any) -> MvclDafConfig:
        fields: dict[str, Any] = {
            "text_config": tiny_bert(),
            "video_feature_size": 8,
            "audio_feature_size": 6,
            "video_embed_size": None,
            "audio_embed_size": None,
            "max_text_length": 16,
            "label_slots": 2,
            "cls_token_id": CLS,
            "sep_token_id": SEP,
            "mask_token_id": MASK,
            "pad_token_id": PAD,
            "visual_layers": 2,
            "visual_heads": 2,
            "visual_intermediate_size": 12,
            "coarse_heads": 2,
            "coarse_intermediate_size": 12,
            "daf_max_depth": 3,
            "id2label": dict(LABELS),
            "label2id": {name: index for index, name in LABELS.items()},
        }
        return MvclDafConfig(**{**fields, **overrides})

    def inputs(self, training: bool = False) -> dict[str, Tensor]:
        batch = super().inputs(training)
        slots = torch.zeros_like(batch["input_ids"])
        for row, length in enumerate(self.lengths["text"]):
            slots[row, length - 3 : length - 1] = 1
        batch["input_ids"] = torch.where(slots.bool(), MASK, batch["input_ids"])
        batch["label_slot_mask"] = slots
        if training:
            label_ids = batch["labels"][:, None] + 50
            batch["labelled_input_ids"] = torch.where(slots.bool(), label_ids, batch["input_ids"])
        return batch

    def weighted_sum(self, config: MvclDafConfig, terms: dict[str, Tensor]) -> float:
        contrastive = sum(value.item() for name, value in terms.items() if name.startswith("contrastive"))
        return (
            config.cls_loss_weight * terms["cls"].item()
            + config.prototype_loss_weight * terms["prototype"].item()
            + config.contrastive_loss_weight * contrastive
        )


class ClcrTester(ModelTester):
    base_class, model_class, processor_class = ClcrModel, ClcrForSequenceClassification, ClcrProcessor

    def config(self, **overrides: Any) -> ClcrConfig:
        fields: dict[str, Any] = {
            "text_config": tiny_bert(),
            "modality_configs": {"audio": {"feature_size": 6}, "video": {"feature_size": 8}},
            "hidden_size": 16,
            "exchange_heads": 2,
            "inter_stat_rank": 4,
            "id2label": dict(LABELS),
            "label2id": {name: index for index, name in LABELS.items()},
        }
        return ClcrConfig(**{**fields, **overrides})

    def weighted_sum(self, config: ClcrConfig, terms: dict[str, Tensor]) -> float:
        inter = sum(
            weight * terms[name].item()
            for weight, name in zip(config.inter_weights, ("inter_pp", "inter_sp", "inter_sel"), strict=True)
        )
        return (
            terms["task"].item() + config.intra_loss_weight * terms["intra"].item() + config.inter_loss_weight * inter
        )


class PlumNetTester(ModelTester):
    base_class, model_class, processor_class = PlumNetModel, PlumNetForSequenceClassification, PlumNetProcessor

    def config(self, **overrides: Any) -> PlumNetConfig:
        fields: dict[str, Any] = {
            "text_config": tiny_bert(),
            "video_feature_size": 8,
            "audio_feature_size": 6,
            "hidden_size": 16,
            "encoder_heads": 2,
            "tfb_heads": 2,
            "prm_heads": 2,
            "dropout": 0.1,
            "id2label": dict(LABELS),
            "label2id": {name: index for index, name in LABELS.items()},
        }
        return PlumNetConfig(**{**fields, **overrides})

    def model(self, seed: int = 0, **overrides: Any) -> Any:
        """With prototypes of one batch: before the first epoch the refinement has no label tokens to read."""
        model = super().model(seed, **overrides)
        model.update_prototypes([self.inputs(training=True)])
        return model

    def weighted_sum(self, config: PlumNetConfig, terms: dict[str, Tensor]) -> float:
        value = {name: term.item() for name, term in terms.items()}
        first = value["common"] + value["private"] + config.msa_loss_weight * (value["msa_inter"] + value["msa_intra"])
        return value["task"] + config.stage1_weight_in_stage2 * first


class FusionTester(ModelTester):
    """What the baselines have in common."""

    processor_class = MultimodalProcessor
    config_class: ClassVar[type[FusionConfig]]
    fields: ClassVar[dict[str, Any]] = {}

    def config(self, **overrides: Any) -> Any:
        fields: dict[str, Any] = {
            "text_config": tiny_bert() if "text" in self.modality_inputs else None,
            "modalities": tuple(self.modality_inputs),
            "video_feature_size": 8,
            "audio_feature_size": 6,
            "id2label": dict(LABELS),
            "label2id": {name: index for index, name in LABELS.items()},
            **self.fields,
        }
        return self.config_class(**{**fields, **overrides})

    def inputs(self, training: bool = False) -> dict[str, Tensor]:
        batch = super().inputs(training)
        wanted = {*self.modality_inputs.values(), *self.sequence_inputs.values(), "labels"}
        beside = self.beside_text if "text" in self.modality_inputs else ()
        return {name: value for name, value in batch.items() if name in wanted or name in beside}

    def weighted_sum(self, config: FusionConfig, terms: dict[str, Tensor]) -> float:
        weights = {"task": 1.0, **config.regularizer_weights}
        return sum(weights[name] * term.item() for name, term in terms.items())


class UnimodalTextTester(FusionTester):
    base_class, model_class, config_class = UnimodalModel, UnimodalForSequenceClassification, UnimodalConfig
    sequence_inputs = {"input_ids": "attention_mask"}
    modality_inputs = {"text": "input_ids"}
    fields = {"hidden_size": 16, "encoder_heads": 2}


class UnimodalAudioTester(FusionTester):
    base_class, model_class, config_class = UnimodalModel, UnimodalForSequenceClassification, UnimodalConfig
    sequence_inputs = {"audio_features": "audio_attention_mask"}
    modality_inputs = {"audio": "audio_features"}
    fields = {"hidden_size": 16, "encoder_heads": 2}


class UnimodalVideoTester(FusionTester):
    """In no list: the sound of `UnimodalAudioTester` takes the same way through the model. The export is told apart."""

    base_class, model_class, config_class = UnimodalModel, UnimodalForSequenceClassification, UnimodalConfig
    sequence_inputs = {"video_features": "video_attention_mask"}
    modality_inputs = {"video": "video_features"}
    fields = {"hidden_size": 16, "encoder_heads": 2}


class ConcatFusionTester(FusionTester):
    base_class, model_class = ConcatFusionModel, ConcatFusionForSequenceClassification
    config_class = ConcatFusionConfig
    fields = {"hidden_size": 16, "encoder_heads": 2}


class MagBertTester(FusionTester):
    base_class, model_class, config_class = MagBertModel, MagBertForSequenceClassification, MagBertConfig


class MultTester(FusionTester):
    base_class, model_class, config_class = MultModel, MultForSequenceClassification, MultConfig
    fields = {"hidden_size": 8, "num_heads": 2, "crossmodal_layers": 2, "memory_layers": 1, "audio_kernel_size": 3}


class MisaTester(FusionTester):
    base_class, model_class, config_class = MisaModel, MisaForSequenceClassification, MisaConfig
    fields = {"hidden_size": 16, "lstm_hidden_size": 6}


BASELINES: list[ModelTester] = [
    UnimodalTextTester(),
    UnimodalAudioTester(),
    ConcatFusionTester(),
    MagBertTester(),
    MultTester(),
    MisaTester(),
]
ALL_TESTERS: list[ModelTester] = [MvclDafTester(), ClcrTester(), PlumNetTester(), *BASELINES]
