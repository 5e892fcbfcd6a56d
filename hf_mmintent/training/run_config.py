"""What one training run is: a YAML file, with single values overridden by flags."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


@dataclass
class DataSettings:
    """
    Which rows a run sees.

    Args:
        name: builder of `data_scripts`, path of a script or Parquet folder, or id on the Hub.
        data_dir: folder with the official files; not needed for the embedded data.
        config_name: configuration of the builder, e.g. "in_scope".
        columns: which of text, features and media to read; "auto" takes what is there.
        train_split, validation_split: names of the two splits that training reads. It never reads another one.
        development_share: this part of the training rows, of every class alike, stands for the validation split, which is not
            looked at: for settings and epochs of data whose only other split is the one that is reported.
        development_seed: draws these rows, whatever the seed of the run.
        drop_modalities: left out of every row in training and validation, for ablations.
        options: further arguments of the loader.
    """

    name: str = "mmintent_mini"
    data_dir: str | None = None
    config_name: str | None = None
    columns: str | Sequence[str] = "auto"
    train_split: str = "train"
    validation_split: str = "validation"
    development_share: float | None = None
    development_seed: int = 0
    drop_modalities: Sequence[str] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.development_share is not None and not 0 < self.development_share < 1:
            raise ValueError(
                f"`data.development_share` is {self.development_share}: a part between 0 and 1, or nothing."
            )

    def load_arguments(self) -> dict[str, Any]:
        """Arguments of `hf_mmintent.load`."""
        return {"data_dir": self.data_dir, "name": self.config_name, "columns": self.columns, **self.options}


@dataclass
class RunConfig:
    """
    One training run. Every field can be set in a YAML file of the same shape and by a flag, `--data.data_dir PATH`.

    Args:
        model_type: architecture, e.g. "mvcl_daf".
        output_dir: folder of the run; one `seed_<n>` folder below it per seed.
        data: [`DataSettings`].
        backbones: pretrained parts, e.g. `{"text": "bert-base-uncased"}`; "package:NAME" opens a model folder inside an
            installed Python package.
        config: fields of the architecture's config.
        processor: arguments of its processor.
        encoder: when rows are raw clips, or features made from clips beforehand: fields of [`MediaEncoderConfig`],
            `{"preset": NAME}` or `{"path": FOLDER}` (see `hf_mmintent.encoders.build_encoder`). The checkpoint owns it.
        training: arguments of `transformers.TrainingArguments`.
        stage_training: arguments in place of those of `training` by the name of a stage, for a model that trains in stages.
        stage_losses: weights of loss terms (fields of the architecture's config that end in `_weight`) in place of those of
            `config`, by the name of a stage.
        learning_rates: rate by regular expression on parameter names, the first match wins; others take
            `training.learning_rate`.
        standardize: standardise features with the training rows' mean and deviation; kept in the processor.
        modality_dropout: probability of dropping each modality of a training sample, never all.
        validation_drops: validation scores every row without each of its modalities as well, and the mean of these scores and
            the plain one selects the epoch: for models that have to do without a modality. The plain score alone may be
            perfect long before they can.
        peft: adapters of the language model, see [`hf_mmintent.training.peft_runs.adapt`]; `None` trains everything.
        validation_new_tokens: length of the answers that validation generates; labels come first, so a few tokens do for
            them. The model's own limit by default.
        early_stopping_patience: epochs without a better validation score; `None` trains to the end.
        seeds: one run each.
    """

    model_type: str = "mvcl_daf"
    output_dir: str = "runs/run"
    data: DataSettings = field(default_factory=DataSettings)
    backbones: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    stage_training: dict[str, dict[str, Any]] = field(default_factory=dict)
    stage_losses: dict[str, dict[str, float]] = field(default_factory=dict)
    learning_rates: dict[str, float] = field(default_factory=dict)
    standardize: bool = False
    modality_dropout: float = 0.0
    validation_drops: bool = False
    peft: dict[str, Any] | None = None
    validation_new_tokens: int | None = None
    early_stopping_patience: int | None = None
    seeds: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        seeds = self.seeds
        if not isinstance(seeds, (list, tuple)) or not seeds or any(type(seed) is not int for seed in seeds):
            raise ValueError(f"`seeds` is {seeds!r}: expected a list of whole numbers, one run each.")
        if len(set(seeds)) != len(seeds):
            raise ValueError(
                f"`seeds` is {list(seeds)}: a seed that is there twice gives the same run, not a second one."
            )

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
        """
        Read a YAML file and apply overrides by dotted name.

        Raises:
            ValueError: a field is unknown; the message names the closest one.
        """
        values: dict[str, Any] = {}
        if path is not None:
            read = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            if not isinstance(read, dict):
                raise ValueError(f"{path} does not hold a mapping of run settings.")
            values = read
        for name, value in (overrides or {}).items():
            *groups, last = name.split(".")
            target = values
            for group in groups:
                if target.get(group) is None:
                    target[group] = {}
                target = target[group]
                if not isinstance(target, dict):
                    raise ValueError(f"`--{name}`: {group} is not a group of settings.")
            target[last] = copy.deepcopy(value)  # a later override may write into it: not into what the caller holds
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """A run from plain containers; unknown fields are errors."""
        values = _numbers(values)
        _check_names("run", values, cls)
        data = values.get("data") or {}
        _check_names("data", data, DataSettings)
        _check_names("training", values.get("training") or {}, TrainingArguments)
        return cls(**{**values, "data": DataSettings(**data)})

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, as a YAML or JSON file holds them."""
        return dataclasses.asdict(self)


def _numbers(value: Any) -> Any:
    """Numbers such as `2e-5`, which YAML 1.1 takes for text because they have no point, as numbers."""
    if isinstance(value, Mapping):
        return {name: _numbers(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _check_names(group: str, values: Mapping[str, Any], kind: type) -> None:
    known = [item.name for item in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            rest = f"Known: {known}." if len(known) < 30 else f"Known are the fields of {kind.__name__}."
            raise ValueError(f"unknown {group} setting `{name}`.{hint} {rest}")


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """
    `["--data.data_dir", "x", "--seeds", "0", "1"]` -> `{"data.data_dir": "x", "seeds": [0, 1]}`; values are YAML.

    Raises:
        ValueError: a value stands without a flag.
    """
    found: dict[str, list[Any]] = {}
    name = None
    for argument in arguments:
        if argument.startswith("--"):
            name, _, value = argument[2:].partition("=")
            found[name] = [yaml.safe_load(value)] if value else []
        elif name is None:
            raise ValueError(f"{argument!r} follows no flag: write `--name value`.")
        else:
            found[name].append(yaml.safe_load(argument))
    lists = {"seeds", "data.drop_modalities"}
    return {
        key: values if key in lists and not (len(values) == 1 and isinstance(values[0], list)) else _single(values)
        for key, values in found.items()
    }


def _single(values: list[Any]) -> Any:
    return True if not values else values[0] if len(values) == 1 else values
