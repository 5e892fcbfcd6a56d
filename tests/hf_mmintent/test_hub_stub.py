"""The loopback Hub itself: what the tests built on it rely on."""

import pytest

from tests.hub_stub import HubStub

pytestmark = pytest.mark.hub

ROUND_TRIP = """
import sys
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from pathlib import Path

api = HfApi()
assert api.whoami()["name"] == "me"
for kind in ("model", "dataset"):
    repo = str(api.create_repo("me/box", repo_type=kind).repo_id)
    folder = Path("up") / kind
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "small.txt").write_text("small")
    (folder / "deep" / "er" / "big.safetensors").write_bytes(bytes(range(256)) * 100)
    api.upload_folder(repo_id=repo, folder_path=folder, repo_type=kind)
    assert api.list_repo_files(repo, repo_type=kind) == ["deep/er/big.safetensors", "small.txt"]
    top = {e.path for e in api.list_repo_tree(repo, repo_type=kind)}
    assert top == {"deep", "small.txt"}, top
    down = Path(snapshot_download(repo, repo_type=kind))
    assert (down / "deep/er/big.safetensors").read_bytes() == bytes(range(256)) * 100
    assert (down / "small.txt").read_text() == "small"
    api.create_branch(repo, branch="refactor", repo_type=kind)
    api.delete_file("small.txt", repo, repo_type=kind, revision="refactor")
    assert api.list_repo_files(repo, repo_type=kind, revision="refactor") == ["deep/er/big.safetensors"]
    assert "small.txt" in api.list_repo_files(repo, repo_type=kind)
    assert {b.name for b in api.list_repo_refs(repo, repo_type=kind).branches} == {"main", "refactor"}
    info = api.get_paths_info(repo, ["small.txt", "absent"], repo_type=kind)
    assert [i.path for i in info] == ["small.txt"] and info[0].size == 5
"""

MISSING = """
import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

api = HfApi()
with pytest.raises(RepositoryNotFoundError):
    api.model_info("me/absent")
api.create_repo("me/box", private=True)
with pytest.raises(EntryNotFoundError):
    hf_hub_download("me/box", "absent.txt")
with pytest.raises(RevisionNotFoundError):
    api.model_info("me/box", revision="absent")
assert api.model_info("me/box").private
api.create_repo("me/box", exist_ok=True)
"""

STRANGER = """
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

with pytest.raises(RepositoryNotFoundError):
    HfApi().model_info("me/box")
"""


def test_files_come_back_as_they_were_sent(hub_stub: HubStub) -> None:
    hub_stub.run(ROUND_TRIP)
    assert set(hub_stub.files("me/box", "datasets")) == {"small.txt", "deep/er/big.safetensors"}


def test_missing_things_and_private_repositories(hub_stub: HubStub) -> None:
    hub_stub.run(MISSING)
    hub_stub.run(STRANGER, token=None)


def test_package_is_hidden_only_when_asked(hub_stub: HubStub) -> None:
    script = "import hf_mmintent"
    hub_stub.run(script)
    hidden = hub_stub.run(script, without_package=True, check=False)
    assert hidden.returncode == 1 and "blocked by the test" in hidden.stderr
    with pytest.raises(AssertionError, match="blocked by the test"):
        hub_stub.run(script, without_package=True)
