"""Processor of CLCR: that of the other classifiers, and pictures and spectrograms for modalities of picture networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .picture_inputs import PictureSettings, SpectrogramSettings, log_spectrogram, plain, spread
from .processing_media import MediaSettings, prepare_media
from .processing_multimodal import MultimodalProcessor


class ClcrProcessor(MultimodalProcessor):
    """
    [`MultimodalProcessor`] that also takes pictures: where the entry of `feature_sizes` is `[channels, height, width]`, a
    sample's `<modality>_features` are an array (pictures, channels, height, width).

    Args:
        spectrogram: fields of [`SpectrogramSettings`]; raw sound then becomes log spectrograms as `audio_features`.
        pictures: fields of [`PictureSettings`]; raw video then becomes a few frames as `video_features`.

    Other arguments are those of [`MultimodalProcessor`].

    Raises:
        ValueError: the settings make other sizes than the model takes, or contradict `media`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        modalities: Sequence[str] = ("text", "audio", "video"),
        feature_sizes: Mapping[str, Any] | None = None,
        max_text_length: int = 128,
        max_lengths: Mapping[str, int] | None = None,
        label_names: Sequence[str] | None = None,
        problem_type: str = "single_label_classification",
        media: Mapping[str, Any] | None = None,
        non_finite: str = "raise",
        feature_stats: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
        spectrogram: Mapping[str, Any] | None = None,
        pictures: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        sound = SpectrogramSettings(**spectrogram) if spectrogram is not None else None
        frames = PictureSettings(**pictures) if pictures is not None else None
        self.spectrogram, self.pictures = plain(sound), plain(frames)
        sizes = dict(feature_sizes or {})
        made = {
            "audio": None if sound is None else sound.shape[1],
            "video": None if frames is None else [3, frames.size, frames.size],
        }
        for name, size in made.items():
            wanted = sizes.get(name)
            if size is not None and (list(wanted) if isinstance(wanted, tuple) else wanted) != size:
                raise ValueError(
                    f"`{'spectrogram' if name == 'audio' else 'pictures'}` makes {name} features of size {size} but "
                    f"`feature_sizes` says {wanted}: make the model's `modality_configs` and the processor agree."
                )
        if media is not None and (spectrogram is not None or pictures is not None):
            raise ValueError(
                "`media` is for a model with an encoder of its own: give it, or `spectrogram` and `pictures`."
            )
        super().__init__(
            tokenizer,
            modalities=modalities,
            feature_sizes=sizes,
            max_text_length=max_text_length,
            max_lengths=max_lengths,
            label_names=label_names,
            problem_type=problem_type,
            media=media,
            non_finite=non_finite,
            feature_stats=feature_stats,
            **kwargs,
        )

    def _media_inputs(
        self,
        audio: Sequence[Any] | None,
        video: Sequence[Any] | None,
        start: Sequence[float | None] | None = None,
        end: Sequence[float | None] | None = None,
    ) -> dict[str, np.ndarray]:
        if self.spectrogram is None and self.pictures is None:
            return super()._media_inputs(audio, video, start, end)
        sound = SpectrogramSettings(**self.spectrogram) if self.spectrogram is not None else None
        frames = PictureSettings(**self.pictures) if self.pictures is not None else None
        settings = MediaSettings(
            sampling_rate=sound.sampling_rate if sound else 16000,
            frame_rate=frames.frame_rate if frames else 1.0,
            image_size=frames.size if frames else 16,
            image_mean=frames.mean if frames else (0.5,) * 3,
            image_std=frames.std if frames else (0.5,) * 3,
        )
        made = prepare_media(audio if sound else None, video if frames else None, settings, start, end)
        out: dict[str, np.ndarray] = {}
        if sound is not None and "input_values" in made:
            lengths = made["input_values_mask"].sum(1)
            waves = zip(made["input_values"], lengths, strict=True)
            rows = [log_spectrogram(wave[:length], sound) if length else None for wave, length in waves]
            out.update(self._feature_inputs("audio", rows))
        if frames is not None and "pixel_values" in made:
            lengths = made["pixel_values_mask"].sum(1)
            clips = zip(made["pixel_values"], lengths, strict=True)
            rows = [clip[spread(length, frames.count)] if length else None for clip, length in clips]
            out.update(self._feature_inputs("video", rows))
        return out

    def _picture_shape(self, name: str) -> tuple[int, int, int] | None:
        size = self.feature_sizes[name]
        return tuple(size) if isinstance(size, (list, tuple)) else None

    def _as_batch(self, text: Any, audio: Any, video: Any, features: dict[str, Any], labels: Any) -> tuple[Any, ...]:
        for name in self.feature_sizes:
            key = f"{name}_features"
            given = features.get(key)
            if (
                self._picture_shape(name) is not None
                and isinstance(given, (np.ndarray, torch.Tensor))
                and given.ndim == 5
            ):
                features = {**features, key: list(given)}  # an array of samples, not one sample
        return super()._as_batch(text, audio, video, features, labels)

    def _feature_inputs(self, name: str, rows: Iterable[Any] | None) -> dict[str, np.ndarray]:
        shape = self._picture_shape(name)
        if shape is None or rows is None:
            return super()._feature_inputs(name, rows)
        samples = [None if row is None else self._checked_pictures(name, i, row, shape) for i, row in enumerate(rows)]
        if all(sample is None for sample in samples):
            return {}
        longest = max(len(sample) for sample in samples if sample is not None)
        values = np.zeros((len(samples), longest, *shape), np.float32)
        mask = np.zeros((len(samples), longest), np.int64)
        for row, sample in enumerate(samples):
            if sample is not None:
                values[row, : len(sample)], mask[row, : len(sample)] = sample, 1
        return {f"{name}_features": values, f"{name}_attention_mask": mask}

    def _checked_pictures(self, name: str, index: int, row: Any, shape: tuple[int, int, int]) -> np.ndarray:
        array = np.asarray(row, dtype=np.float32)
        if array.ndim != 4 or array.shape[1:] != shape or not len(array):
            raise ValueError(
                f"`{name}_features` of sample {index} has shape {array.shape}: expected (pictures, "
                f"{', '.join(map(str, shape))}) with at least one picture, or `None` if the sample has no {name}."
            )
        if not np.isfinite(array).all():
            if self.non_finite == "raise":
                raise ValueError(
                    f"`{name}_features` of sample {index} holds NaN or infinite values: repair the pictures."
                )
            array = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
        return array[: self.max_lengths.get(name)]

    def fit_feature_stats(self, rows: Iterable[Mapping[str, Any]], names: Sequence[str] | None = None) -> None:
        sequences = [name for name in names or self.feature_sizes if self._picture_shape(name) is None]
        if sequences:
            super().fit_feature_stats(rows, sequences)
