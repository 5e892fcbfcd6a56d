"""The encoders that published features were made with, as far as they are models of the library.

| preset     | sound                                            | pictures                                              |
|------------|--------------------------------------------------|-------------------------------------------------------|
| `mintrec`  | wav2vec 2.0 base, last layer: 768 at 50 Hz       | ResNet-50, pooled: 2048 at 25 Hz                      |
| `mintrec2` | WavLM base+, last layer: 768 at 50 Hz            | Swin-T, pooled: 768 at 25 Hz                          |
| `xmei`     | HuBERT-large, mean of layers 21-24: 1024, 50 Hz  | CLIP ViT-L/14, layer 23, grid of 8 frames pooled over |
|            |                                                  | time and over space: 1024, 256 + 8 steps              |

Rates of sound are those of the convolutions: 16 kHz / 320, and one window of 25 ms less at the end.

Where they differ from the files of the dataset:

- MIntRec, MIntRec2.0, sound: MIntRec's own script names this checkpoint and reads the last layer [public]; MIntRec2.0
  names the model but not the checkpoint, base+ is our choice.
- MIntRec, MIntRec2.0, pictures: the official 256 values are a detector's (Faster R-CNN with ResNet-50, Mask R-CNN with
  Swin) for the box of the speaker, found by an active-speaker model at 25 frames per second. Detector and boxes are no part
  of the library: the presets encode the whole frame by the detector's kind of backbone. A model trained on the official
  video features does not take these.
- XMEI: the public code names encoders and layers; it pools sound to 8 clips of 2 s and frames to 8 vectors, the paper's
  figure shows the grid pooled over space and over time, which is what this preset makes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MediaPreset:
    """
    Names of pretrained parts and the fields of [`MediaEncoderConfig`] that go with them.

    Args:
        audio, video (`str`): Names on the Hub.
        fields (`dict`): Fields of the configuration that the parts' preprocessor files do not state.
    """

    audio: str
    video: str
    fields: dict[str, Any] = field(default_factory=dict)


MEDIA_PRESETS = {
    "mintrec": MediaPreset("facebook/wav2vec2-base-960h", "microsoft/resnet-50", {"frame_rate": 25.0}),
    "mintrec2": MediaPreset(
        "microsoft/wavlm-base-plus", "microsoft/swin-tiny-patch4-window7-224", {"frame_rate": 25.0}
    ),
    "xmei": MediaPreset(
        "facebook/hubert-large-ls960-ft",
        "openai/clip-vit-large-patch14",
        {
            "audio_layers": (-4, -3, -2, -1),
            "video_layers": (-2,),
            "video_pooling": "spatiotemporal",
            "num_frames": 8,
            "frame_rate": 25.0,
        },
    ),
}


def media_preset(name: str) -> MediaPreset:
    """
    Raises:
        ValueError: there is no such preset; names those there are.
    """
    if name not in MEDIA_PRESETS:
        raise ValueError(f"there is no media preset {name!r}: choose one of {sorted(MEDIA_PRESETS)}.")
    return MEDIA_PRESETS[name]
