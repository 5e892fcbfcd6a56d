"""A model card written from the facts of a run: metadata that the Hub can parse, and text without placeholders."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_mmintent.metrics.tables import NOT_AVAILABLE, format_score, units

from .run_summary import RunSummary, Score, mean_and_std

NOT_RECORDED = "not recorded"
CODE_LICENSE = "Apache-2.0"

# Licence identifiers of the Hub that occur with weights and data of this field; any other one is `other` plus its name.
_OPEN_SOURCE = (
    "apache-2.0",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "gpl-2.0",
    "gpl-3.0",
    "lgpl-3.0",
    "agpl-3.0",
    "mpl-2.0",
)
_KINDS = ("", "-sa", "-nc", "-nc-sa", "-nd", "-nc-nd")
_CREATIVE_COMMONS = tuple(f"cc-by{kind}-{number}" for kind in _KINDS for number in ("3.0", "4.0"))
HUB_LICENSES = frozenset((*_OPEN_SOURCE, *_CREATIVE_COMMONS, "cc0-1.0", "odbl", "openrail", "unlicense", "unknown"))
# First word of a metric's name -> id of that metric on the Hub. The full name, with its averaging, is kept beside it.
HUB_METRICS = {"acc": "accuracy", "acc2": "accuracy", "acc5": "accuracy", "acc7": "accuracy", "corr": "pearsonr",
               "pearson": "pearsonr", "bleu": "bleu", "bleu4": "bleu", "rougel": "rouge", "rouge": "rouge"}  # fmt: skip
HUB_METRICS |= {name: name for name in ("accuracy", "f1", "precision", "recall", "mae", "mse", "meteor", "roc_auc")}


def build_model_card(run: RunSummary) -> ModelCard:
    """
    Write the model card of a run.

    Facts that the run does not hold are left out, or said to be not recorded; no text waits to be filled in. Absolute
    folders in the command line and in names of base models are shortened to their last part, because they tell a reader
    nothing and name the author's machine.

    Args:
        run ([`RunSummary`]): the facts.

    Returns:
        [`huggingface_hub.ModelCard`] with `license`, `library_name`, `pipeline_tag`, `tags`, `datasets`, `base_model`,
        `metrics`, `language` and a `model-index` in its metadata, as far as they are known.
    """
    sections = (
        _introduction(run),
        _usage(run),
        _inputs(run),
        _training_data(run),
        _results(run),
        _robustness(run),
        _areas(run),
        _images(run),
        _limits(run),
        _citation(run),
        _licences(run),
    )
    body = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{card_data(run).to_yaml()}\n---\n\n{body}\n")


def card_data(run: RunSummary) -> ModelCardData:
    """The metadata of the card; see [`build_model_card`]."""
    results = eval_results(run)
    tags = [
        "hf_mmintent",
        "multimodal",
        run.model_type,
        *run.modalities,
        *(["synthetic-data"] if run.synthetic else []),
    ]
    base_models = list(dict.fromkeys(name for name in run.base_models.values() if _is_repo_id(name)))
    return ModelCardData(
        language=run.language,
        library_name="transformers",
        pipeline_tag=pipeline_tag(run),
        tags=tags,
        datasets=[run.dataset_id] if run.dataset_id else None,
        base_model=base_models or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        eval_results=results or None,
        model_name=run.model_name if results else None,  # part of the model-index only
        **_license_fields(run),  # type: ignore[arg-type]
    )


def eval_results(run: RunSummary) -> list[EvalResult]:
    """One `EvalResult` per split and metric, the mean over the seeds; a score that is not finite has no place in it."""
    if run.dataset_name is None and run.dataset_id is None:  # a result needs a dataset; the text still shows the scores
        return []
    name_in_words = run.dataset_name or str(run.dataset_id)
    tag = pipeline_tag(run)
    results = []
    for row in run.results:
        for name, score in row.scores.items():
            mean, _ = mean_and_std(score)
            if math.isfinite(mean):
                results.append(
                    EvalResult(
                        task_type=tag,
                        task_name=run.task,
                        dataset_type=run.dataset_id or _slug(name_in_words),
                        dataset_name=name_in_words,
                        dataset_config=run.dataset_config,
                        dataset_split=row.split,
                        metric_type=hub_metric(name),
                        metric_name=name,
                        metric_value=mean,
                    )
                )
    return results


def hub_metric(name: str) -> str:
    """Id on the Hub of a metric of this package: `f1_weighted` -> `f1`. An unknown metric keeps its name."""
    return HUB_METRICS.get(name, HUB_METRICS.get(name.lower().split("_")[0], name))


def pipeline_tag(run: RunSummary) -> str:
    """The Hub has no task that joins all modalities: the one of the richest modality, unless the run names another."""
    if run.pipeline_tag is not None:
        return run.pipeline_tag
    if "ForSequenceClassification" not in run.auto_class and "ForImageTextToText" in run.auto_class:
        return "video-text-to-text"
    for modality, tag in (("video", "video-classification"), ("audio", "audio-classification")):
        if modality in run.modalities:
            return tag
    return "text-classification"


def _introduction(run: RunSummary) -> str:
    lines = [f"# {run.model_name}", ""]
    if run.synthetic:
        lines += [
            "> **Trained on synthetic data.** The clips were generated, not recorded from people. The numbers below",
            "> show that the model and the training work; they say nothing about how it does on real speakers.",
            "",
        ]
    taken = _enumerate(run.modalities) or "its inputs"
    if "ForImageTextToText" in run.auto_class:
        does = f"reads {taken} and answers in words"
    elif run.problem_type == "regression":
        does = f"reads {taken} and predicts a number"
    elif run.problem_type == "multi_label_classification":
        does = f"reads {taken} and decides for each of {len(run.class_names) or 'its'} classes whether it applies"
    else:
        does = f"reads {taken} and predicts one of {len(run.class_names) or 'its'} classes"
    what = f"{run.task}: `{run.architecture}`" if run.task else f"`{run.architecture}`"
    lines.append(f"{what} {does}." + (f" {run.description}" if run.description else ""))
    facts = []
    if run.num_parameters is not None:
        facts.append(f"- Parameters: {run.num_parameters:,} (backbones included)")
    facts += [f"- {part.capitalize()} part starts from: `{_last_part(name)}`" for part, name in run.base_models.items()]
    if run.class_names:
        facts.append(f"- Classes, in the order of the logits: {', '.join(map(_code, run.class_names))}")
    return "\n".join([*lines, "", *facts]) if facts else "\n".join(lines)


def default_usage(run: RunSummary) -> str:
    """Lines that make `inputs`: a sentence, and random numbers in place of the features that the run lists."""
    lines = ["inputs = processor("]
    if "text" in run.modalities or not run.modalities:
        lines.append('    text=["you are late again"],')
    for row in run.inputs:
        if row.name.endswith("_features"):
            _, steps, width = row.shape.strip("()").split(", ")
            lines.append(
                f"    {row.name}=[torch.rand(40, {width})],  # put your own here: ({steps}, {width}) per sample"
            )
    lines.append('    return_tensors="pt",\n)')
    if any(row.name in ("input_values", "pixel_values") for row in run.inputs):
        lines.append('# a clip: processor(text=["..."], audio=["clip.mp4"], video=["clip.mp4"], return_tensors="pt")')
    return "\n".join(lines)


def usage_example(run: RunSummary, trust_remote_code: bool) -> str:
    """Python lines that open the checkpoint and run it; executed by the package's tests."""
    trust = ", trust_remote_code=True" if trust_remote_code else ""
    lines = [
        *([] if trust_remote_code else ["import hf_mmintent  # registers the architectures with the Auto classes"]),
        "import torch",
        f"from transformers import {run.auto_class}, AutoProcessor",
        "",
        f'repo = "{run.repo_id}"',
        f"processor = AutoProcessor.from_pretrained(repo{trust})",
        f"model = {run.auto_class}.from_pretrained(repo{trust}).eval()",
        "",
        *(run.usage or default_usage(run)).strip().splitlines(),
        "with torch.no_grad():",
    ]
    if "ForImageTextToText" in run.auto_class:
        lines += ["    tokens = model.generate(**inputs, max_new_tokens=64)"]
        lines += ["print(processor.batch_decode(tokens, skip_special_tokens=True)[0])"]
    elif run.problem_type == "regression":
        lines += ["    print(model(**inputs).logits.squeeze(-1).tolist())"]
    elif run.problem_type == "multi_label_classification":
        lines += ["    logits = model(**inputs).logits / model.config.calibration_temperature"]
        lines += ["scores = logits.sigmoid()[0]"]
        lines += ["print([model.config.id2label[i] for i, score in enumerate(scores.tolist()) if score > 0.5])"]
    else:
        lines += ["    logits = model(**inputs).logits / model.config.calibration_temperature"]
        lines += ["scores = logits.softmax(-1)[0]"]
        lines += ["print(model.config.id2label[int(scores.argmax())], float(scores.max()))"]
    return "\n".join(lines)


def _usage(run: RunSummary) -> str:
    if run.repo_id is None:
        return ""
    return "\n".join(
        [
            "## How to use",
            "",
            "With the package installed (`pip install hf_mmintent`), nothing from the repository is executed:",
            "",
            f"```python\n{usage_example(run, trust_remote_code=False)}\n```",
            "",
            "Without it: the code of the model lies beside the weights. `trust_remote_code=True` runs that code on",
            "your machine, so read it first, or pin a `revision` that you have read.",
            "",
            f"```python\n{usage_example(run, trust_remote_code=True)}\n```",
        ]
    )


def _inputs(run: RunSummary) -> str:
    if not run.inputs:
        return ""
    rows: list[Sequence[str]] = [(_code(row.name), row.shape, row.dtype) for row in run.inputs]
    note = ""
    if len(run.modalities) > 1:
        note = (
            "\n\nEvery modality but one may be missing: leave its tensors out for a whole batch, or give a mask row of "
            "zeros for a single sample."
        )
    return "## Inputs\n\n" + _table(("tensor", "shape", "dtype"), rows) + note


def _training_data(run: RunSummary) -> str:
    if run.dataset_name is None and run.dataset_id is None:
        return f"## Training data\n\nThe training data was {NOT_RECORDED}."
    name = run.dataset_name or run.dataset_id
    link = f" ([`{run.dataset_id}`](https://huggingface.co/datasets/{run.dataset_id}))" if run.dataset_id else ""
    config = f", configuration `{run.dataset_config}`" if run.dataset_config else ""
    lines = [f"## Training data\n\n{name}{link}{config}. Licence of the data: {run.dataset_license or NOT_RECORDED}."]
    if run.split_sizes:
        sizes: list[Sequence[str]] = [(split, f"{size:,}") for split, size in run.split_sizes.items()]
        lines.append(_table(("split", "samples"), sizes))
    return "\n\n".join(lines)


def _results(run: RunSummary) -> str:
    if not run.results:
        return f"## Results\n\nNo evaluation was recorded for this checkpoint.\n\n{_provenance(run)}"
    names = _metric_names(row.scores for row in run.results)
    rows: list[Sequence[str]] = [
        (row.split, f"{row.n:,}", *(_format(row.scores, name) for name in names)) for row in run.results
    ]
    parts = ["## Results", _table(("split", "n", *names), rows), f"Scores {units(names)}."]
    if any(mean_and_std(score)[1] is not None for row in run.results for score in row.scores.values()):
        parts.append("Mean ± sample standard deviation over the seeds.")
    elif len(run.seeds) == 1:
        parts.append("One seed: by how much another one would differ was not measured.")
    if run.references:
        names = _metric_names(row.scores for row in run.references)
        others = [(r.name, r.source, *(_format(r.scores, name) for name in names)) for r in run.references]
        parts += ["Reported by others, for comparison:", _table(("system", "source", *names), others)]
    return "\n\n".join([*parts, _provenance(run)])


def _provenance(run: RunSummary) -> str:
    command = f"\n\n```bash\n{shorten_paths(run.command).strip()}\n```" if run.command else f" {NOT_RECORDED}"
    duration = f"{run.duration / 60:.1f} minutes" if run.duration is not None else NOT_RECORDED
    libraries = ", ".join(f"{name} {number}" for name, number in run.libraries.items())
    facts = {
        "Choice of the checkpoint": run.selection,
        "Seeds": ", ".join(map(str, run.seeds)),
        "Commit of the code": _code(run.commit) if run.commit else "",
        "Hardware": run.hardware,
        "Training time": duration,
        "Libraries": libraries,
    }
    lines = [f"- {name}: {value or NOT_RECORDED}" for name, value in facts.items()]
    return "### How the numbers were made\n\n" + "\n".join(lines) + f"\n- Command:{command}"


def _robustness(run: RunSummary) -> str:
    if not run.ablation:
        return ""
    names = _metric_names(row.scores for row in run.ablation)
    everything = list(run.modalities) or list(dict.fromkeys(name for row in run.ablation for name in row.modalities))
    rows: list[Sequence[str]] = []
    for row in run.ablation:
        label = _enumerate([name for name in everything if name not in row.modalities]) or "nothing"
        rows.append((_enumerate(row.modalities), label, *(_format(row.scores, name) for name in names)))
    where = f" ({run.ablation_split} split)" if run.ablation_split else ""
    text = f"The same weights, given only some of the modalities{where}; nothing was retrained."
    return f"## When a modality is missing\n\n{text}\n\n" + _table(("given", "missing", *names), rows)


def _areas(run: RunSummary) -> str:
    if not run.areas:
        return ""
    metric, split = run.area_metric or "score", f" ({run.area_split} split)" if run.area_split else ""
    text = (
        f"Mean {metric} over the strengths of a perturbation, that is the area under its curve divided by its width"
        f"{split}; nothing was retrained. Strengths run from nothing to the one named: σ of noise in standard deviations of "
        "the input, shares of frames or words lost, errors per word, or the number of modalities missing."
    )
    rows: list[Sequence[str]] = [
        (
            row.perturbation,
            row.modality,
            format_score(metric, row.clean),
            format_score(metric, row.area),
            f"{row.strongest:g}",
            format_score(metric, row.at_strongest),
        )
        for row in run.areas
    ]
    head = ("perturbation", "of", f"clean {metric}", "area", "strongest", f"{metric} there")
    return f"## When the input gets worse\n\n{text}\n\n" + _table(head, rows)


def _images(run: RunSummary) -> str:
    return "\n\n".join(f"![{_cell(caption)}]({path})" for path, caption in run.images.items())


def _limits(run: RunSummary) -> str:
    own = [f"- {limit}" for limit in run.limits]
    data = f" ({_cell(run.dataset_name)})" if run.dataset_name else ""
    return "\n".join(
        [
            "## Limits and responsible use",
            "",
            *own,
            f"- The model learned which labels the clips were given in one collection{data}. It does not know",
            f"  what a person feels or wants, and {_certainty(run)}",
            "- Voices, faces, dialects, ages, cultures and recording conditions that are rare in the training data",
            "  can be read worse, and differently. Measure the groups you care about before relying on an output.",
            "- Do not use it to judge, rank, hire, grade, police, diagnose or watch people. Emotion recognition at",
            "  work and in schools is prohibited in the European Union, with few exceptions, and restricted elsewhere.",
            "- Tell people who are analysed, ask for their consent, and keep a human responsible for every decision.",
        ]
    )


def _certainty(run: RunSummary) -> str:
    found = run.calibration
    if found is None:
        return "its scores are not calibrated certainties."
    return (
        f"its probabilities are calibrated (temperature {found.temperature:.3g}, fitted\n  on the {found.fitted_on} split; "
        f"expected calibration error {found.ece_before:.3f} without and {found.ece_after:.3f} with it on the "
        f"{found.measured_on} split)\n  for clips like those only."
    )


def _citation(run: RunSummary) -> str:
    if run.citation is None:
        return ""
    return f"## Citation\n\n```bibtex\n{run.citation.strip()}\n```"


def _licences(run: RunSummary) -> str:
    weights = run.license or NOT_RECORDED
    link = f" ({run.license_link})" if run.license_link and run.license else ""
    data = run.dataset_license or NOT_RECORDED
    return "\n".join(
        [
            "## Licences",
            "",
            f"- Code: {CODE_LICENSE}",
            f"- Weights: {weights}{link}",
            f"- Training data: {data}. Its terms may also bind what is derived from it.",
        ]
    )


def shorten_paths(text: str) -> str:
    """Replace absolute folders by their last part: `--data_dir /home/me/data/MIntRec` -> `--data_dir MIntRec`."""
    return re.sub(r"(?<![\w:/.~}\]-])(?:~|[A-Za-z]:)?[/\\](?:[^\s'\"=,:/\\]+[/\\])*(?=[^\s'\"=,:/\\])", "", text)


def _license_fields(run: RunSummary) -> dict[str, str]:
    if run.license is None:
        return {}
    fields = {"license": run.license.lower()}
    if fields["license"] not in HUB_LICENSES:
        fields = {"license": "other", "license_name": _slug(run.license)}
        if run.license_link:
            fields["license_link"] = run.license_link
    return fields


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:  # a folder
        return False
    return not name.startswith(("~", ".")) and "\\" not in name


def _last_part(name: str) -> str:
    return name if _is_repo_id(name) else re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "other"


def _metric_names(scores: Iterable[Mapping[str, Score]]) -> list[str]:
    return list(dict.fromkeys(name for row in scores for name in row))


def _format(scores: Mapping[str, Score], name: str) -> str:
    if name not in scores:
        return NOT_RECORDED
    mean, std = mean_and_std(scores[name])
    if not math.isfinite(mean):
        return NOT_AVAILABLE
    return format_score(name, mean) + ("" if std is None else f" ± {format_score(name, std)}")


def _cell(text: object) -> str:
    """One line, without what would break a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _code(text: object) -> str:
    return f"`{' '.join(str(text).split()).replace('`', chr(39))}`"


def _enumerate(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(map(_cell, head))} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(_cell, row))} |" for row in rows)])
