"""Saving and publishing a checkpoint as a whole: model, processor and card together, or nothing."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from .run_summary import check_repo_path

Processor = ProcessorMixin | PreTrainedTokenizerBase
CARD_NAME = "README.md"

# What an older checkpoint may have left in a repository and the new one does not overwrite: a loader that finds the
# shards of two models would mix them, and code that nothing imports any more misleads its readers.
STALE_PATTERNS = ("model*.safetensors", "model*.safetensors.index.json", "pytorch_model*", "adapter_model*", "*.py")
# Files that a checkpoint may consist of. A folder with anything else in it is not replaced.
CHECKPOINT_SUFFIXES = frozenset((".safetensors", ".json", ".py", ".txt", ".jinja", ".md", ".model", ".bin", ".png"))

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def save_checkpoint(
    model: PreTrainedModel,
    processor: Processor,
    card: ModelCard,
    folder: str | Path,
    attachments: Mapping[str, str | Path] | None = None,
) -> Path:
    """
    Save model, processor and card into one folder, all or nothing.

    The files are written into a sibling folder which then takes the place of `folder`, so a process that is killed
    leaves either the previous complete checkpoint or the new one. Call it from one process only.

    Args:
        model ([`PreTrainedModel`] or `PeftModel`): what to save.
        processor ([`ProcessorMixin`] or tokenizer): saved beside it.
        card ([`huggingface_hub.ModelCard`]): becomes `README.md`.
        folder (`str` or `Path`): the destination. An earlier checkpoint there is replaced as a whole.
        attachments (`dict[str, str or Path]`, *optional*): path inside the checkpoint -> local file to copy there,
            such as the images that the card shows.

    Returns:
        `Path`: the folder.

    Raises:
        FileExistsError: `folder` holds something that is not part of a checkpoint and would be lost.
        ValueError: an attachment's path leaves the checkpoint.
    """
    folder = Path(os.path.abspath(folder))
    attachments = dict(attachments or {})
    for name in attachments:
        check_repo_path(name)
    _refuse_to_lose_files(folder, attachments)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.saving")
    if staging.exists():  # left by a process that was killed
        shutil.rmtree(staging)
    staging.mkdir()
    try:
        _write(model, processor, card, staging, attachments)
        if folder.exists():
            exchange_folders(staging, folder)
        else:
            os.rename(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # the previous checkpoint, or what an error left half-written
    return folder


def push_checkpoint(
    model: PreTrainedModel,
    processor: Processor,
    card: ModelCard,
    repo_id: str,
    private: bool | None = None,
    attachments: Mapping[str, str | Path] | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model, processor and model card",
    token: str | None = None,
) -> CommitInfo:
    """
    Publish model, processor and card in one repository by one commit; it is created when it does not exist.

    The card's metadata is checked by the Hub before anything is created. Weights and code of an earlier checkpoint that
    the new one does not overwrite are deleted in the same commit.

    Args:
        model ([`PreTrainedModel`] or `PeftModel`): what to publish.
        processor ([`ProcessorMixin`] or tokenizer): published beside it.
        card ([`huggingface_hub.ModelCard`]): becomes `README.md`.
        repo_id (`str`): `"owner/name"`, or a name in your own account.
        private (`bool`, *optional*): visibility. `None` leaves an existing repository as it is and follows the
            account's default for a new one.
        attachments (`dict[str, str or Path]`, *optional*): path in the repository -> local file.
        revision (`str`, *optional*): branch to commit to; created when it does not exist. The main branch by default.
        commit_message (`str`): first line of the commit.
        token (`str`, *optional*): access token; by default the stored one.

    Returns:
        [`huggingface_hub.CommitInfo`]

    Raises:
        ValueError: the Hub refuses the card, an adapter names a local folder as its base, the repository exists
            with another visibility than `private` asks for, or an attachment's path leaves the repository.
    """
    for name in attachments or {}:
        check_repo_path(name)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        _write(model, processor, card, root, attachments or {})
        _check_adapter(root)
        card.validate()
        repo_id = _create_repo(api, repo_id, private)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
        stale = [
            name
            for name in api.list_repo_files(repo_id, revision=revision)
            if name not in files and any(fnmatch(name, pattern) for pattern in STALE_PATTERNS)
        ]
        # Not `upload_folder`, which may cut a large folder into several commits: readers would see half a model.
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=commit_message,
            revision=revision,
        )


def _create_repo(api: HfApi, repo_id: str, private: bool | None) -> str:
    """The full id of the repository, created unless it exists; refuses one with another visibility."""
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    is_private = bool(api.model_info(repo_id).private)
    if private is not None and is_private != private:
        raise ValueError(
            f"`private` is {private} but the repository {repo_id} exists and its `private` is {is_private}: change it "
            f"in the repository's settings, or push to another name. Nothing was uploaded."
        )
    return repo_id


def _check_adapter(folder: Path) -> None:
    """Raise `ValueError` when an adapter names a folder as its base: nobody else could load it."""
    path = folder / "adapter_config.json"
    if not path.exists():
        return
    base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    try:
        validate_repo_id(base)
        is_folder = Path(base).exists()
    except (HFValidationError, TypeError):
        is_folder = True
    if is_folder:
        raise ValueError(
            f"the adapter's `base_model_name_or_path` is {base!r}, which is not a repository of the Hub: set "
            f'`model.peft_config["default"].base_model_name_or_path` to the id of the base model, or publish '
            f"`model.merge_and_unload()`."
        )


def _write(
    model: PreTrainedModel, processor: Processor, card: ModelCard, folder: Path, attachments: Mapping[str, str | Path]
) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    card.save(folder / CARD_NAME)  # after the model: PEFT writes a card of its own
    for name, source in attachments.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)


def _refuse_to_lose_files(folder: Path, attachments: Mapping[str, object]) -> None:
    """Raise `FileExistsError` when `folder` holds more than a checkpoint: replacing it would delete the rest."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"`folder` = {folder} is a file: choose a folder.")
    attached_folders = {name.split("/")[0] for name in attachments if "/" in name}
    foreign = [
        entry.name
        for entry in folder.iterdir()
        if (
            entry.name not in attached_folders and not _is_tokenizer(entry)
            if entry.is_dir()
            else entry.suffix not in CHECKPOINT_SUFFIXES
        )
    ]
    if foreign:
        raise FileExistsError(
            f"`folder` = {folder} also holds {sorted(foreign)[:5]}, which saving would delete: choose a folder that is "
            f"new, empty or an earlier checkpoint."
        )


def _is_tokenizer(folder: Path) -> bool:
    """Whether a processor stored a further tokenizer here, and nothing else lies beside it."""
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix in CHECKPOINT_SUFFIXES]
    return (folder / "tokenizer_config.json").is_file() and len(files) == len(list(folder.iterdir()))


def exchange_folders(first: Path, second: Path) -> None:
    """Swap two folders; on Linux in one step, so that `second` exists at every moment."""
    rename = (
        getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    )  # not in every C library
    if rename is not None:
        names = os.fsencode(first), os.fsencode(second)
        if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
    # Elsewhere, and on file systems without an exchange, two renames: a kill exactly between them leaves the previous
    # checkpoint complete under the third name.
    previous = second.with_name(f".{second.name}.previous")
    if previous.exists():
        shutil.rmtree(previous)
    os.rename(second, previous)
    os.rename(first, second)
    os.rename(previous, first)
