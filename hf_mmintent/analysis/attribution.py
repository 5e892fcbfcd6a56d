"""Which words, seconds and frames an answer rests on: gradient × input for one clip.

    python examples/analyze.py attribution runs/quickstart/seed_0/final --clip clip.mp4 --text "you did that all by yourself"
    python examples/analyze.py attribution runs/mvcl_daf_mintrec --row dia125utt3 --split test
    python examples/analyze.py attribution runs/quickstart/seed_0/final --clip clip.mp4 --target Praise

Every input is multiplied with the gradient of the target's logit (of a regression: of the value), and summed up per word, step
of sound and frame: to first order what the logit would lose if that part were zero. Of words these are the embeddings; of sound
and pictures the features that the model reads, after its encoder and standardisation, so that zero is their mean. Positive
speaks for the target. It says what this model reacts to, not what made the speaker say it. For every classifier and regressor.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.processing_utils import ProcessorMixin

from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data.reading import direct
from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.modeling.calibration import label_probabilities
from hf_mmintent.modeling.processing_media import MediaSettings, prepare_media
from hf_mmintent.run_data import find_checkpoints

from .common import Batch, add_checkpoint_arguments, dataset_rows, save, table

RAW = {"audio": "input_values", "video": "pixel_values"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)
    parser.add_argument("--clip", help="video or audio file")
    parser.add_argument("--text", help="what is said in it")
    parser.add_argument(
        "--row", help="id of a row of the split, in place of a clip; the first one when neither is given"
    )
    parser.add_argument("--target", help="label to explain; the predicted one by default")


@dataclass
class Attribution:
    """
    Gradient × input of one sample, in units of the target's logit.

    Args:
        target: name of the explained label; "value" in regression.
        score: its probability, or the value.
        logit: of the target.
        words: of the text, as it was given.
        word_scores: (W,), with those of special tokens, which are no words, left out.
        special: sum over the special tokens.
        steps: modality -> (T,) per step of its features.
        seconds: modality -> length of its clip, where it is known.
        frames: (F, H, W, 3) uint8, to show; `None` where there is no clip.
    """

    target: str
    score: float
    logit: float
    words: list[str]
    word_scores: np.ndarray
    special: float
    steps: dict[str, np.ndarray]
    seconds: dict[str, float] = field(default_factory=dict)
    frames: np.ndarray | None = None

    def totals(self) -> dict[str, float]:
        """Sum per modality; "special tokens" beside the words."""
        text = {} if not self.words else {"text": float(self.word_scores.sum()), "special tokens": self.special}
        return {**text, **{name: float(values.sum()) for name, values in self.steps.items()}}


def attribute(
    model: PreTrainedModel, processor: ProcessorMixin, batch: Batch, text: str | None = None, target: str | None = None
) -> Attribution:
    """
    Attribution of one sample.

    Args:
        model: a classifier or regressor in eval mode; its weights get no gradient.
        processor: of the model.
        batch: of one sample, as the processor made it; raw clips are encoded first.
        text: the words from which `input_ids` were made.
        target: name of a label; the predicted one when `None`.

    Raises:
        ValueError: several samples, an unknown label, or a model that writes.
    """
    if model.can_generate():
        raise ValueError(f"{type(model).__name__} writes its answers: it has no logit of a label to explain.")
    inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
    sizes = {len(value) for value in inputs.values()}
    if sizes != {1}:
        raise ValueError(f"the batch has {sorted(sizes)} samples: explain one at a time.")
    inputs = _with_features(model, inputs)
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in inputs if name.endswith("_features")}
    embedded: list[Tensor] = []

    def watch(module: nn.Module, arguments: Any, made: Tensor) -> Tensor:
        made = made.detach().requires_grad_()
        embedded.append(made)
        return made

    hook = model.get_input_embeddings().register_forward_hook(watch) if "input_ids" in inputs else None
    try:
        # cuDNN has no gradient of a recurrence in eval mode.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            logits = model(**{**inputs, **leaves}).logits[0].float()
            name, index = _target(model, logits, target)
            sources = [*leaves.values(), *embedded]
            gradients = torch.autograd.grad(logits[index], sources, allow_unused=True)
    finally:
        if hook is not None:
            hook.remove()
    products = [_product(source, gradient) for source, gradient in zip(sources, gradients, strict=True)]
    steps = {}
    for leaf, values in zip(leaves, products, strict=False):
        modality = leaf.removesuffix("_features")
        mask = inputs.get(f"{modality}_attention_mask")
        steps[modality] = values if mask is None else values[mask[0].bool().cpu().numpy()]
    tokens = np.sum(products[len(leaves) :], axis=0) if embedded else np.zeros(0)  # embedded twice: both count
    words, scores, special = _by_word(processor, inputs, text, tokens) if embedded else ([], np.zeros(0), 0.0)
    regression = model.config.problem_type == "regression"
    score = logits[0] if regression else label_probabilities(logits, model.config)[index]
    return Attribution(name, float(score.detach()), float(logits[index].detach()), words, scores, special, steps)


def _product(source: Tensor, gradient: Tensor | None) -> np.ndarray:
    """(T,): gradient × input of every step, summed over its width; 0 where the logit does not depend on it."""
    if gradient is None:
        return np.zeros(source.shape[1])
    return (gradient * source)[0].detach().float().flatten(1).sum(1).cpu().numpy()


@torch.no_grad()
def _with_features(model: PreTrainedModel, inputs: Batch) -> Batch:
    """Raw media through the model's own encoder; anything else as it is."""
    raw = {f"{name}{end}" for name in RAW.values() for end in ("", "_mask")}
    if not raw & set(inputs):
        return inputs
    media = [inputs.get(name) for name in ("input_values", "input_values_mask", "pixel_values", "pixel_values_mask")]
    made = model.backbone_owner().encode_media(*media)
    kept = {name: value for name, value in inputs.items() if name not in raw}
    for name, (features, mask) in made.items():
        if name in model.config.modalities:
            kept |= {f"{name}_features": features, f"{name}_attention_mask": mask}
    return kept


def _target(model: PreTrainedModel, logits: Tensor, target: str | None) -> tuple[str, int]:
    if model.config.problem_type == "regression":
        if target is not None:
            raise ValueError(f"`target` is {target!r} but the model predicts a value: leave it out.")
        return "value", 0
    names = model.config.id2label
    if target is None:
        index = int(logits.argmax())
        return names[index], index
    known = {name.lower(): index for index, name in names.items()}
    if target.lower() not in known:
        raise ValueError(f"`target` is {target!r}: the labels are {list(names.values())}.")
    return names[known[target.lower()]], known[target.lower()]


def _by_word(
    processor: ProcessorMixin, inputs: Batch, text: str | None, tokens: np.ndarray
) -> tuple[list[str], np.ndarray, float]:
    """Scores of tokens added up to words; the sum over all other positions."""
    if text is None:
        return [], np.zeros(0), float(tokens.sum())
    words = [match.span() for match in re.finditer(r"\S+", text)]
    encoded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = inputs["input_ids"][0].tolist()
    start = _find(ids, encoded["input_ids"])
    scores, rest = np.zeros(len(words)), float(tokens.sum())
    for place, (begin, _) in enumerate(encoded["offset_mapping"]):
        position = start + place
        if position >= len(tokens) or ids[position] != encoded["input_ids"][place]:
            break  # the rest was cut
        word = next(number for number, (first, last) in enumerate(words) if first <= begin < last or begin < first)
        scores[word] += tokens[position]
    return [text[first:last] for first, last in words], scores, rest - float(scores.sum())


def _find(ids: list[int], wanted: list[int]) -> int:
    """
    Where the longest beginning of `wanted` stands in `ids`.

    Raises:
        ValueError: not even its first token is there.
    """
    lengths = []
    for start in range(len(ids)):
        length = 0
        while length < len(wanted) and start + length < len(ids) and ids[start + length] == wanted[length]:
            length += 1
        lengths.append(length)
    best = int(np.argmax(lengths)) if lengths else 0
    if not lengths or lengths[best] == 0:
        raise ValueError("the words given are not those in `input_ids`: pass the text from which the batch was made.")
    return best


# ---- one clip or row ------------------------------------------------------------------------------------------------


def of_clip(
    model: PreTrainedModel, processor: ProcessorMixin, clip: Any, text: str | None, target: str | None = None
) -> Attribution:
    """
    Attribution of a clip and what is said in it.

    Raises:
        MediaError: the clip cannot be decoded.
        ValueError: neither is given, or the checkpoint takes no clips.
    """
    if clip is None and text is None:
        raise ValueError("nothing to explain: give a clip, a text, or both.")
    media = {} if clip is None else {name: [clip] for name in RAW}
    batch = dict(processor(text=None if text is None else [text], **media))
    found = attribute(model, processor, batch, text if "text" in processor.modalities else None, target)
    if clip is not None:
        _show(found, processor, clip, None, None)
    return found


def of_row(
    model: PreTrainedModel, processor: ProcessorMixin, row: dict[str, Any], target: str | None = None
) -> Attribution:
    """Attribution of a row of a dataset, from its clip where the model takes clips, else from its features."""
    collator = MultimodalCollator(processor)
    row = {name: value for name, value in row.items() if name != "label"}
    text = row.get("text") if "text" in processor.modalities else None
    found = attribute(model, processor, collator([row]), text, target)
    sources = [row.get(name) for name in ("video_path", "video", "audio_path", "audio") if row.get(name) is not None]
    if processor.media is not None and sources:
        _show(found, processor, sources[0], row.get("start_time"), row.get("end_time"))
    return found


def _show(found: Attribution, processor: ProcessorMixin, clip: Any, start: float | None, end: float | None) -> None:
    """Add the length and the pictures of the clip."""
    settings = MediaSettings(**processor.media)
    arrays = prepare_media([clip], [clip], settings, [start], [end])
    if "input_values" in arrays:
        found.seconds["audio"] = arrays["input_values"].shape[1] / settings.sampling_rate
    if "pixel_values" in arrays:
        frames = arrays["pixel_values"][0].transpose(0, 2, 3, 1)
        frames = frames * np.asarray(settings.image_std, np.float32) + np.asarray(settings.image_mean, np.float32)
        found.frames = np.clip(np.round(255 * frames), 0, 255).astype(np.uint8)
        found.seconds["video"] = len(frames) / settings.frame_rate


def draw_attribution(found: Attribution, title: str = "") -> Figure:
    """Words as bars, sound and pictures over time, some frames on top of theirs."""
    sequences = list(found.steps)
    heights = [1.2] if found.words else []
    for name in sequences:
        heights += [0.9, 1.0] if name == "video" and found.frames is not None else [1.0]
    size = (9.5, 1.7 * sum(heights) + 0.8)
    figure, axes = plt.subplots(len(heights), 1, figsize=size, height_ratios=heights, squeeze=False)
    rest = list(axes[:, 0])
    if found.words:
        axis = rest.pop(0)
        places = np.arange(len(found.words))
        axis.bar(places, found.word_scores, color=_colours(found.word_scores))
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(xticks=places, ylabel="words")
        axis.set_xticklabels(found.words, rotation=30 if len(found.words) > 12 else 0, fontsize=9)
    for name in sequences:
        values = found.steps[name]
        length = found.seconds.get(name)
        edges = np.linspace(0, length or len(values), len(values) + 1)
        if name == "video" and found.frames is not None:
            _filmstrip(rest.pop(0), found.frames, values)
        axis = rest.pop(0)
        axis.bar(edges[:-1], values, width=np.diff(edges), align="edge", color=_colours(values))
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(xlim=(0, edges[-1]), ylabel=name, xlabel="seconds" if length else "steps")
    totals = "   ".join(f"{name} {value:+.2f}" for name, value in found.totals().items())
    figure.suptitle(
        f"{title}{found.target} ({found.score:.3f}), logit {found.logit:.2f}\n{totals}\nred speaks for it, blue against",
        fontsize=10,
    )
    figure.tight_layout()
    return figure


def _colours(values: np.ndarray) -> list[str]:
    return ["tab:red" if value > 0 else "tab:blue" for value in values]


def _filmstrip(axis: Any, frames: np.ndarray, values: np.ndarray, most: int = 10) -> None:
    """Frames at equal distances, framed by what their part of the curve says."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    sums = [values[int(i * len(values) / len(frames)) :][: max(len(values) // len(chosen), 1)].sum() for i in chosen]
    height, width = frames.shape[1:3]
    gap = max(width // 12, 2)
    for place, (index, total) in enumerate(zip(chosen, sums, strict=True)):
        left = place * (width + gap)
        axis.imshow(frames[index], extent=(left, left + width, 0, height))
        colour = "tab:red" if total > 0 else "tab:blue"
        axis.add_patch(plt.Rectangle((left, 0), width, height, fill=False, edgecolor=colour, linewidth=2))
    axis.set(xlim=(-gap, len(chosen) * (width + gap)), ylim=(-gap, height + gap), aspect="equal")
    axis.axis("off")


def run(arguments: argparse.Namespace) -> str:
    path = find_checkpoints(arguments.checkpoint)[0]
    model, processor = open_checkpoint(path)
    if arguments.clip is not None or arguments.text is not None:
        found = of_clip(model, processor, arguments.clip, arguments.text, arguments.target)
        name = Path(arguments.clip).stem if arguments.clip else "text"
    else:
        rows = dataset_rows(path, arguments, arguments.split)
        ids = [str(identifier) for identifier in rows["id"]]
        name = ids[0] if arguments.row is None else str(arguments.row)
        if name not in ids:
            raise ValueError(
                f"`--row {name}`: the {arguments.split} split has no such id; the first ones are {ids[:5]}."
            )
        found = of_row(model, processor, dict(direct(rows)[ids.index(name)]), arguments.target)
    numbers = {
        "target": found.target,
        "score": found.score,
        "logit": found.logit,
        "words": list(zip(found.words, found.word_scores.tolist(), strict=True)),
        "special_tokens": found.special,
        "steps": {modality: values.tolist() for modality, values in found.steps.items()},
        "seconds": found.seconds,
        "totals": found.totals(),
    }
    written = save(
        f"{arguments.output_dir}/attribution_{Path(name).name}", draw_attribution(found, f"{name}: "), numbers
    )
    rows_shown = [[word, float(score)] for word, score in zip(found.words, found.word_scores, strict=True)]
    rows_shown += [[f"all of {part}", value] for part, value in found.totals().items()]
    return f"{found.target} {found.score:.4f}\n\n{table(['part', 'gradient × input'], rows_shown)}\n{written}"
