"""Answers of a model that writes: labels and reasons on a split, or for one clip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data.media_features import add_media_features, has_raw_media
from hf_mmintent.metrics import BertScorer, explanation_scores_by_field, joint_scores
from hf_mmintent.metrics.files import atomic_path

LABELS = ("emotion", "intent")
REASONS = ("emotion_reason", "intent_reason", "joint_reason")
IGNORED = -100


@dataclass
class WrittenAnswer:
    """
    One answer.

    Args:
        id: of the row.
        text: as generated.
        emotion, intent: names that were read from it, `None` where none could be.
        emotion_reason, intent_reason, joint_reason: "" where there is none.
        scored_emotion, scored_intent: names by likelihood of the label words, where that was asked for.
    """

    id: Any
    text: str
    emotion: str | None
    intent: str | None
    emotion_reason: str
    intent_reason: str
    joint_reason: str
    scored_emotion: str | None = None
    scored_intent: str | None = None


@dataclass
class AnswerEvaluation:
    """Scores on one split under one condition, and the answers behind them."""

    condition: str
    scores: dict[str, float]
    answers: list[WrittenAnswer]

    def save(self, path: str | Path) -> None:
        """One JSON line per answer."""
        with atomic_path(Path(path)) as temporary:
            lines = [json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in self.answers]
            temporary.write_text("".join(lines), encoding="utf-8")


@torch.no_grad()
def write_answers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Dataset,
    drop_modalities: Sequence[str] = (),
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    score_labels: bool = True,
    progress: str | None = None,
) -> list[WrittenAnswer]:
    """
    An answer for every row, in order; targets that the rows hold are not read.

    Args:
        model, processor: of a checkpoint.
        rows: with features or media.
        drop_modalities: what the model does not get to see.
        batch_size: does not change the answers.
        max_new_tokens: in place of the model's own limit.
        score_labels: also choose labels by likelihood.
        progress: what the bar says; no bar when `None`.
    """
    collator = MultimodalCollator(processor, drop_modalities=tuple(drop_modalities), label_column="labels")
    rows = rows.remove_columns([name for name in (*LABELS, *REASONS, "label") if name in rows.column_names])
    options = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    ids = list(rows["id"]) if "id" in rows.column_names else list(range(len(rows)))
    words = processor.label_token_ids() if score_labels else None
    found: list[WrittenAnswer] = []
    loader = DataLoader(rows, batch_size=batch_size, collate_fn=collator)
    for batch in tqdm(loader, desc=progress or "answers", disable=progress is None, leave=False):
        batch = {name: value.to(model.device) for name, value in batch.items()}
        sequences = model.generate(**batch, **options)
        texts = processor.decode_texts(sequences, batch["input_ids"].shape[1])
        scored = [(None, None)] * len(texts)
        if words is not None:
            chosen = model.score_labels(batch, *words)
            names = processor.emotion_names, processor.intent_names
            pairs = zip(chosen.emotion_ids.tolist(), chosen.intent_ids.tolist(), strict=True)
            scored = [(names[0][first], names[1][second]) for first, second in pairs]
        for text, (emotion, intent) in zip(texts, scored, strict=True):
            parsed = processor.parse(text)
            reasons = {name: getattr(parsed, name) for name in REASONS}
            found.append(
                WrittenAnswer(
                    ids[len(found)],
                    text,
                    parsed.emotion,
                    parsed.intent,
                    **reasons,
                    scored_emotion=emotion,
                    scored_intent=intent,
                )
            )
    return found


def answer_scores(
    answers: Sequence[WrittenAnswer], rows: Dataset, processor: ProcessorMixin, scorer: BertScorer | None = None
) -> dict[str, float]:
    """
    Scores of answers against the targets of their rows.

    Args:
        answers: one per row.
        rows: with `emotion`, `intent` and those of the reasons that the dataset has.
        processor: knows the label names.
        scorer: for BERTScore.

    Returns:
        Keys of [`joint_scores`] for the labels read from the answers, the same with `scored_` for those chosen by
        likelihood, `parse_rate`, and per reason the keys of [`explanation_scores`], each stripped of the label sentence
        and raw. A label that could not be read is wrong; an empty reason scores 0.

    Raises:
        ValueError: no row has a target.
    """
    scores: dict[str, float] = {}
    names = {"emotion": processor.emotion_names, "intent": processor.intent_names}
    labels = {name: _ids(rows[name], names[name]) for name in LABELS if name in rows.column_names}
    known = np.logical_and.reduce([ids != IGNORED for ids in labels.values()]) if labels else np.zeros(0, bool)
    if not known.any():
        raise ValueError("no row has an `emotion` and an `intent` to compare with.")
    for prefix in ("", "scored_"):
        given = {name: [getattr(answer, prefix + name) for answer in answers] for name in labels}
        if prefix and all(value is None for values in given.values() for value in values):
            continue
        guess = {name: _ids(values, names[name], missing=-1) for name, values in given.items()}
        found = joint_scores({name: (labels[name][known], guess[name][known]) for name in labels})
        scores.update({f"{prefix}{key}": value for key, value in found.items() if key != "n"})
    parsed = [answer.emotion is not None and answer.intent is not None for answer in answers]
    fields = {}
    for reason in REASONS:
        if reason in rows.column_names:
            pairs = [(truth, getattr(a, reason)) for truth, a in zip(rows[reason], answers, strict=True) if truth]
            if pairs:
                references, texts = zip(*pairs, strict=True)
                fields[reason.removesuffix("_reason")] = (references, texts)
    scores.update(explanation_scores_by_field(fields, parsed=parsed, scorer=scorer))
    return {**scores, "n": len(answers)}


def _ids(values: Any, names: Sequence[str], missing: int = IGNORED) -> np.ndarray:
    lower = [name.lower() for name in names]
    unknown = sorted({value for value in values if value is not None and value.lower() not in lower})
    if unknown:
        raise ValueError(f"the rows have the labels {unknown}, which the model does not know: its names are {lower}.")
    return np.array([missing if value is None else lower.index(value.lower()) for value in values])


def evaluate_answers(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Dataset,
    drop_modalities: Sequence[str] = (),
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    scorer: BertScorer | None = None,
    progress: bool = True,
) -> AnswerEvaluation:
    """
    Write an answer for every row and score it.

    Args:
        model, processor: of a checkpoint.
        rows: with targets, and features or media.
        drop_modalities: what the model does not get to see.
        batch_size, max_new_tokens: see [`write_answers`].
        scorer: for BERTScore.
        progress: show a bar.
    """
    condition = "clean" if not drop_modalities else "without " + " and ".join(drop_modalities)
    if model.config.encoder_config is not None and has_raw_media(rows):
        rows = add_media_features(rows, model.backbone_owner().media_encoder)
    answers = write_answers(
        model, processor, rows, drop_modalities, batch_size, max_new_tokens, progress=condition if progress else None
    )
    return AnswerEvaluation(condition, answer_scores(answers, rows, processor, scorer), answers)


@torch.no_grad()
def explain_one(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    clip: str | Path | bytes | None = None,
    text: str | None = None,
    max_new_tokens: int | None = None,
    captions: Mapping[str, str | None] | None = None,
) -> WrittenAnswer:
    """
    The five fields for one clip, one sentence, or both.

    Args:
        model, processor: of a checkpoint that takes raw clips.
        clip: video or audio file, or its bytes; a missing stream is a missing modality.
        text: the words, if known.
        max_new_tokens: in place of the model's own limit.
        captions: of the sound and of the pictures in words, by modality; a connector reads them as queries.

    Raises:
        MediaError: the clip cannot be decoded.
        ValueError: neither is given, the checkpoint takes no raw clips, or captions are given that it does not read.
    """
    captions = {name: caption for name, caption in (captions or {}).items() if caption is not None}
    if captions and not processor.use_captions:
        raise ValueError(f"captions of {sorted(captions)} are given but this checkpoint reads none: leave them out.")
    if clip is None and text is None:
        raise ValueError("nothing to explain: give a clip, a text, or both.")
    media = {} if clip is None else {name: [clip] for name in ("audio", "video") if name in processor.modalities}
    columns = {f"{name}_caption": [caption] for name, caption in captions.items()}
    batch = processor(text=None if text is None else [text], **media, **columns)
    batch = {name: value.to(model.device) for name, value in batch.items()}
    options = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    sequences = model.generate(**batch, **options)
    written = processor.decode_texts(sequences, batch["input_ids"].shape[1])[0]
    parsed = processor.parse(written)
    chosen = model.score_labels(batch, *processor.label_token_ids())
    return WrittenAnswer(
        Path(clip).name if isinstance(clip, (str, Path)) else None,
        written,
        parsed.emotion,
        parsed.intent,
        **{name: getattr(parsed, name) for name in REASONS},
        scored_emotion=processor.emotion_names[int(chosen.emotion_ids[0])],
        scored_intent=processor.intent_names[int(chosen.intent_ids[0])],
    )
