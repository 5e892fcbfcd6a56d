"""The page of the demo: what it computes, and that it works in a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_mmintent.demo import Labeller, write_space
from hf_mmintent.demo.analysis import EXPLANATION
from hf_mmintent.demo.app import change_table, scope_lines, share_plot
from hf_mmintent.modeling.media_decoding import MediaError
from tests.modeling.media_files import write_media
from tests.modeling.pipeline_cases import save_clip_checkpoint
from tests.modeling.xmei_cases import tiny_model, tiny_processor

CHROMIUM = os.environ.get("HF_MMINTENT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    trained = os.environ.get("HF_MMINTENT_DEMO_CHECKPOINT")  # a real one makes a better picture
    return Path(trained) if trained else save_clip_checkpoint(tmp_path_factory.mktemp("demo") / "tiny", tiny_tokenizer)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("clips") / "clip.mp4", seconds=3.0)


def test_an_analysis_has_ranking_changes_and_shares(checkpoint: Path, clip: Path) -> None:
    labeller = Labeller([str(checkpoint)])
    assert labeller.modalities(str(checkpoint)) == ["text", "video", "audio"]
    assert not labeller.explains(str(checkpoint))
    found = labeller.analyse(str(checkpoint), str(clip), "hello", ["text", "audio"], 1.0)
    assert found.answer["used"] == ["text", "audio"]
    every = labeller.open(str(checkpoint))({"clip": str(clip), "text": "hello"})
    before = {entry["label"]: entry["score"] for entry in every["ranking"]}
    now = {entry["label"]: entry["score"] for entry in found.answer["ranking"]}
    assert found.changes == {label: (before[label], now[label]) for label in now}
    assert found.times == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5], abs=0.05)
    assert set(found.shares) == {"video", "audio", "coarse"} and all(len(v) == 5 for v in found.shares.values())
    assert found.shares["video"] == [0.0] * 5
    figure = share_plot(found)
    assert figure is not None and len(figure.axes[0].lines) == 3
    assert [abs(float(row[3])) for row in change_table(found)] == sorted(
        (abs(float(row[3])) for row in change_table(found)), reverse=True
    )


def test_windows_of_the_plot_are_what_the_model_reads(clip: Path, tmp_path: Path, tiny_tokenizer: Any) -> None:
    """A model that reads a second of a longer window would stand for all of it."""
    name = str(save_clip_checkpoint(tmp_path, tiny_tokenizer, media_max_lengths={"audio": 55}))  # 1.1 s
    found = Labeller([name]).analyse(name, str(clip), "hello", ["text", "audio"], 10.0)
    assert found.times == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5], abs=0.05)
    assert len(Labeller([name]).analyse(name, str(clip), "hello", ["text", "video"], 10.0).times) == 1
    assert Labeller([name]).analyse(name, None, "hello", ["text"], 1.0).answer["used"] == ["text"]


def test_shares_without_weights_are_what_leaving_out_takes(
    checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labeller = Labeller([str(checkpoint)])
    pipe = labeller.open(str(checkpoint))
    monkeypatch.setattr(type(pipe), "_weights", lambda self, rows: {})
    found = labeller.analyse(str(checkpoint), str(clip), "hello", ["text", "audio", "video"], 1.5)
    label = found.answer["ranking"][0]["label"]
    sample, settings = {"clip": str(clip), "text": "hello"}, {"window_seconds": 1.5, "stride_seconds": 0.75}

    def score(modalities: list[str], window: int) -> float:
        windows = pipe(sample, modalities=modalities, **settings)["windows"]
        return next(entry["score"] for entry in windows[window]["ranking"] if entry["label"] == label)

    whole = score(["text", "audio", "video"], 1)
    assert found.shares["text"][1] == pytest.approx(whole - score(["audio", "video"], 1), abs=1e-6)
    assert set(found.shares) == {"text", "audio", "video"} and label in found.shares_are


def test_none_of_these_is_said_as_the_pipeline_says_it(clip: Path, tmp_path: Path, tiny_tokenizer: Any) -> None:
    """A threshold between the scores with and without the words: the switch turns the answer."""
    name = str(save_clip_checkpoint(tmp_path / "rule", tiny_tokenizer))
    labeller = Labeller([name])
    assert scope_lines(labeller.analyse(name, str(clip), "hello", ["text", "audio"], 3.0)) == []
    model = labeller.open(name).model
    tops = {
        kept: labeller.open(name)({"clip": str(clip), "text": "hello"}, modalities=list(kept))["ranking"][0]["score"]
        for kept in (("text", "audio", "video"), ("text", "audio"))
    }
    every, some = tops.values()
    model.config.out_of_scope = {"method": "max_softmax", "label": "UNK", "threshold": (every + some) / 2}
    for kept, (now, other) in ((["text", "audio"], (some, every)), (["text", "audio", "video"], (every, every))):
        found = labeller.analyse(name, str(clip), "hello", kept, 3.0)
        answer = labeller.open(name)({"clip": str(clip), "text": "hello"}, modalities=kept)
        rejected = answer["answer"] == "UNK"
        assert found.none_of_these == ("UNK", other < (every + some) / 2, rejected)
        assert rejected == (now < (every + some) / 2)
        lines = scope_lines(found)
        assert lines[0].startswith("**None of these** (UNK)" if rejected else "one of these intents, not UNK")
        assert f"margin {answer['margin']:+.3f}" in lines[0] and len(lines) == 1 + (kept == ["text", "audio"])


def test_what_cannot_be_labelled_is_said(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    labeller, name = Labeller([str(checkpoint)]), str(checkpoint)
    with pytest.raises(ValueError, match="give a clip, a transcript"):
        labeller.analyse(name, None, "", ["text"], 1.0)
    with pytest.raises(ValueError, match="every modality is switched off"):
        labeller.analyse(name, str(clip), "", [], 1.0)
    (tmp_path / "text.mp4").write_text("this is not a film")
    with pytest.raises(MediaError, match="not a media file"):
        labeller.analyse(name, str(tmp_path / "text.mp4"), "", ["audio", "video"], 1.0)
    with pytest.raises(ValueError, match="no checkpoints"):
        Labeller([])


def test_a_checkpoint_that_explains(tmp_path: Path, tiny_tokenizer: Any) -> None:
    tiny_model().save_pretrained(tmp_path / "explaining")
    tiny_processor(tiny_tokenizer).save_pretrained(tmp_path / "explaining")
    name = str(tmp_path / "explaining")
    labeller = Labeller([name])
    assert labeller.explains(name) and "text" in labeller.modalities(name)
    labeller.open(name, EXPLANATION)._forward_params["max_new_tokens"] = 3
    found = labeller.analyse(name, None, "you are late", ["text"], 1.0)
    assert found.explanation == found.answer["explanation"] and found.answer["used"] == ["text"]
    assert share_plot(found) is None and change_table(found) == []


def test_the_files_of_a_space(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    folder = write_space(
        tmp_path / "space", ["me/first", "me/second"], "hf_mmintent[demo]==0.1", "openai/whisper-tiny.en"
    )
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio" and front["app_file"] == "app.py"
    assert front["models"] == ["me/first", "me/second", "openai/whisper-tiny.en"]
    assert (folder / "requirements.txt").read_text() == "hf_mmintent[demo]==0.1\n"
    code = (folder / "app.py").read_text()
    compile(code, "app.py", "exec")
    assert "['me/first', 'me/second']" in code
    with pytest.raises(ValueError, match="push them"):
        write_space(tmp_path / "other", [str(tmp_path)], "hf_mmintent[demo]")


# ---- in a browser ---------------------------------------------------------------------------------------------------

SERVE = """
import sys, torch
torch.set_num_threads(1)
from hf_mmintent.demo import Labeller, build_app
app = build_app(Labeller([sys.argv[1]]))
_, address, _ = app.launch(server_port=None, share=False, prevent_thread_lock=True, quiet=True)
print("ADDRESS " + address, flush=True)
app.block_thread()
"""


@pytest.fixture(scope="module")
def address(checkpoint: Path, root: Path) -> Iterator[str]:
    pytest.importorskip("gradio", reason="gradio is not installed")
    environment = {**os.environ, "PYTHONPATH": str(root), "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(checkpoint)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = (line for line in process.stdout if line.startswith("ADDRESS "))
        yield next(lines).removeprefix("ADDRESS ").strip()
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(90_000)  # the machine may be busy
        page.goto(address)
        yield page
        browser.close()


def bars(page: Any) -> str:
    return page.locator("#ranking").inner_text()


@pytest.mark.slow
def test_the_page_in_a_browser(page: Any, clip: Path, tmp_path: Path) -> None:
    wanted = os.environ.get("HF_MMINTENT_DEMO_CLIP")
    page.get_by_role("heading", name="What does a speaker intend?").wait_for()
    page.locator("#clip input[type=file]").set_input_files(wanted or str(clip))
    page.locator("#clip video").wait_for()
    page.locator("#transcript textarea").fill(os.environ.get("HF_MMINTENT_DEMO_TEXT", "you are late again"))
    page.locator("#label").click()
    page.locator("#plot img").wait_for()
    page.locator("#status").get_by_text("answered from text, video, audio").wait_for()
    whole = bars(page)
    assert "%" in whole
    picture = Path(os.environ.get("HF_MMINTENT_SCREENSHOT", tmp_path / "demo.png"))
    page.screenshot(path=str(picture), full_page=True)
    assert picture.stat().st_size > 20_000

    page.locator("#modalities").get_by_text("video", exact=True).click()
    page.locator("#status").get_by_text("answered from text, audio", exact=False).wait_for()
    assert "video" not in page.locator("#status").inner_text() and bars(page) != whole

    broken = tmp_path / "broken.mp4"
    broken.write_text("this is not a film")
    page.locator("#clip button[aria-label='Clear'], #clip button[title='Clear']").first.click()
    page.locator("#clip input[type=file]").set_input_files(str(broken))
    page.locator("#label").click()
    page.locator("#status").get_by_text("is not a media file").wait_for()
