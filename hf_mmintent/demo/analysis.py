"""What the page shows of one clip: the ranking, the same without the switches, and every modality's share over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, Pipeline, pipeline

from hf_mmintent.modeling.out_of_scope import OutOfScope
from hf_mmintent.modeling.pipelines import PIPELINES

INTENT, EXPLANATION = "multimodal-intent-recognition", "multimodal-explanation"


@dataclass
class ClipAnalysis:
    """
    Args:
        answer: of the pipeline, with the modalities that are switched on.
        changes: per label (score with all modalities, score with those that are on).
        times: middle of every window in seconds.
        shares: per source its share in every window.
        shares_are: what `shares` shows, for the axis.
        explanation: why, from a checkpoint that explains.
        none_of_these: of a checkpoint with a rule for what is out of scope, the rule's label and whether the clip gets it
            with all modalities and with those that are on; the scores are those before the rule.
    """

    answer: dict[str, Any]
    changes: dict[str, tuple[float, float]]
    times: list[float]
    shares: dict[str, list[float]]
    shares_are: str
    explanation: str | None = None
    none_of_these: tuple[str, bool, bool] | None = None


class Labeller:
    """
    Opens checkpoints when they are first asked for.

    Args:
        checkpoints: folders or Hub ids.
        asr: speech recognition checkpoint for clips without text.
        device: of all models.
    """

    def __init__(self, checkpoints: Sequence[str], asr: str | None = None, device: str = "cpu") -> None:
        if not checkpoints:
            raise ValueError("there are no checkpoints to choose from: name at least one folder or Hub id.")
        self.checkpoints, self.asr, self.device = list(checkpoints), asr, device
        self._opened: dict[tuple[str, str], Pipeline] = {}

    def open(self, checkpoint: str, task: str = INTENT) -> Pipeline:
        """The pipeline of a checkpoint."""
        key = checkpoint, task
        if key not in self._opened:
            extra = {"asr": self.asr} if self.asr is not None and task == INTENT else {}
            self._opened[key] = pipeline(task, model=checkpoint, device=self.device, **extra)
        return self._opened[key]

    def explains(self, checkpoint: str) -> bool:
        """Whether the checkpoint writes an explanation."""
        if EXPLANATION not in PIPELINES:
            return False
        config = AutoConfig.from_pretrained(checkpoint)
        return PIPELINES[EXPLANATION][1] in (getattr(config, "auto_map", None) or {})

    def modalities(self, checkpoint: str) -> list[str]:
        """What the checkpoint takes."""
        task = EXPLANATION if self.explains(checkpoint) else INTENT
        return list(self.open(checkpoint, task).processor.modalities)

    def analyse(
        self, checkpoint: str, clip: str | None, text: str | None, kept: Sequence[str], seconds: float
    ) -> ClipAnalysis:
        """
        Args:
            checkpoint: one of those to choose from.
            clip: video or audio file.
            text: the words.
            kept: modalities that are switched on.
            seconds: length of the windows of the plot.

        Raises:
            MediaError: the clip cannot be decoded.
            ValueError: nothing is left to label.
        """
        if clip is None and not text:
            raise ValueError("nothing to label: give a clip, a transcript, or both.")
        if not kept:
            raise ValueError("every modality is switched off: leave at least one on.")
        sample = {"clip": clip, "text": text or None}
        if self.explains(checkpoint):
            answer = self.open(checkpoint, EXPLANATION)(sample, modalities=list(kept))
            return ClipAnalysis(answer, {}, [], {}, "", answer["explanation"])
        pipe = self.open(checkpoint)
        answer = pipe(sample, modalities=list(kept))
        every = pipe(sample)
        before, now = ({entry["label"]: entry["score"] for entry in found["ranking"]} for found in (every, answer))
        times, shares, what = self._shares(pipe, sample, answer, kept, seconds)
        changes = {label: (before[label], now[label]) for label in now}
        rule = OutOfScope.of(pipe.model.config)
        none = rule and (rule.label, every["answer"] == rule.label, answer["answer"] == rule.label)
        return ClipAnalysis(answer, changes, times, shares, what, none_of_these=none)

    @staticmethod
    def _shares(
        pipe: Pipeline, sample: dict[str, Any], answer: dict[str, Any], kept: Sequence[str], seconds: float
    ) -> tuple[list[float], dict[str, list[float]], str]:
        """Weights where the architecture computes them, else what leaving a modality out takes from the first label."""
        seconds = min(seconds, pipe.default_window(kept))  # a model that reads less would stand for the whole window
        settings = {"window_seconds": seconds, "stride_seconds": seconds / 2}
        windows = pipe(sample, modalities=list(kept), **settings)["windows"]
        times = [(window["start"] + window["end"]) / 2 for window in windows]
        if windows[0]["modality_weights"]:
            names = list(windows[0]["modality_weights"])
            return times, {name: [w["modality_weights"][name] for w in windows] for name in names}, "modality weight"
        label, used = answer["ranking"][0]["label"], answer["used"]
        whole = [_score(window, label) for window in windows]
        shares = {}
        for name in used if len(used) > 1 else []:
            rest = pipe(sample, modalities=[other for other in used if other != name], **settings)["windows"]
            shares[name] = [a - _score(window, label) for a, window in zip(whole, rest, strict=False)]
        return times, shares, f"drop of “{label}” without it"


def _score(window: dict[str, Any], label: str) -> float:
    return next(entry["score"] for entry in window["ranking"] if entry["label"] == label)
