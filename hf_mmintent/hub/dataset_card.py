"""A dataset card written from the rows: metadata that plain `load_dataset` reads, and text without placeholders."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

import hf_mmintent
from hf_mmintent.data.dataset_facts import DatasetFacts
from hf_mmintent.data.validation import Finding, label_table, length_table, rows_table, table

from .dataset_rights import DatasetRights
from .parquet_shards import MEDIA_STRUCT, WrittenSplit

TAG = "hf_mmintent"

_MEANING = {
    "id": "key, unique over all splits",
    "text": "what is said, verbatim",
    "speaker": "who speaks",
    "dialogue_id": "dialogue or video that the row is cut from: rows that share it are not independent",
    "start_time": "begin of the segment in its file, seconds",
    "end_time": "end of the segment in its file, seconds",
    "context": "turns before, oldest first: `speaker` and `text`",
    "audio_caption": "description of the sound",
    "video_caption": "description of the pictures",
    "emotion": "name of the emotion",
    "intent": "name of the intent",
    "sentiment": "name of the sentiment",
    "emotion_reason": "why the emotion, in words",
    "intent_reason": "why the intent, in words",
    "joint_reason": "why emotion and intent, in words",
}
_TASKS = {"text": "text-classification", "audio": "audio-classification", "video": "video-classification"}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass
class PublishedConfig:
    """
    One configuration, as it was written.

    Args:
        name: Of the configuration; also the folder of its shards.
        info: Description, citation, homepage and licence as the builder says them.
        features: Columns of the published rows.
        splits: What was written, by name.
        facts: Counts of the rows.
        findings: What a user of the rows should know.
        options: Of the builder, as far as they were given.
        document: What the builder says about the dataset: what it is, layout, splits, traps.
    """

    name: str
    info: datasets.DatasetInfo
    features: datasets.Features
    splits: Mapping[str, WrittenSplit]
    facts: DatasetFacts
    findings: list[Finding] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)
    document: str = ""


def build_dataset_card(
    name: str, configs: list[PublishedConfig], rights: DatasetRights, repo_id: str | None = None
) -> DatasetCard:
    """
    Write the card of a published dataset.

    Args:
        name: Of the builder or folder that the rows come from.
        configs: What was written, the default configuration first.
        rights: Of whoever made the data.
        repo_id: Where it will lie; without it the card shows how to open the folder.

    Returns:
        [`huggingface_hub.DatasetCard`] with `configs` and `dataset_info` (features, label names, sizes) in its metadata.
    """
    first = configs[0]
    sections = [
        f"# {name}",
        inspect.cleandoc(first.info.description or first.document).split("\n\n")[0],
        _usage(configs, repo_id),
        *(_config_section(config, len(configs) > 1) for config in configs),
        _provenance(name, first),
        _licence(first.info, rights, any(MEDIA_STRUCT in config.features.values() for config in configs)),
        f"## Citation\n\n```bibtex\n{first.info.citation}\n```" if first.info.citation else "",
    ]
    body = "\n\n".join(section for section in sections if section)
    return DatasetCard(f"---\n{card_data(name, configs, rights).to_yaml()}\n---\n\n{body}\n")


def card_data(name: str, configs: list[PublishedConfig], rights: DatasetRights) -> DatasetCardData:
    """The metadata of the card; see [`build_dataset_card`]."""
    modalities = list(dict.fromkeys(m for config in configs for m in config.facts.modalities))
    rows = sum(split.rows for split in configs[0].splits.values())
    extra = {"license_name": "see-below"} if rights.license == "other" else {}
    data = DatasetCardData(
        language=["en"] if "text" in modalities else None,
        license=rights.license,
        pretty_name=name,
        task_categories=[_TASKS[m] for m in modalities if m in _TASKS] or None,
        size_categories=[next((label for limit, label in _SIZES if rows < limit), "n>1M")],
        tags=[TAG, "multimodal", *(m for m in modalities if m != name)],
        **extra,
    )
    infos = DatasetInfosDict({config.name: _sizes(config) for config in configs})
    infos.to_dataset_card_data(data)
    files: dict[str, dict[str, Any]] = {}
    for index, config in enumerate(configs):
        shards = [{"split": split, "path": f"{config.name}/{split}-*"} for split in config.splits]
        files[config.name] = {"data_files": shards, **({"default": True} if index == 0 and len(configs) > 1 else {})}
    MetadataConfigs(files).to_dataset_card_data(data)
    return data


def _sizes(config: PublishedConfig) -> datasets.DatasetInfo:
    splits = datasets.SplitDict()
    for name, written in config.splits.items():
        splits.add(datasets.SplitInfo(name, num_bytes=written.memory, num_examples=written.rows))
    return datasets.DatasetInfo(
        features=config.features,
        config_name=config.name,
        splits=splits,
        download_size=sum(written.disk for written in config.splits.values()),
        dataset_size=sum(written.memory for written in config.splits.values()),
    )


def _usage(configs: list[PublishedConfig], repo_id: str | None) -> str:
    place = f'"{repo_id or "path/to/this/folder"}"'
    several = f', "{configs[0].name}"' if len(configs) > 1 else ""
    named = f', name="{configs[0].name}"' if len(configs) > 1 else ""
    lines = ["## Use", "", "```python", "from datasets import load_dataset", "",
             f"rows = load_dataset({place}{several})", "```"]  # fmt: skip
    if any(isinstance(kind, datasets.Array2D) for config in configs for kind in config.features.values()):
        lines += [
            "",
            "Read single rows of that: `datasets` turns a missing feature into `NaN` and cannot return a batch that holds one. "
            "The package that wrote the rows returns features as float32 arrays and missing ones as `None`:",
            "",
            "```python",
            "import hf_mmintent",
            "",
            f"rows = hf_mmintent.load({place}{named})",
            "```",
        ]
    return "\n".join(lines)


def _config_section(config: PublishedConfig, is_one_of_several: bool) -> str:
    title = f"## Configuration `{config.name}`" if is_one_of_several else "## Rows"
    parts = [title, table(["field", "type", "meaning"], [_field(config, name) for name in config.features])]
    parts += ["### Splits", table(*rows_table(config.facts))]
    if config.facts.has_labels:
        parts += ["### Labels", table(*label_table(config.facts))]
    if lengths := length_table(config.facts)[1]:
        parts += ["### Lengths", table(length_table(config.facts)[0], lengths)]
    parts += ["### Known traps", _traps(config)]
    return "\n\n".join(parts)


def _field(config: PublishedConfig, name: str) -> list[str]:
    kind = config.features[name]
    modality = name.removesuffix("_features")
    missing = sum(len(part.missing[modality]) for part in config.facts.splits.values())
    null = f"; null in {missing} rows" if missing and modality in config.facts.modalities else ""
    if isinstance(kind, datasets.Array2D):
        return [
            f"`{name}`",
            f"{kind.dtype} (steps, {kind.shape[1]})",
            f"features of {modality}, not padded; unit and rate of a step: see Provenance{null}",
        ]
    if kind == MEDIA_STRUCT:
        return [f"`{name}`", "struct of bytes and path", f"the file itself, undecoded, and its name{null}"]
    if isinstance(kind, datasets.ClassLabel):
        return [f"`{name}`", f"class label, {kind.num_classes} names", "in the order of the table below"]
    if name == "label":
        values = [value for part in config.facts.splits.values() for value in part.values]
        return [
            "`label`",
            getattr(kind, "dtype", str(kind)),
            f"number from {min(values):g} to {max(values):g}" if values else "",
        ]
    shown = kind.dtype if isinstance(kind, datasets.Value) else "list" if name == "context" else str(kind)
    return [f"`{name}`", shown, _MEANING.get(name, "") + null]


def _traps(config: PublishedConfig) -> str:
    lines = [f"- {finding.kind}: {finding.message}" for finding in config.findings]
    if config.features.get("audio") == MEDIA_STRUCT and config.features.get("video") == MEDIA_STRUCT:
        lines.append("- `audio` and `video` may hold the same file, once each: a clip with sound.")
    for name in config.info.features or ():
        if name not in config.features and name.removesuffix("_path") not in config.features:
            lines.append(f"- `{name}` of the source leads to folders of pictures and is not published.")
    return "\n".join(lines) or "None was found in the rows; see below for what is known about the dataset."


def _provenance(name: str, config: PublishedConfig) -> str:
    lines = [
        "## Provenance",
        "",
        f"Written by `hf_mmintent` {hf_mmintent.__version__} from the files of {name}"
        + (f" (<{config.info.homepage}>)" if config.info.homepage else "")
        + ". No value was changed, padded, cut or normalised beyond what is said here.",
    ]
    if config.options:
        lines += ["", "Options: " + ", ".join(f"`{key}={value!r}`" for key, value in config.options.items()) + "."]
    rest = "\n\n".join(inspect.cleandoc(config.document).split("\n\n")[1:])
    if rest:
        lines += [
            "",
            "What the builder says about the files it reads (`data_dir`), the splits and their traps:",
            "",
            rest,
        ]
    return "\n".join(lines)


def _licence(info: datasets.DatasetInfo, rights: DatasetRights, has_media: bool) -> str:
    text = f"## Licence\n\n{(info.license or 'No licence was found').rstrip('.')}."
    if reason := rights.refusal(has_media):
        text += f"\n\n**Do not pass this on: {reason}.**"
    elif rights.reason:
        text += f"\n\nNote that {rights.reason}."
    return text
