"""What the dataset builders share: columns, checks and the loop over rows. A builder says what its files hold."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import datasets

from hf_mmintent.data import checks
from hf_mmintent.data.checks import DataError, Row
from hf_mmintent.data.feature_files import FeatureFile
from hf_mmintent.data.report import BuildReport, shared_groups, shared_sentences
from hf_mmintent.data.safe_pickle import PickleFormatError

COLUMN_GROUPS = ("text", "features", "media")
_REPORT = "found.json"


@dataclass
class MultimodalConfig(datasets.BuilderConfig):
    """
    Options that every builder takes.

    Args:
        columns (`str` or `Sequence[str]`, defaults to `"auto"`): Which of `"text"`, `"features"` and `"media"` the rows
            hold. `"auto"` takes what is in the folder; a group that is named must be there.
        trust_pickle (`bool`, defaults to `False`): Read feature files with Python's own unpickler, **which runs any
            code they contain**.
        strict_counts (`bool`, defaults to `True`): Whether splits of another size than published are an error.
    """

    columns: str | Sequence[str] = "auto"
    trust_pickle: bool = False
    strict_counts: bool = True

    @property
    def groups(self) -> tuple[str, ...] | None:
        """The groups that were named, `None` for "auto". Checked here since `datasets` sets fields after `__init__`."""
        named = (self.columns,) if isinstance(self.columns, str) else tuple(self.columns)
        if named == ("auto",):
            return None
        if not named or set(named) - set(COLUMN_GROUPS):
            raise ValueError(f"`columns` is {self.columns!r}: choose 'auto' or some of {list(COLUMN_GROUPS)}.")
        return named

    def wants(self, group: str, available: bool = True) -> bool:
        """Whether rows hold `group`; "auto" takes what is available."""
        return available if self.groups is None else group in self.groups


class MultimodalBuilder(datasets.GeneratorBasedBuilder):
    """
    Base of the builders in `data_scripts/`.

    A subclass sets the attributes below and defines [`read_tables`], and where the dataset has them
    [`open_features`], [`features_of`] and [`media_of`].

    Attributes:
        CITATION, HOMEPAGE, LICENSE: For the dataset card.
        LABELS: Class names in official order; `None` for a number. Per configuration: override [`label_names`].
        LABEL_RANGE: Smallest and largest value of a number.
        TEXT: Whether the dataset has text that may be an input; without it the rows have no such column.
        COLUMNS: Further columns of the rows and their types.
        MEDIA: Modalities whose files [`media_of`] finds, e.g. `("audio", "video")`.
        COUNTS: Verified rows per split; `REMEMBERED_COUNTS` only warn. Per configuration: override [`row_counts`].
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = MultimodalConfig
    DEFAULT_WRITER_BATCH_SIZE = 16  # rows kept before they are written; a thousand rows of features are gigabytes

    CITATION: ClassVar[str] = ""
    HOMEPAGE: ClassVar[str] = ""
    LICENSE: ClassVar[str] = ""
    LABELS: ClassVar[Sequence[str] | None] = None
    LABEL_RANGE: ClassVar[tuple[float, float] | None] = None
    TEXT: ClassVar[bool] = True
    COLUMNS: ClassVar[Mapping[str, Any]] = {}
    MEDIA: ClassVar[Sequence[str]] = ()
    COUNTS: ClassVar[Mapping[str, int]] = {}
    REMEMBERED_COUNTS: ClassVar[Mapping[str, int]] = {}

    # ---- what a subclass defines

    def read_tables(self) -> dict[str, list[Row]]:
        """Rows per split without features: `id`, `text`, `label` and those of `COLUMNS`.

        A row may say under `problems`, a list of phrases, what is missing or odd about it; they are counted and logged.
        Under `source` it says where it comes from, file and line or entry; errors begin with it.
        """
        raise NotImplementedError

    def label_names(self) -> Sequence[str] | None:
        """Class names in official order, `None` when the label is a number."""
        return self.LABELS

    def row_counts(self) -> Mapping[str, int]:
        """Verified rows per split; another number is an error unless `strict_counts=False`."""
        return self.COUNTS

    def open_features(self) -> dict[str, FeatureFile]:
        """Feature files that are in the folder, by modality; absent ones are left out."""
        return {}

    def features_of(self, row: Row) -> dict[str, Any]:
        """Features of a row by modality, (T, D) float32 or `None`."""
        return {modality: file.get(row["id"]) for modality, file in self.feature_files.items()}

    def feature_widths(self) -> dict[str, int]:
        """D by modality."""
        return {modality: file.width for modality, file in self.feature_files.items()}

    def has_media(self) -> bool:
        """Whether the folder holds the media files."""
        return False

    def media_of(self, row: Row) -> dict[str, Path]:
        """Path of a row's file by modality; files that do not exist become null and are counted."""
        return {}

    # ---- what the subclass can use

    @property
    def folder(self) -> Path:
        """`data_dir`, which is never guessed."""
        if self.config.data_dir is None:
            raise ValueError(
                f"give `data_dir`, the folder with the official files of {self.name}: nothing is downloaded."
            )
        return Path(self.config.data_dir).expanduser().resolve()  # rows hold paths, which must lead from anywhere

    @cached_property
    def report(self) -> BuildReport:
        """Counts of this build."""
        return BuildReport(f"{self.name}/{self.config.name}")

    @cached_property
    def feature_files(self) -> dict[str, FeatureFile]:
        """Open feature files by modality; empty when features are not wanted."""
        if not self.config.wants("features"):
            return {}
        files = self.open_features()
        if not files and self.config.groups is not None:
            raise FileNotFoundError(
                f"`columns` asks for features but {self.folder} holds no feature file of {self.name}."
            )
        return files

    @cached_property
    def media_modalities(self) -> tuple[str, ...]:
        """Modalities with a `<modality>_path` column."""
        found = bool(self.MEDIA) and self.config.wants("media") and self.has_media()
        if not found and self.config.groups is not None and "media" in self.config.groups:
            raise FileNotFoundError(f"`columns` asks for media but {self.folder} holds no media of {self.name}.")
        return tuple(self.MEDIA) if found else ()

    # ---- the interface of `datasets`

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """
        As in `datasets`. What the files lack is logged again when rows come from the cache, where it is kept.

        Raises:
            DataError, PickleFormatError: what is wrong with the files, as it is: `datasets` would only say that "an error
                occurred while generating the dataset", and give this as its cause.
        """
        try:
            super().download_and_prepare(*args, **kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, (DataError, PickleFormatError)):
                raise error.__cause__ from None
            raise
        place = Path(self.cache_dir) / _REPORT
        if args or kwargs.get("output_dir") is not None:
            return  # a folder of the user's, in which another file would be taken for rows
        if self.report.splits:
            self.report.save(place)
        elif place.is_file():
            self.report.repeat(place)

    def _info(self) -> datasets.DatasetInfo:
        columns: dict[str, Any] = {"id": datasets.Value("string")}
        if self.config.groups is not None and self.config.wants("text") and not self.TEXT:
            raise ValueError(f"`columns` asks for text but {self.name} has none that may be an input.")
        if self.config.wants("text", self.TEXT):
            columns["text"] = datasets.Value("string")
        names = self.label_names()
        columns["label"] = datasets.Value("float32") if names is None else datasets.ClassLabel(names=list(names))
        for modality, width in self.feature_widths().items():
            columns[f"{modality}_features"] = datasets.Array2D((None, width), "float32")
        columns.update({f"{modality}_path": datasets.Value("string") for modality in self.media_modalities})
        columns.update(self.COLUMNS)
        return datasets.DatasetInfo(
            description=(type(self).__doc__ or "").strip(),
            features=datasets.Features(columns),
            citation=self.CITATION,
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
        )

    @cached_property
    def tables(self) -> dict[str, list[Row]]:
        """Checked rows per split."""
        tables = self.read_tables()
        checks.check_ids(tables)
        names = self.label_names()
        if names is not None:
            checks.check_labels(tables, names)
        elif self.LABEL_RANGE is not None:
            checks.check_values(tables, *self.LABEL_RANGE)
        found = {split: len(rows) for split, rows in tables.items()}
        checks.check_counts(found, self.row_counts(), self.config.strict_counts, self.name)
        checks.check_counts(found, self.REMEMBERED_COUNTS, False, self.name)
        empty = [split for split, rows in tables.items() if not rows]
        if empty:
            raise DataError(f"{self.name}: the split {empty[0]} has no rows in {self.folder}.")
        for text in shared_sentences(shared_groups(tables, ("speaker", "dialogue_id"))):
            self.report.note(f"{self.report.name}: {text}")
        return tables

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in self.tables]

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        self.report.begin(split)
        plain = [name for name in self.info.features if name in ("id", "text", "label", *self.COLUMNS)]
        for row in self.tables[split]:
            example = {name: row[name] for name in plain}
            example.update({f"{modality}_features": value for modality, value in self.features_of(row).items()})
            if self.media_modalities:
                example.update(self._media_columns(row))
            self.report.row(row["label"])
            if "text" in example and example["text"] is not None and not example["text"].strip():
                self.report.problem("text empty", row["id"])
            for problem in row.get("problems", ()):
                self.report.problem(problem, row["id"])
            yield row["id"], example
        self.report.log(split)

    def _media_paths(self, row: Row) -> dict[str, Path]:
        """[`media_of`], whose errors say of which row."""
        try:
            return self.media_of(row)
        except DataError as error:
            raise DataError(f"{checks.source(row)}row {row['id']!r}: {error}") from error

    def _media_columns(self, row: Row) -> dict[str, str | None]:
        columns: dict[str, str | None] = {}
        for modality, path in self._media_paths(row).items():
            there = path.is_file()
            columns[f"{modality}_path"] = str(path) if there else None
            if not there:
                self.report.problem(f"{modality} file missing", row["id"])
        return columns
