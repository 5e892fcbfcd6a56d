"""Publishing and opening a checkpoint through a Hub: model, processor and card in one repository, by one commit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import BertConfig, BertForSequenceClassification

from hf_mmintent.hub import RunSummary, SplitScores, build_model_card, save_checkpoint
from hf_mmintent.hub.push import exchange_folders
from tests.checkpoint_cases import DRIVER, TESTERS, Report, read_reports, write_cases
from tests.hub_stub import ROOT, HubStub

hub = pytest.mark.hub

PUSH = (
    DRIVER
    + """
import transformers
from huggingface_hub import HfApi
from transformers import AutoProcessor
import hf_mmintent
from hf_mmintent.hub import AblationRow, RunSummary, SplitScores, build_model_card, push_checkpoint


def check(name, folder, data):
    path, picture = folder / f"{name}_head", folder / "curve.png"
    picture.write_bytes(b"a picture")
    model = getattr(transformers, data["auto_class"]).from_pretrained(path)
    processor = AutoProcessor.from_pretrained(path)
    run = RunSummary.from_model(
        model, f"{name} on clips", data["inputs"], repo_id=f"me/{name}", auto_class=data["auto_class"],
        dataset_name="Clips", dataset_id="me/clips", results=[SplitScores("test", 40, {"f1_macro": [0.25, 0.75]})],
        ablation=[AblationRow(["text"], {"f1_macro": 0.5})], seeds=[0, 1], license="apache-2.0",
        images={"images/curve.png": "Loss"},
    )
    files = {"images/curve.png": picture}
    push_checkpoint(model, processor, build_model_card(run), f"me/{name}", private=True, attachments=files)
    assert HfApi().model_info(f"me/{name}").private


drive(check)
"""
)

LOAD = (
    DRIVER
    + """
import contextlib, io, re
import transformers
from huggingface_hub import ModelCard, hf_hub_download
from transformers import AutoProcessor

TRUST = {"trust_remote_code": True} if sys.argv[2] == "remote" else {}
if not TRUST:
    import hf_mmintent


def check(name, folder, data):
    repo = f"me/{name}"
    model = getattr(transformers, data["auto_class"]).from_pretrained(repo, **TRUST).eval()
    assert type(model).__module__.startswith("transformers_modules" if TRUST else "hf_mmintent"), type(model)
    with torch.no_grad():
        same(numbers(model(**data["inputs"])), data["expected"]["head"])
    processor = AutoProcessor.from_pretrained(repo, **TRUST)
    made = processor(**data["arguments"])
    same([made[key] for key in sorted(made)], [data["processed"][key] for key in sorted(made)])

    card = ModelCard.load(repo)
    (result,) = card.data.eval_results
    assert (result.metric_name, result.metric_value, result.dataset_split) == ("f1_macro", 0.5, "test")
    examples = re.findall(r"```python\\n(.*?)```", card.text, re.S)
    (example,) = [code for code in examples if ("trust_remote_code" in code) == bool(TRUST)]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(example, "card", "exec"), {})
    return said.getvalue()


drive(check)
"""
)


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubStub]:
    with HubStub(tmp_path_factory.mktemp("hub")) as stub:
        yield stub


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), tiny_tokenizer)


@pytest.fixture(scope="module")
def pushed(stub: HubStub, cases: Path) -> dict[str, Report]:
    return read_reports(stub.run(PUSH, cases))


@pytest.fixture(scope="module")
def loaded(stub: HubStub, cases: Path, pushed: dict[str, Report]) -> dict[str, dict[str, Report]]:
    return {
        "installed": read_reports(stub.run(LOAD, cases, "installed")),
        "remote": read_reports(stub.run(LOAD, cases, "remote", without_package=True)),
    }


@hub
@pytest.mark.parametrize("name", TESTERS)
def test_everything_arrives_in_one_commit(stub: HubStub, pushed: dict[str, Report], name: str) -> None:
    pushed[name].get()
    assert stub.repos["models", f"me/{name}"].messages == ["initial commit", "Upload model, processor and model card"]
    files = stub.files(f"me/{name}")
    assert {"config.json", "model.safetensors", "processor_config.json", "README.md", "images/curve.png"} <= set(files)
    assert any(file.startswith("modeling_") for file in files) and any(file.startswith("processing_") for file in files)


@hub
@pytest.mark.parametrize("how", ["installed", "remote"])
@pytest.mark.parametrize("name", TESTERS)
def test_opens_by_id_and_the_card_example_runs(
    loaded: dict[str, dict[str, Report]], name: str, how: str, cases: Path
) -> None:
    said = loaded[how][name].get()
    assert said.strip(), "the example printed nothing"
    labels = TESTERS[name].config().id2label.values()
    if torch.load(cases / name / "data.pt")["auto_class"] == "AutoModelForSequenceClassification":
        assert re.fullmatch(rf"({'|'.join(labels)}) (0\.\d+|1\.0)", said.strip()), said


@hub
def test_a_private_model_is_hidden_from_strangers(stub: HubStub, pushed: dict[str, Report]) -> None:
    name = next(iter(TESTERS))
    script = f"from huggingface_hub import hf_hub_download; hf_hub_download('me/{name}', 'config.json')"
    stub.run(script)
    stranger = stub.run(script, token=None, check=False)
    assert stranger.returncode == 1 and "RepositoryNotFoundError" in stranger.stderr


PLAIN = """
import pytest
from huggingface_hub import HfApi, ModelCard
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification
from hf_mmintent.hub import RunSummary, build_model_card, push_checkpoint
import sys

sizes = dict(vocab_size=130, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
model = BertForSequenceClassification(BertConfig(**sizes))
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
card = build_model_card(RunSummary.from_model(model, "Plain", repo_id="me/plain", license="mit"))
api = HfApi()
"""

AGAIN = """
push_checkpoint(model, tokenizer, card, "me/plain")
assert not api.model_info("me/plain").private
for name in ("model-00001-of-00002.safetensors", "modeling_gone.py", "notes.txt", "images/old.png"):
    api.upload_file(path_or_fileobj=b"old", path_in_repo=name, repo_id="me/plain")
info = push_checkpoint(model, tokenizer, card, "me/plain", commit_message="Second")
files = api.list_repo_files("me/plain")
assert "notes.txt" in files and "images/old.png" in files, "only weights and code are replaced"
assert "model-00001-of-00002.safetensors" not in files and "modeling_gone.py" not in files, files
assert info.oid == api.model_info("me/plain").sha

push_checkpoint(model, tokenizer, card, "me/plain", revision="seed-1")
assert {b.name for b in api.list_repo_refs("me/plain").branches} == {"main", "seed-1"}
assert api.model_info("me/plain").sha == info.oid, "a branch does not move the main one"
BertForSequenceClassification.from_pretrained("me/plain", revision="seed-1")
"""

REFUSED = """
api.create_repo("me/plain")
before = api.model_info("me/plain").sha
with pytest.raises(ValueError, match="`private` is True but the repository me/plain exists"):
    push_checkpoint(model, tokenizer, card, "me/plain", private=True)
with pytest.raises(ValueError, match="not a path inside the repository"):
    push_checkpoint(model, tokenizer, card, "me/plain", attachments={"../x.png": "x.png"})
card.data.license = "other"
with pytest.raises(ValueError, match="license: other needs license_name"):
    card.validate()
with pytest.raises(ValueError, match="license: other needs license_name"):
    push_checkpoint(model, tokenizer, card, "me/new")
assert not api.repo_exists("me/new"), "a refused card must not leave an empty repository"
assert api.model_info("me/plain").sha == before
"""

ADAPTER = """
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

push_checkpoint(model, tokenizer, card, "me/plain")
model.save_pretrained("base")
for base, fine in (("base", False), ("me/plain", True)):
    model = AutoModelForSequenceClassification.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(target_modules=["query"], task_type="SEQ_CLS"))
    if fine:
        push_checkpoint(adapted, tokenizer, card, "me/adapter")
    else:
        with pytest.raises(ValueError, match="`base_model_name_or_path` is 'base', which is not a repository"):
            push_checkpoint(adapted, tokenizer, card, "me/adapter")
        assert not api.repo_exists("me/adapter")
assert "adapter_model.safetensors" in api.list_repo_files("me/adapter")
assert "# Plain" in ModelCard.load("me/adapter").text, "PEFT's own card must not win"
AutoModelForSequenceClassification.from_pretrained("me/adapter")
"""


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer.save_pretrained(folder)
    return folder


@hub
def test_second_push_replaces_weights_and_code_only(hub_stub: HubStub, tokenizer_folder: Path) -> None:
    hub_stub.run(PLAIN + AGAIN, tokenizer_folder)


@hub
def test_refusals_come_before_the_upload(hub_stub: HubStub, tokenizer_folder: Path) -> None:
    hub_stub.run(PLAIN + REFUSED, tokenizer_folder)


@hub
def test_an_adapter_must_name_a_base_that_others_can_load(hub_stub: HubStub, tokenizer_folder: Path) -> None:
    hub_stub.run(PLAIN + ADAPTER, tokenizer_folder)


# ---- saving into a folder: no server --------------------------------------------------------------------------------


def tiny_model(layers: int = 1) -> BertForSequenceClassification:
    sizes = {"vocab_size": 130, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(num_hidden_layers=layers, **sizes))


def tiny_card(name: str) -> ModelCard:
    return build_model_card(
        RunSummary(name, "BertForSequenceClassification", "bert", results=[SplitScores("t", 1, {})])
    )


def title(folder: Path) -> str:
    return next(line for line in (folder / "README.md").read_text(encoding="utf-8").splitlines() if line[:2] == "# ")


def test_saving_replaces_the_whole_checkpoint(tmp_path: Path, tiny_tokenizer: Any) -> None:
    folder = tmp_path / "out" / "best"
    assert save_checkpoint(tiny_model(1), tiny_tokenizer, tiny_card("First"), folder) == folder
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    picture = tmp_path / "p.png"
    picture.write_bytes(b"p")
    save_checkpoint(tiny_model(2), tiny_tokenizer, tiny_card("Second"), folder, attachments={"images/p.png": picture})
    assert title(folder) == "# Second" and (folder / "images" / "p.png").read_bytes() == b"p"
    assert not (folder / "model-00001-of-00002.safetensors").exists()
    assert BertForSequenceClassification.from_pretrained(folder).config.num_hidden_layers == 2
    assert [path.name for path in folder.parent.iterdir()] == ["best"], "nothing is left beside it"


def test_saving_never_deletes_other_files(tmp_path: Path, tiny_tokenizer: Any) -> None:
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "log.csv").write_text("x")
    with pytest.raises(FileExistsError, match=r"\['checkpoint-10', 'log.csv'\], which saving would delete"):
        save_checkpoint(tiny_model(), tiny_tokenizer, tiny_card("A"), tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        save_checkpoint(tiny_model(), tiny_tokenizer, tiny_card("A"), tmp_path / "log.csv")
    assert (tmp_path / "log.csv").read_text() == "x"


def test_an_error_leaves_the_previous_checkpoint(tmp_path: Path, tiny_tokenizer: Any) -> None:
    folder = tmp_path / "best"
    save_checkpoint(tiny_model(), tiny_tokenizer, tiny_card("First"), folder)
    with pytest.raises(FileNotFoundError):
        save_checkpoint(tiny_model(), tiny_tokenizer, tiny_card("B"), folder, {"images/p.png": tmp_path / "absent.png"})
    with pytest.raises(ValueError, match="not a path inside"):
        save_checkpoint(tiny_model(), tiny_tokenizer, tiny_card("B"), folder, {"../p.png": tmp_path / "absent.png"})
    assert title(folder) == "# First" and [path.name for path in tmp_path.iterdir()] == ["best"]


KILLED = """
import os, shutil, sys
from pathlib import Path
from transformers import AutoTokenizer
from hf_mmintent.hub import push
from tests.hf_mmintent.test_hub import tiny_card, tiny_model


def die(*args, **kwargs):
    os.kill(os.getpid(), 9)


tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
for when in ("before the card", "before the exchange", "after the exchange"):
    push.save_checkpoint(tiny_model(1), tokenizer, tiny_card("First"), Path(sys.argv[1], when, "best"))
    child = os.fork()
    if child == 0:
        card = tiny_card("Second")
        if when == "before the card":
            card.save = die
        elif when == "before the exchange":
            push.exchange_folders = die
        else:
            shutil.rmtree = die
        push.save_checkpoint(tiny_model(2), tokenizer, card, Path(sys.argv[1], when, "best"))
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 9, when
"""


def test_a_killed_process_leaves_one_complete_checkpoint(
    tmp_path: Path, tiny_tokenizer: Any, tokenizer_folder: Path
) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(tokenizer_folder)]
    process = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    remains = {
        "before the card": ("# First", 1),
        "before the exchange": ("# First", 1),
        "after the exchange": ("# Second", 2),
    }
    for when, (name, layers) in remains.items():
        folder = tmp_path / when / "best"
        assert title(folder) == name
        assert BertForSequenceClassification.from_pretrained(folder).config.num_hidden_layers == layers
        assert len(list(folder.parent.iterdir())) == 2, "the process was killed before it could tidy up"
        save_checkpoint(tiny_model(3), tiny_tokenizer, tiny_card("Third"), folder)  # what is left is no obstacle
        assert title(folder) == "# Third" and [path.name for path in folder.parent.iterdir()] == ["best"]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_exchange_of_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("a", "b", ".b.previous"):  # the last one as a kill between two renames leaves it
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    exchange_folders(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "who").read_text() == "b" and (tmp_path / "b" / "who").read_text() == "a"
