"""What travels with a checkpoint: configurations, models, processors and what they share.

The classes are re-exported here; a checkpoint's own files import each other as `from .file import name`.
"""

from .configuration_clcr import ClcrConfig
from .configuration_lq_former import LQFormerConfig
from .configuration_media_encoder import MediaEncoderConfig
from .configuration_mvcl_daf import MvclDafConfig
from .configuration_plum_net import PlumNetConfig
from .media_decoding import Clip, MediaError, decode_audio, decode_clip, decode_video
from .modeling_clcr import ClcrForSequenceClassification, ClcrModel
from .modeling_lq_former import LQFormerModel
from .modeling_media_encoder import MediaEncoderModel
from .modeling_mvcl_daf import MvclDafForSequenceClassification, MvclDafModel
from .modeling_plum_net import PlumNetForSequenceClassification, PlumNetModel
from .processing_clcr import ClcrProcessor
from .processing_multimodal import MultimodalProcessor
from .processing_mvcl_daf import MvclDafProcessor
from .processing_plum_net import PlumNetProcessor

__all__ = [
    "ClcrConfig",
    "ClcrForSequenceClassification",
    "ClcrModel",
    "ClcrProcessor",
    "Clip",
    "LQFormerConfig",
    "LQFormerModel",
    "MediaEncoderConfig",
    "MediaEncoderModel",
    "MediaError",
    "MultimodalProcessor",
    "MvclDafConfig",
    "MvclDafForSequenceClassification",
    "MvclDafModel",
    "MvclDafProcessor",
    "PlumNetConfig",
    "PlumNetForSequenceClassification",
    "PlumNetModel",
    "PlumNetProcessor",
    "decode_audio",
    "decode_clip",
    "decode_video",
]
