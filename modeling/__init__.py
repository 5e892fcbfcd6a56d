"""What travels with a checkpoint: configurations, models, processors and what they share.

The classes are re-exported here; a checkpoint's own files import each other as `from .file import name`.
"""

from .answer_format import ParsedAnswer, format_answer, parse_answer
from .configuration_cat_mod import CatModConfig
from .configuration_clcr import ClcrConfig
from .configuration_concat_fusion import ConcatFusionConfig
from .configuration_lq_former import LQFormerConfig
from .configuration_mag_bert import MagBertConfig
from .configuration_media_encoder import MediaEncoderConfig
from .configuration_misa import MisaConfig
from .configuration_mult import MultConfig
from .configuration_mvcl_daf import MvclDafConfig
from .configuration_plum_net import PlumNetConfig
from .configuration_unimodal import UnimodalConfig
from .configuration_xmei_qwen import XmeiQwenConfig
from .media_decoding import Clip, MediaError, decode_audio, decode_clip, decode_video
from .modeling_cat_mod import CatModModel
from .modeling_clcr import ClcrForSequenceClassification, ClcrModel
from .modeling_concat_fusion import ConcatFusionForSequenceClassification, ConcatFusionModel
from .modeling_lq_former import LQFormerModel
from .modeling_mag_bert import MagBertForSequenceClassification, MagBertModel
from .modeling_media_encoder import MediaEncoderModel
from .modeling_misa import MisaForSequenceClassification, MisaModel
from .modeling_mult import MultForSequenceClassification, MultModel
from .modeling_mvcl_daf import MvclDafForSequenceClassification, MvclDafModel
from .modeling_plum_net import PlumNetForSequenceClassification, PlumNetModel
from .modeling_unimodal import UnimodalForSequenceClassification, UnimodalModel
from .modeling_xmei_qwen import XmeiQwenForConditionalGeneration
from .pipeline_explanation import ExplanationPipeline
from .pipeline_intent import IntentRecognitionPipeline
from .processing_clcr import ClcrProcessor
from .processing_multimodal import MultimodalProcessor
from .processing_mvcl_daf import MvclDafProcessor
from .processing_plum_net import PlumNetProcessor
from .processing_xmei_qwen import XmeiQwenProcessor

__all__ = [
    "CatModConfig",
    "CatModModel",
    "ClcrConfig",
    "ClcrForSequenceClassification",
    "ClcrModel",
    "ClcrProcessor",
    "Clip",
    "ConcatFusionConfig",
    "ConcatFusionForSequenceClassification",
    "ConcatFusionModel",
    "ExplanationPipeline",
    "IntentRecognitionPipeline",
    "LQFormerConfig",
    "LQFormerModel",
    "MagBertConfig",
    "MagBertForSequenceClassification",
    "MagBertModel",
    "MediaEncoderConfig",
    "MediaEncoderModel",
    "MediaError",
    "MisaConfig",
    "MisaForSequenceClassification",
    "MisaModel",
    "MultConfig",
    "MultForSequenceClassification",
    "MultModel",
    "MultimodalProcessor",
    "MvclDafConfig",
    "MvclDafForSequenceClassification",
    "MvclDafModel",
    "MvclDafProcessor",
    "ParsedAnswer",
    "PlumNetConfig",
    "PlumNetForSequenceClassification",
    "PlumNetModel",
    "PlumNetProcessor",
    "UnimodalConfig",
    "UnimodalForSequenceClassification",
    "UnimodalModel",
    "XmeiQwenConfig",
    "XmeiQwenForConditionalGeneration",
    "XmeiQwenProcessor",
    "decode_audio",
    "decode_clip",
    "decode_video",
    "format_answer",
    "parse_answer",
]
