"""`pipeline("multimodal-intent-recognition", model=...)`: recordings of any length to ranked labels with times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import Pipeline
from transformers.utils import logging

from .calibration import label_probabilities
from .media_windows import TAIL, Window, read_windows, run_ahead
from .out_of_scope import OutOfScope
from .pipeline_inputs import Sample, as_sample, is_single, local_media
from .processing_media import MediaSettings
from .speech_to_text import SpeechToText

logger = logging.get_logger(__name__)

_WINDOW = 10.0  # seconds: an utterance, which is what the datasets label, is seldom longer
_AHEAD = 2  # windows decoded at least while the model computes; else as many as are formed together
_GROUP = 4  # batches that are formed together, by length
_GROUPED = 64  # windows in them at most: the first wait for the last


@dataclass
class Part:
    """A window of a sample on its way through the pipeline."""

    sample: Sample
    window: Window
    text: str | None
    heard: bool  # whether the words come from speech recognition
    position: int  # of the sample among the inputs
    reached: list[str] | None = None  # modalities that reached the model, once the arrays are freed

    @property
    def used(self) -> list[str]:
        """Modalities that reach the model."""
        if self.reached is not None:
            return self.reached
        found = {"text": self.text, "audio": self.window.audio, "video": self.window.frames}
        found |= {name.removesuffix("_features"): rows for name, rows in self.sample.features.items()}
        return [name for name, value in found.items() if value is not None]

    def free(self) -> None:
        """Give sound and pictures back: the answer for a long recording waits for hundreds of parts."""
        self.reached = self.used
        self.window.audio = self.window.frames = None


class IntentRecognitionPipeline(Pipeline):
    """
    Label recordings by what is said, heard and seen in them.

    ```python
    import hf_mmintent  # or trust_remote_code=True
    from transformers import pipeline

    pipe = pipeline("multimodal-intent-recognition", model="runs/quickstart/seed_0/final")
    pipe("clip.mp4")
    pipe({"video": "clip.mp4", "text": "you did that all by yourself"}, top_k=3)
    ```

    An input is a path, address, bytes, `dict` or row of a dataset, as `as_sample` in `pipeline_inputs.py` says; a list
    gives a list, a dataset or generator an iterator. A recording longer than a window is labelled window by window, and
    its ranking is the mean of theirs. Decoding runs ahead in a thread while the model computes.

    Args:
        asr (`str` or automatic-speech-recognition pipeline, *optional*):
            Speech recognition for inputs without text, per window. Without it they are labelled without words.
        batch_size (`int`): Windows per call of the model; 1 when not given. Does not change the answers.
        num_workers (`int`): 0 decodes in the calling thread, anything else in one that runs ahead (the default).
        top_k (`int`, *optional*): Length of the rankings; all labels by default.
        window_seconds (`float`, seconds, *optional*): Length of a window; by default what the checkpoint reads of
            a sample (`max_clip_seconds`, `media_max_lengths`), 10 at most where it does not say the first.
        stride_seconds (`float`, seconds, *optional*): From window to window; half a window by default.
        modalities (list of `str`, *optional*): Use only these; by default all that the checkpoint has.

    Returns:
        Per input a `dict` with "ranking" (`[{"label", "score"}, ...]`, best first; in regression one entry "value"),
        "modality_weights" (`{name: weight}`, where the architecture computes them), "used" (modalities that reached
        the model), "text" (given or heard), "notes" (what the user should know) and "windows": for each its "start" and
        "end" in seconds, "ranking", "modality_weights", "used" and "text". Of a checkpoint with a rule for what is out of
        scope (`config.out_of_scope`) both also have "answer", the best label or the rule's label for none of them, and
        "margin", by how much the rule decided so (the mean over windows).

    Raises:
        MediaError: a recording cannot be decoded.
        ValueError: nothing to label, or an input that the checkpoint does not take.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("the pipeline has no processor: pass `processor=` beside the model object.")

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = {"asr", "window_seconds", "stride_seconds", "modalities", "top_k"}
        unknown = parameters.keys() - known
        if unknown:
            raise ValueError(f"{sorted(unknown)} are no settings of this pipeline: it has {sorted(known)}.")
        if parameters.get("asr") is not None and not isinstance(parameters["asr"], SpeechToText):
            parameters["asr"] = SpeechToText(parameters["asr"], self.device)
        if parameters.get("modalities") is not None:
            self._check_modalities(parameters["modalities"])
        top_k = parameters.pop("top_k", None)
        if top_k is not None and top_k < 1:
            raise ValueError(f"`top_k` is {top_k}: how many labels to name, at least 1, or None for all.")
        return parameters, {}, {} if top_k is None else {"top_k": top_k}

    def _check_modalities(self, names: Sequence[str]) -> None:
        known = list(self.processor.modalities)
        if isinstance(names, str) or not names or set(names) - set(known):
            raise ValueError(f"`modalities` is {names!r}: pass a list of some of {known}.")

    def __call__(
        self, inputs: Any, num_workers: int | None = None, batch_size: int | None = None, **parameters: Any
    ) -> Any:
        """As the class says; every setting of the class can be changed for one call."""
        made, computing, rest = self._sanitize_parameters(**parameters)
        computing = {**self._forward_params, **computing}
        preparation, ranking = {**self._preprocess_params, **made}, {**self._postprocess_params, **rest}
        workers = next(n for n in (num_workers, self._num_workers, 1) if n is not None)
        size = next(n for n in (batch_size, self._batch_size, 1) if n is not None)
        if size < 1:
            raise ValueError(f"`batch_size` is {size}: pass a positive number.")
        single = is_single(inputs)
        if not single and not isinstance(inputs, Iterable):
            raise TypeError(f"the input is {type(inputs).__name__}: pass a recording, a `dict`, or several of them.")
        answers = self._answers([inputs] if single else inputs, workers, size, preparation, computing, ranking)
        if single:
            return next(iter(list(answers)))
        return list(answers) if isinstance(inputs, (list, tuple)) else answers

    def _answers(
        self,
        inputs: Iterable[Any],
        workers: int,
        size: int,
        preparation: dict[str, Any],
        computing: dict[str, Any],
        ranking: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        asr = preparation.pop("asr", None)
        parts: Iterator[Part] = self._parts(inputs, asr is not None, preparation)
        together = size * max(min(_GROUP, _GROUPED // size), 1) if size > 1 else 1
        if workers:
            parts = run_ahead(parts, max(_AHEAD, together))  # fewer, and decoding would rest while a group is computed
        kept = preparation.get("modalities") or self.processor.modalities
        waiting: list[dict[str, Any]] = []
        failure: Exception | None = None
        while failure is None:
            group: list[Part] = []
            try:
                for part in islice(parts, together):
                    group.append(part)
            except Exception as error:  # what came before it is answered first, whatever the batch
                failure = error
            if not group:
                break
            for part in group:
                self._listen(part, asr, kept)
            for found in self._outputs(group, size, preparation.get("modalities"), computing):
                found["part"].free()
                waiting.append(found)
                if found["part"].window.last:
                    yield self.postprocess(waiting, asr=asr is not None, kept=kept, **ranking)
                    waiting = []
        if failure is not None:
            raise failure

    def _outputs(
        self, parts: list[Part], size: int, modalities: Sequence[str] | None, computing: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Every part with its row of the model's outputs; parts of like length share a batch, padding costs time."""
        order = sorted(range(len(parts)), key=lambda number: parts[number].window.end - parts[number].window.start)
        found: list[dict[str, Any]] = [{} for _ in parts]
        for first in range(0, len(order), size):
            numbers = order[first : first + size]
            batch = [parts[number] for number in numbers]
            try:
                made = self._collate(batch, modalities)
            except (ValueError, TypeError) as error:  # which names a row of the batch only
                places = ", ".join(str(part.position) for part in batch)
                error.add_note(f"The rows of this batch are the inputs {places} of the pipeline (counted from 0).")
                raise
            outputs = self.forward(made, **computing)
            for row, number in enumerate(numbers):
                found[number] = {"part": parts[number], **{name: value[row] for name, value in outputs.items()}}
        return found

    def _parts(self, inputs: Iterable[Any], listen: bool, preparation: dict[str, Any]) -> Iterator[Part]:
        for position, value in enumerate(inputs):
            try:
                for part in self.preprocess(value, listen=listen, **preparation):
                    part.position = position
                    yield part
            except (ValueError, TypeError) as error:
                error.add_note(f"This is input {position} of the pipeline (counted from 0).")
                raise

    # ---- the three steps of a pipeline ---------------------------------------------------------------------------

    def preprocess(
        self,
        input_: Any,
        listen: bool = False,
        window_seconds: float | None = None,
        stride_seconds: float | None = None,
        modalities: Sequence[str] | None = None,
    ) -> Iterator[Part]:
        """Windows of one input, decoded as they are asked for. `listen`: sound is wanted for its words."""
        processor = self.processor
        kept = processor.modalities if modalities is None else modalities
        with local_media(as_sample(input_, processor.modalities, self._columns)) as sample:
            sample.features = {name: v for name, v in sample.features.items() if name.removesuffix("_features") in kept}
            text = sample.text if "text" in kept else None
            want_words = listen and text is None and "text" in kept
            media = {
                name: getattr(sample, name)
                for name in ("audio", "video")
                if (name in kept and f"{name}_features" not in sample.features) or (name == "audio" and want_words)
            }
            media = {name: source for name, source in media.items() if source is not None}
            if not media:
                yield Part(sample, Window(0.0, 0.0, None, None, True), text, False, 0)
                return
            if processor.media is None:
                raise ValueError(
                    "a recording was given but this checkpoint takes extracted features of widths "
                    f"{processor.feature_sizes}: pass `<modality>_features`, or train with a media encoder."
                )
            settings = MediaSettings(**processor.media)
            seconds = window_seconds
            if seconds is None:
                seconds = self.default_window([name for name in kept if f"{name}_features" not in sample.features])
            part = settings, seconds, stride_seconds, sample.start, sample.end
            for window in read_windows(media.get("audio"), media.get("video"), *part):
                yield Part(sample, window, text, False, 0)

    def _forward(self, input_tensors: dict[str, Tensor], **forward_parameters: Any) -> dict[str, Tensor]:
        """Logits and, where there are any, modality weights and margins of what is in scope."""
        outputs = self.model(**input_tensors)
        found = {
            name: outputs[name].float() for name in ("logits", "modality_weights") if outputs.get(name) is not None
        }
        rule = OutOfScope.of(self.model.config)
        if rule is not None:
            found["margins"] = rule.margins(outputs.logits, outputs.embeddings)
        return found

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        top_k: int | None = None,
        asr: bool = False,
        kept: Sequence[str] = ("text",),
    ) -> dict[str, Any]:
        """The answer of one input from those of its windows."""
        parts = [output["part"] for output in model_outputs]
        scores = torch.stack([self._scores(output["logits"]) for output in model_outputs])
        weights = [output["modality_weights"] for output in model_outputs if "modality_weights" in output]
        margins = [output["margins"] for output in model_outputs if "margins" in output]
        windows = [
            {
                "start": part.window.start,
                "end": part.window.end,
                "ranking": self._ranking(row, top_k),
                "modality_weights": self._weights(weights[number : number + 1]),
                "used": part.used,
                "text": part.text,
                **self._verdict(
                    row, [output["margins"] for output in model_outputs[number : number + 1] if "margins" in output]
                ),
            }
            for number, (part, row) in enumerate(zip(parts, scores, strict=True))
        ]
        used = {name for part in parts for name in part.used}
        heard = [part.text for part in parts if part.text is not None]
        return {
            "ranking": self._ranking(scores.mean(0), top_k),
            "modality_weights": self._weights(weights),
            "used": [name for name in self.processor.modalities if name in used],
            "text": " ".join(dict.fromkeys(heard)) or None,
            "notes": self._notes(parts, used, asr, kept),
            "windows": windows,
            **self._verdict(scores.mean(0), margins),
        }

    # ---- helpers -------------------------------------------------------------------------------------------------

    @property
    def _columns(self) -> tuple[str, ...]:
        """Keys of an input that go to the processor as they are."""
        return tuple(self.processor.extra_columns)

    def default_window(self, names: Sequence[str]) -> float:
        """
        Args:
            names: Modalities that are read from a recording.

        Returns:
            Seconds of a window of which the model reads everything, the rest that may join the last one included.
        """
        read = self._seconds_read(names)
        if read is None:
            return _WINDOW
        longest = read / (1 + TAIL)
        return longest if MediaSettings(**self.processor.media).max_clip_seconds else min(longest, _WINDOW)

    def _seconds_read(self, names: Sequence[str]) -> float | None:
        """How much of a window reaches the model, through the processor and behind the encoder; `None`: all of it."""
        cut = self.processor.media and MediaSettings(**self.processor.media).max_clip_seconds
        limits = [cut if {"audio", "video"} & set(names) else None, self.model.seconds_read(names)]
        return min((limit for limit in limits if limit is not None), default=None)

    def _hears(self, samples: int) -> bool:
        """Whether so much sound gives the model a single step."""
        return self.model.backbone_owner().media_encoder.audio_front_end.hears(samples)

    def _listen(self, part: Part, asr: SpeechToText | None, kept: Sequence[str]) -> None:
        """Words of a window that has none; its sound is given back when the model is not to hear it."""
        if asr is not None and part.text is None and part.window.audio is not None and "text" in kept:
            part.text = asr(part.window.audio, MediaSettings(**self.processor.media).sampling_rate)
            part.heard = part.text is not None
        if "audio" not in kept or "audio_features" in part.sample.features:
            part.window.audio = None

    def _collate(self, parts: Sequence[Part], modalities: Sequence[str] | None) -> dict[str, Tensor]:
        """The processor's inputs for a batch of windows."""
        for part in parts:
            if part.window.audio is not None and not self._hears(len(part.window.audio)):
                part.window.audio = None  # an answer from it would be one from nothing
            if not part.used:
                wanted = list(self.processor.modalities if modalities is None else modalities)
                raise ValueError(
                    f"input {part.position} has none of the modalities {wanted} from {part.window.start:g} s on: give its "
                    "words, or a recording that has them."
                )
        columns: dict[str, list[Any]] = {
            "text": [part.text for part in parts],
            "audio": [part.window.audio for part in parts],
            "video": [part.window.frames for part in parts],
        }
        for name in sorted({name for part in parts for name in part.sample.features}):
            columns[name] = [part.sample.features.get(name) for part in parts]
        given = {name: rows for name, rows in columns.items() if any(row is not None for row in rows)}
        for name in self._columns:
            if any(name in part.sample.extra for part in parts):
                given[name] = [part.sample.extra.get(name) for part in parts]
        return dict(self.processor(**given))

    def _scores(self, logits: Tensor) -> Tensor:
        config = self.model.config
        return logits if config.problem_type == "regression" else label_probabilities(logits, config)

    def _ranking(self, scores: Tensor, top_k: int | None) -> list[dict[str, Any]]:
        config = self.model.config
        if config.problem_type == "regression":
            return [{"label": "value", "score": scores.item()}]
        best = scores.topk(len(scores) if top_k is None else min(top_k, len(scores)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [{"label": config.id2label[index], "score": score} for score, index in pairs]

    def _verdict(self, scores: Tensor, margins: Sequence[Tensor]) -> dict[str, Any]:
        """The answer with the rule for what is out of scope; empty without one."""
        rule = OutOfScope.of(self.model.config)
        if rule is None:
            return {}
        margin = torch.stack(list(margins)).mean()
        best = self.model.config.id2label[int(scores.argmax())]
        return {"answer": best if rule.accepts(margin) else rule.label, "margin": margin.item()}

    def _weights(self, rows: Sequence[Tensor]) -> dict[str, float]:
        if not rows:
            return {}
        means = torch.stack(list(rows)).mean(0).tolist()
        return dict(zip(self.model.config.modality_weight_names, means, strict=True))

    def _notes(self, parts: Sequence[Part], used: set[str], asr: bool, kept: Sequence[str]) -> list[str]:
        notes = []
        if "text" in kept and "text" not in used:
            if asr:
                notes.append("no words were heard: answered without text.")
            else:
                notes.append("no words were given and no speech recognition (`asr`) is set: answered without text.")
                logger.warning_once(notes[-1])
        if any(part.heard for part in parts):
            notes.append("the words come from speech recognition and may be wrong.")
        elif "text" in used and len(parts) > 1:
            notes.append("the words given are taken for every window.")
        read = self._seconds_read([name for name in used if f"{name}_features" not in parts[0].sample.features])
        if read is not None and any(part.window.end - part.window.start > read + 1e-3 for part in parts):
            notes.append(
                f"the model reads the first {read:.3g} s of a window only: set `window_seconds` to that or less."
            )
        media = {"audio": "sound", "video": "pictures"}
        for name, what in media.items():
            asked = getattr(parts[0].sample, name) is not None and name in kept
            if asked and name not in used:
                notes.append(f"the recording has no {what}: answered without.")
        return notes

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Model, processor, and the code of both and of the pipeline."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)
