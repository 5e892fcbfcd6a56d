"""`pipeline("multimodal-explanation", model=...)`: recordings to an emotion, an intent and the reasons for both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .pipeline_intent import IntentRecognitionPipeline


class ExplanationPipeline(IntentRecognitionPipeline):
    """
    Name what a speaker feels and intends, and say why.

    Inputs, windows, speech recognition and batches are those of [`IntentRecognitionPipeline`]; rows may also have
    "audio_caption" and "video_caption".

    Args:
        max_new_tokens (`int`, *optional*): Longest answer; by default the checkpoint's.
        generate_kwargs (`dict`, *optional*): Further arguments of `generate`.
        asr, batch_size, num_workers, window_seconds, stride_seconds, modalities: as there.

    Returns:
        Per input a `dict` with "emotion" and "intent" (`None` where none could be read), "emotion_reason", "intent_reason",
        "joint_reason", "explanation" (the answer as it was written), "used", "text", "notes" and "windows", which have
        the same with "start" and "end" in seconds. For several windows the first keys are those of the first one.
    """

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        options = dict(parameters.pop("generate_kwargs", None) or {})
        if parameters.get("max_new_tokens") is not None:
            options["max_new_tokens"] = parameters["max_new_tokens"]
        parameters.pop("max_new_tokens", None)
        if "top_k" in parameters:
            raise ValueError("`top_k` is no setting of this pipeline: it writes one answer.")
        preparation, _, answer = super()._sanitize_parameters(**parameters)
        return preparation, options, answer

    @property
    def _columns(self) -> tuple[str, ...]:
        return tuple(
            name for name in self.processor.extra_columns if name.endswith("_caption")
        )  # the others are targets

    def _forward(self, input_tensors: dict[str, Tensor], **forward_parameters: Any) -> dict[str, Tensor]:
        """Ids of the answers, without the prompts."""
        ids = self.model.generate(**input_tensors, **forward_parameters)
        return {"answers": ids[:, input_tensors["input_ids"].shape[1] :]}

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        top_k: int | None = None,
        asr: bool = False,
        kept: Sequence[str] = ("text",),
    ) -> dict[str, Any]:
        """The answer of one input from those of its windows."""
        parts = [output["part"] for output in model_outputs]
        windows = []
        for output, part in zip(model_outputs, parts, strict=True):
            (written,) = self.processor.decode_texts(output["answers"][None])
            said = self.processor.parse(written)
            windows.append(
                {
                    "start": part.window.start,
                    "end": part.window.end,
                    "emotion": said.emotion,
                    "intent": said.intent,
                    "emotion_reason": said.emotion_reason,
                    "intent_reason": said.intent_reason,
                    "joint_reason": said.joint_reason,
                    "explanation": written,
                    "used": part.used,
                    "text": part.text,
                }
            )
        used = {name for part in parts for name in part.used}
        notes = self._notes(parts, used, asr, kept)
        if len(windows) > 1:
            notes.append(f"the recording has {len(windows)} windows: the answer is that of the first one.")
        first = {name: value for name, value in windows[0].items() if name not in ("start", "end", "used", "text")}
        names = [name for name in self.processor.modalities if name in used]
        heard = [part.text for part in parts if part.text is not None]
        return {
            **first,
            "used": names,
            "text": " ".join(dict.fromkeys(heard)) or None,
            "notes": notes,
            "windows": windows,
        }
