"""The page itself (Gradio), and the files with which it runs as a Space."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from hf_mmintent.modeling.media_sampling import MediaError

from .analysis import ClipAnalysis, Labeller

TITLE = "What does a speaker intend?"
LIMITS = (
    "Recognition of intent errs, differs between people and cultures, and was learnt from acted or synthetic clips: "
    "do not decide about people with it. Clips are processed where this page runs and deleted there within an hour."
)


def require_gradio() -> Any:
    """The module `gradio`.

    Raises:
        ImportError: it is not installed; names the extra that brings it.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when the module is imported
    try:
        import gradio
    except ImportError as error:
        raise ImportError('The demo needs Gradio: pip install "hf_mmintent[demo]".') from error
    return gradio


def share_plot(found: ClipAnalysis) -> Figure | None:
    """Share of every source over time; a bar for each where there is one window only. `None` without shares."""
    if not found.shares:
        return None
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.add_subplot()
    colours = matplotlib.color_sequences["tab10"]
    if len(found.times) == 1:
        axes.bar(
            list(found.shares), [values[0] for values in found.shares.values()], color=colours[: len(found.shares)]
        )
    else:
        for (name, values), colour in zip(found.shares.items(), colours):
            axes.plot(found.times, values, marker="o", markersize=3, label=name, color=colour)
        axes.set_xlabel("seconds")
        figure.legend(frameon=False, ncols=len(found.shares), loc="outside lower center")
    axes.set_ylabel(found.shares_are)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(" ", fontsize=18)  # the page writes the plot's label over this place
    return figure


def change_table(found: ClipAnalysis) -> list[list[str]]:
    """Rows of label, score with all modalities, score now, difference; the largest changes first."""
    rows = sorted(found.changes.items(), key=lambda item: -abs(item[1][1] - item[1][0]))
    return [[label, f"{a:.3f}", f"{b:.3f}", f"{b - a:+.3f}"] for label, (a, b) in rows[:5]]


def scope_lines(found: ClipAnalysis) -> list[str]:
    """What the rule for "none of these" says; nothing without such a rule."""
    if found.none_of_these is None:
        return []
    label, before, now = found.none_of_these
    margin = f"margin {found.answer['margin']:+.3f}"
    lines = (
        [f"**None of these** ({label}), {margin}: the intents below are ranked without that rule."]
        if now
        else [f"one of these intents, not {label} ({margin})"]
    )
    if before != now:
        lines.append(f"with all modalities: {'none of these' if before else 'one of these intents'}")
    return lines


def build_app(labeller: Labeller) -> Any:
    """
    The page.

    Args:
        labeller: the checkpoints to choose from.

    Returns:
        `gradio.Blocks`; `launch()` serves it.
    """
    gr = require_gradio()
    first = labeller.checkpoints[0]
    names = labeller.modalities(first)

    def run(
        checkpoint: str, video: str | None, audio: str | None, text: str, kept: list[str], seconds: float
    ) -> tuple[Any, ...]:
        try:
            found = labeller.analyse(checkpoint, video or audio, text.strip(), kept, seconds)
        except (MediaError, ValueError) as error:
            return f"⚠️ {error}", None, None, None, gr.update(visible=False), gr.skip()
        answer = found.answer
        used = f"answered from **{', '.join(answer['used'])}**"
        said = [f"{name} **{answer[name]}**" for name in ("emotion", "intent") if answer.get(name)]
        status = "  \n".join([*scope_lines(found), used, *said, *answer["notes"]])
        ranking = {entry["label"]: entry["score"] for entry in answer.get("ranking", [])} or None
        explanation = gr.update(value=found.explanation or "", visible=found.explanation is not None)
        heard = answer["text"] if not text.strip() and answer["text"] else gr.skip()
        return status, ranking, share_plot(found), change_table(found), explanation, heard

    def choose(checkpoint: str) -> Any:
        known = labeller.modalities(checkpoint)
        return gr.update(choices=known, value=known)

    with gr.Blocks(title=TITLE, delete_cache=(600, 3000)) as app:  # every 10 minutes what is older than 50
        gr.Markdown(f"# {TITLE}\n{LIMITS}")
        with gr.Row():
            with gr.Column():
                checkpoint = gr.Dropdown(labeller.checkpoints, value=first, label="Checkpoint")
                video = gr.Video(sources=["upload", "webcam"], label="Clip", elem_id="clip", height=240)
                with gr.Accordion("Only sound", open=False):
                    audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Sound")
                text = gr.Textbox(label="Transcript", placeholder="what is said in the clip", elem_id="transcript")
                kept = gr.CheckboxGroup(names, value=names, label="Modalities", elem_id="modalities")
                seconds = gr.Slider(0.5, 10.0, value=1.0, step=0.5, label="Window of the plot (seconds)")
                button = gr.Button("Label", variant="primary", elem_id="label")
            with gr.Column():
                status = gr.Markdown(elem_id="status")
                ranking = gr.Label(num_top_classes=8, label="Intents", elem_id="ranking")
                plot = gr.Plot(label="Which modality mattered, and when", elem_id="plot")
                changes = gr.Dataframe(
                    headers=["label", "all modalities", "now", "change"],
                    label="What the switches change",
                    elem_id="changes",
                )
                explanation = gr.Textbox(label="Explanation", visible=False, elem_id="explanation")
        inputs = [checkpoint, video, audio, text, kept, seconds]
        outputs = [status, ranking, plot, changes, explanation, text]
        checkpoint.change(choose, checkpoint, kept)
        button.click(run, inputs, outputs)
        kept.input(run, inputs, outputs)
        text.submit(run, inputs, outputs)
    return app


# ---- Space ----------------------------------------------------------------------------------------------------------

_README = """\
---
title: {title}
emoji: 🗣️
colorFrom: indigo
colorTo: gray
sdk: gradio
sdk_version: {gradio}
app_file: app.py
pinned: false
license: apache-2.0
models:
{models}
---

Label a clip from what is said, heard and seen in it. {limits}
"""
_APP = """\
from hf_mmintent.demo import Labeller, build_app

build_app(Labeller({checkpoints!r}, asr={asr!r})).launch()
"""


def write_space(folder: str | Path, checkpoints: Sequence[str], package: str, asr: str | None = None) -> Path:
    """
    Files of a Space: `app.py`, `requirements.txt` and `README.md` with its front matter.

    Args:
        folder: made if it does not exist.
        checkpoints: Hub ids; folders of this machine are not there in a Space.
        package: requirement that installs this package, e.g. "hf_mmintent[demo] @ git+https://...".
        asr: Hub id of a speech recognition checkpoint.

    Raises:
        ValueError: a checkpoint is a local folder.
    """
    local = [name for name in checkpoints if Path(name).exists()]
    if local:
        raise ValueError(f"{local} are folders of this machine: push them (examples/push.py) and name their Hub ids.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    models = "\n".join(f"- {name}" for name in (*checkpoints, *([asr] if asr else [])))
    version = require_gradio().__version__
    readme = _README.format(title=TITLE, gradio=version, models=models, limits=LIMITS)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    (folder / "app.py").write_text(_APP.format(checkpoints=list(checkpoints), asr=asr), encoding="utf-8")
    (folder / "requirements.txt").write_text(f"{package}\n", encoding="utf-8")
    return folder
