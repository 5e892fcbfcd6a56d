"""From official files to a folder of Parquet with a card, and to the Hub: all or nothing, a few rows in memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from hf_mmintent.data.checks import DataError
from hf_mmintent.data.dataset_facts import gather_facts
from hf_mmintent.data.loading import find_builder, load
from hf_mmintent.data.validation import check_rows

from .dataset_card import TAG, PublishedConfig, build_dataset_card
from .dataset_rights import DatasetRights, dataset_rights
from .parquet_shards import is_path, published_features, write_split
from .push import CARD_NAME, exchange_folders

SHARD_BYTES = 500 << 20


@dataclass
class DatasetSource:
    """
    What is published.

    Args:
        name: Builder of the package, path of a script or Parquet folder, or Hub id.
        data_dir: Folder with the dataset's own files.
        config_names: Configurations, the default one first; the builder's default alone when empty.
        columns: Which of text, features and media the rows hold; "auto" is what the files hold.
        options: Further options of the builder.
    """

    name: str
    data_dir: str | Path | None = None
    config_names: Sequence[str] = ()
    columns: str | Sequence[str] = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def short_name(self) -> str:
        """Of the builder, folder or repository."""
        return Path(self.name).stem

    @property
    def rights(self) -> DatasetRights:
        """What its licence permits; a script that merely has the name of a builder has no licence of its own."""
        return dataset_rights(self.name)

    def builder(self, config_name: str | None) -> datasets.DatasetBuilder | None:
        """Of a configuration; `None` when rows come ready-made."""
        return find_builder(self.name, self.data_dir, config_name, columns=self.columns, **self.options)

    def read(self, builder: datasets.DatasetBuilder | None, config_name: str | None) -> datasets.DatasetDict:
        """Rows of a configuration, memory-mapped."""
        if builder is None:
            return load(self.name, self.data_dir, config_name, columns=self.columns, **self.options)
        builder.download_and_prepare()
        return builder.as_dataset()


def publish_dataset(
    source: DatasetSource,
    repo_id: str | None = None,
    output_dir: str | Path | None = None,
    private: bool = False,
    allow_redistribution: bool = False,
    shard_bytes: int = SHARD_BYTES,
    token: str | None = None,
) -> str:
    """
    Write a dataset as Parquet with a card, and publish it.

    Media files are embedded, so that the rows depend on no path. The folder appears complete or not at all; so does the
    commit. A failed upload can be repeated: what the Hub has already is not sent again.

    Args:
        source: What to publish.
        repo_id: `"owner/name"` on the Hub.
        output_dir: Keep the folder here. An earlier published folder there is replaced.
        private: Make the repository private.
        allow_redistribution: Publish although no known licence permits it: you hold the right.
        shard_bytes: Size of a Parquet file, uncompressed.
        token: Access token; by default the stored one.

    Returns:
        Address of the commit, or the folder.

    Raises:
        PermissionError: The licence does not permit a public copy; the message says what does.
        FileExistsError: `output_dir`, or the repository, holds something else that would be lost.
        DataError: The rows have errors, such as an id that occurs twice.
    """
    if repo_id is None and output_dir is None:
        raise ValueError("give `repo_id`, `output_dir`, or both: nothing would come of it otherwise.")
    if repo_id is not None:
        validate_repo_id(repo_id)
        if not private and not allow_redistribution:
            refuse_redistribution(source, repo_id)
    if output_dir is None:
        with tempfile.TemporaryDirectory(prefix="publish_") as temporary:
            folder = write_dataset(source, Path(temporary) / source.short_name, repo_id, shard_bytes)
            return push_dataset_folder(folder, str(repo_id), private, token)
    folder = write_dataset(source, output_dir, repo_id, shard_bytes)
    return str(folder) if repo_id is None else push_dataset_folder(folder, repo_id, private, token)


def refuse_redistribution(source: DatasetSource, repo_id: str) -> None:
    """Raise `PermissionError` unless the licence permits a public copy of these columns."""
    builder = source.builder(next(iter(source.config_names), None))
    columns = {} if builder is None else builder.info.features
    has_media = builder is None or any(is_path(name, kind) for name, kind in columns.items())
    reason = source.rights.refusal(has_media)
    if reason is not None:
        leave_out = "" if source.rights.refusal(False) else "leave the media out (`columns`), "
        raise PermissionError(
            f"{source.name} would be public in {repo_id}, but {reason}. Nothing was written. Make the repository private "
            f"(`--private`), {leave_out}write a folder for yourself (`--output_dir` alone), or, if you hold the right to "
            "publish it, say so (`--allow_redistribution`)."
        )


# ---- the folder ------------------------------------------------------------------------------------------------------


def write_dataset(
    source: DatasetSource, folder: str | Path, repo_id: str | None = None, shard_bytes: int = SHARD_BYTES
) -> Path:
    """
    Write `<configuration>/<split>-00000-of-00001.parquet` and `README.md`, which `datasets.load_dataset(folder)` opens.

    Args:
        source, repo_id, shard_bytes: As in [`publish_dataset`].
        folder: The destination.

    Returns:
        The folder.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not is_published(folder):
        raise FileExistsError(
            f"`output_dir` = {folder} holds something else than a published dataset: choose a new folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.writing")
    if staging.exists():  # left by a process that was killed
        shutil.rmtree(staging)
    staging.mkdir()
    try:
        configs = [_write_config(source, name, staging, shard_bytes) for name in source.config_names or (None,)]
        card = build_dataset_card(source.short_name, configs, source.rights, repo_id)
        card.save(staging / CARD_NAME)
        if folder.exists():
            exchange_folders(staging, folder)
        else:
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # the previous folder, or what an error left half-written
    return folder


def _write_config(source: DatasetSource, name: str | None, folder: Path, shard_bytes: int) -> PublishedConfig:
    builder = source.builder(name)
    splits = source.read(builder, name)
    facts = gather_facts(splits)
    findings = check_rows(facts)
    if errors := [str(finding) for finding in findings if finding.is_error]:
        raise DataError(f"{source.name} is not published because its rows have errors: {' '.join(errors)}")
    first = next(iter(splits.values()))
    config_name = name or (builder.config.name if builder is not None else "default")
    root = _media_root(source, builder)
    (folder / config_name).mkdir()
    written = {
        split: write_split(rows, folder / config_name, split, shard_bytes, root) for split, rows in splits.items()
    }
    options = {**source.options, **({} if source.columns == "auto" else {"columns": source.columns})}
    return PublishedConfig(
        name=config_name,
        info=first.info,
        features=published_features(first),
        splits=written,
        facts=facts,
        findings=findings,
        options=options,
        document=(type(builder).__doc__ or "") if builder is not None else first.info.description,
    )


def _media_root(source: DatasetSource, builder: datasets.DatasetBuilder | None) -> Path | None:
    """The only folder whose files may be embedded: the user's, that of ready-made rows, or that of a builder's own clips."""
    if source.data_dir is not None:
        return Path(source.data_dir).expanduser().resolve()
    place = Path(source.name).expanduser()
    if place.exists():
        return (place if place.is_dir() else place.parent).resolve()
    return Path(str(resources.files("hf_mmintent.data_scripts"))).resolve() if builder is not None else None


def is_published(folder: Path) -> bool:
    """Whether a folder is empty or one that [`write_dataset`] made, with nothing added to it."""
    if not folder.is_dir():
        return False
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    if not files:
        return True
    own = all(path.suffix == ".parquet" or path == folder / CARD_NAME for path in files)
    return own and (folder / CARD_NAME).is_file() and _is_own_card((folder / CARD_NAME).read_text(encoding="utf-8"))


def _is_own_card(text: str) -> bool:
    return TAG in (DatasetCard(text, ignore_metadata_errors=True).data.to_dict().get("tags") or [])


# ---- the Hub ---------------------------------------------------------------------------------------------------------


def push_dataset_folder(folder: str | Path, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """
    Upload a folder of [`write_dataset`] in one commit; shards that a former one left are deleted in it.

    Args:
        folder: Written before.
        repo_id: `"owner/name"`; created when it does not exist.
        private: Make it private; an existing public repository is refused then.
        token: Access token; by default the stored one.

    Returns:
        Address of the commit.

    Raises:
        FileExistsError: The repository holds other files, which a published dataset would mix with.
        ValueError: It exists with another visibility, or the Hub refuses the card.
    """
    folder = Path(folder)
    api = HfApi(token=token)
    card = DatasetCard.load(folder / CARD_NAME)
    card.validate(repo_type="dataset")
    repo_id = api.create_repo(repo_id, repo_type="dataset", private=private or None, exist_ok=True).repo_id
    if private and not api.dataset_info(repo_id).private:
        raise ValueError(
            f"`private` is True but {repo_id} exists and is public: make it private in its settings, or choose another "
            "name. Nothing was uploaded."
        )
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    there = set(api.list_repo_files(repo_id, repo_type="dataset")) - {".gitattributes"}
    if there and not _is_own_repo(api, repo_id, there):
        raise FileExistsError(
            f"{repo_id} holds {sorted(there)[:5]}, which this package did not write: choose another name. Nothing was "
            "uploaded."
        )
    # One commit: a reader sees all shards of one version, never those of two.
    return api.create_commit(
        repo_id,
        [
            *(CommitOperationAdd(name, path) for name, path in files.items()),
            *(CommitOperationDelete(name) for name in sorted(there - files.keys())),
        ],
        commit_message=f"Upload {len(files) - 1} Parquet files and their card",
        repo_type="dataset",
    ).commit_url


def _is_own_repo(api: HfApi, repo_id: str, names: set[str]) -> bool:
    if not all(name == CARD_NAME or name.endswith(".parquet") for name in names):
        return False
    try:
        path = api.hf_hub_download(repo_id, CARD_NAME, repo_type="dataset")
    except EntryNotFoundError:
        return False
    return _is_own_card(Path(path).read_text(encoding="utf-8"))
