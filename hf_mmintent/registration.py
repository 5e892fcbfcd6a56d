"""The one list of architectures: registers them with the Auto classes and lets their code travel with checkpoints."""

from __future__ import annotations

import importlib

import transformers
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.processing_utils import ProcessorMixin

from hf_mmintent.modeling.modeling_cat_mod import CatModPreTrainedModel
from hf_mmintent.modeling.modeling_clcr import ClcrPreTrainedModel
from hf_mmintent.modeling.modeling_concat_fusion import ConcatFusionPreTrainedModel
from hf_mmintent.modeling.modeling_lq_former import LQFormerPreTrainedModel
from hf_mmintent.modeling.modeling_mag_bert import MagBertPreTrainedModel
from hf_mmintent.modeling.modeling_media_encoder import MediaEncoderModel
from hf_mmintent.modeling.modeling_misa import MisaPreTrainedModel
from hf_mmintent.modeling.modeling_mult import MultPreTrainedModel
from hf_mmintent.modeling.modeling_mvcl_daf import MvclDafPreTrainedModel
from hf_mmintent.modeling.modeling_plum_net import PlumNetPreTrainedModel
from hf_mmintent.modeling.modeling_unimodal import UnimodalPreTrainedModel
from hf_mmintent.modeling.modeling_xmei_qwen import XmeiQwenPreTrainedModel
from hf_mmintent.modeling.pipelines import PIPELINES
from hf_mmintent.modeling.processing_clcr import ClcrProcessor
from hf_mmintent.modeling.processing_multimodal import MultimodalProcessor
from hf_mmintent.modeling.processing_mvcl_daf import MvclDafProcessor
from hf_mmintent.modeling.processing_plum_net import PlumNetProcessor
from hf_mmintent.modeling.processing_xmei_qwen import XmeiQwenProcessor

# A new architecture is one line: the base class of its models, and its processor.
ARCHITECTURES: tuple[tuple[type[PreTrainedModel], type[ProcessorMixin] | None], ...] = (
    (MediaEncoderModel, None),
    (MvclDafPreTrainedModel, MvclDafProcessor),
    (PlumNetPreTrainedModel, PlumNetProcessor),
    (ClcrPreTrainedModel, ClcrProcessor),
    (LQFormerPreTrainedModel, None),
    (CatModPreTrainedModel, None),
    (XmeiQwenPreTrainedModel, XmeiQwenProcessor),
    (UnimodalPreTrainedModel, MultimodalProcessor),
    (ConcatFusionPreTrainedModel, MultimodalProcessor),
    (MagBertPreTrainedModel, MultimodalProcessor),
    (MultPreTrainedModel, MultimodalProcessor),
    (MisaPreTrainedModel, MultimodalProcessor),
)

# Auto classes of models that answer a task, in the order in which one is looked for.
TASK_HEADS = ("AutoModelForSequenceClassification", "AutoModelForImageTextToText")


def register() -> None:
    """Make every Auto class open every checkpoint of the package; safe to call again."""
    for base, processor in ARCHITECTURES:
        config = base.config_class
        config.register_for_auto_class()
        AutoConfig.register(config.model_type, config, exist_ok=True)
        for auto_class, location in base._auto_map.items():
            if auto_class == "AutoConfig":
                continue
            module, name = location.split(".")
            model = getattr(importlib.import_module(f"hf_mmintent.modeling.{module}"), name)
            getattr(transformers, auto_class).register(config, model, exist_ok=True)
            model.register_for_auto_class(auto_class)
        if processor is not None:
            AutoProcessor.register(config, processor, exist_ok=True)
            processor.register_for_auto_class()
    for task, (pipeline, auto_class) in PIPELINES.items():
        if task not in PIPELINE_REGISTRY.supported_tasks:
            PIPELINE_REGISTRY.register_pipeline(
                task, pipeline, pt_model=getattr(transformers, auto_class), type="multimodal"
            )


def processor_class(model_type: str) -> type[ProcessorMixin]:
    """
    The processor of an architecture.

    Raises:
        ValueError: the architecture is unknown; the message lists the known ones.
    """
    known = {base.config_class.model_type: processor for base, processor in ARCHITECTURES if processor is not None}
    if model_type not in known:
        raise ValueError(f"there is no architecture {model_type!r}: known are {sorted(known)}.")
    return known[model_type]


def task_model_class(model_type: str) -> type[PreTrainedModel]:
    """
    The model of an architecture that answers its task: a classifier or regressor, or one that writes.

    Raises:
        ValueError: the architecture is unknown or answers no task.
    """
    bases = {base.config_class.model_type: base for base, _ in ARCHITECTURES}
    heads = [head for head in TASK_HEADS if model_type in bases and head in bases[model_type]._auto_map]
    return model_class(model_type, heads[0] if heads else TASK_HEADS[0])


def task_auto_class(config: PreTrainedConfig) -> type:
    """
    The Auto class that opens a checkpoint for its task, also one whose architecture brings its own code.

    Raises:
        ValueError: none of `TASK_HEADS` knows the architecture.
    """
    for head in TASK_HEADS:
        auto_class = getattr(transformers, head)
        if type(config) in auto_class._model_mapping:
            return auto_class
    raise ValueError(f"{config.model_type!r} answers no task: it is known to none of {list(TASK_HEADS)}.")


def model_class(model_type: str, auto_class: str = "AutoModelForSequenceClassification") -> type[PreTrainedModel]:
    """
    The model that `auto_class` builds for an architecture.

    Raises:
        ValueError: the architecture is unknown or has no such head.
    """
    bases = {base.config_class.model_type: base for base, _ in ARCHITECTURES}
    if model_type not in bases:
        raise ValueError(f"there is no architecture {model_type!r}: known are {sorted(bases)}.")
    location = bases[model_type]._auto_map.get(auto_class)
    if location is None:
        raise ValueError(f"{model_type!r} has no {auto_class}: it has {sorted(bases[model_type]._auto_map)}.")
    module, name = location.split(".")
    return getattr(importlib.import_module(f"hf_mmintent.modeling.{module}"), name)
