"""One clip and/or one sentence to a ranked answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.modeling.calibration import label_probabilities
from hf_mmintent.modeling.media_sampling import MediaError
from hf_mmintent.modeling.out_of_scope import OutOfScope
from hf_mmintent.modeling.processing_media import MediaSettings


@dataclass
class Answer:
    """
    Labels with calibrated probabilities, best first (one "value" in regression), and the modality weights, if any.

    `none_of_these` is the rule's label when the checkpoint has a rule for what is out of scope and rejects the sample, and
    `margin` by how much the rule decided, negative for a rejection; both `None` without a rule.
    """

    ranking: list[tuple[str, float]]
    modality_weights: dict[str, float]
    used: list[str]
    none_of_these: str | None = None
    margin: float | None = None


@torch.no_grad()
def predict_one(
    checkpoint: str | Path | tuple[PreTrainedModel, ProcessorMixin],
    clip: str | Path | bytes | None = None,
    text: str | None = None,
    top_k: int = 5,
) -> Answer:
    """
    Args:
        checkpoint: folder, Hub id, or an opened `(model, processor)`.
        clip: video or audio file, or its bytes; a missing stream is a missing modality. A checkpoint's own encoder reads a
            long one part by part; all of it is one sample (the pipelines label windows).
        text: the words, if known.
        top_k: length of the ranking.

    Raises:
        MediaError: the clip cannot be decoded.
        ValueError: neither clip nor text is given, the text is empty, the checkpoint takes no raw clips, or `top_k` is no
            positive number.
    """
    if top_k < 1:
        raise ValueError(f"`top_k` is {top_k}: how many labels to name, at least 1.")
    model, processor = checkpoint if isinstance(checkpoint, tuple) else open_checkpoint(checkpoint)
    if clip is None and text is None:
        raise ValueError("nothing to label: give a clip, a text, or both.")
    inputs, used = _inputs(model, processor, clip, text)
    outputs = model(**{name: value.to(model.device) for name, value in inputs.items()})
    logits = outputs.logits[0].float()
    if model.config.problem_type == "regression":
        ranking = [("value", logits.item())]
    else:
        probabilities = label_probabilities(logits, model.config)
        best = probabilities.topk(min(top_k, len(probabilities)))
        ranking = [
            (model.config.id2label[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
    weights = outputs.get("modality_weights")
    named = {} if weights is None else dict(zip(model.config.modality_weight_names, weights[0].tolist(), strict=True))
    rule = OutOfScope.of(model.config)
    if rule is None:
        return Answer(ranking, named, used)
    margin = rule.margins(outputs.logits, outputs.embeddings)[0]
    return Answer(ranking, named, used, None if rule.accepts(margin) else rule.label, margin.item())


def _inputs(
    model: PreTrainedModel, processor: ProcessorMixin, clip: str | Path | bytes | None, text: str | None
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """What the model takes, and which of words, sound and pictures are in it."""
    words = None if text is None else [text]
    if clip is None or processor.media is None:  # without an encoder the processor makes all inputs, or says why not
        media = {} if clip is None else {"audio": [clip], "video": [clip]}
        inputs = dict(processor(text=words, **media))
        return inputs, [name for name in ("input_ids", "input_values", "pixel_values") if name in inputs]
    inputs = dict(processor(text=words)) if words is not None and "text" in processor.modalities else {}
    known = {name: clip if name in processor.modalities else None for name in ("audio", "video")}
    features = model.clip_features(**known, settings=MediaSettings(**processor.media))
    for name in ("audio", "video"):
        if f"{name}_features" in features and not features[f"{name}_attention_mask"].any():
            del features[f"{name}_features"], features[f"{name}_attention_mask"]  # too short for a single step
    raw = {"audio_features": "input_values", "video_features": "pixel_values"}
    used = ["input_ids"] * ("input_ids" in inputs) + [name for key, name in raw.items() if key in features]
    if not used:
        raise MediaError(
            f"the clip has none of the modalities {processor.modalities} of this checkpoint: give the words."
        )
    return inputs | features, used
