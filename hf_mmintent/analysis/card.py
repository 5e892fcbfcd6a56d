"""Pictures for the model card: robustness, confusion matrix and reliability, drawn beside the checkpoint.

    python examples/evaluate.py runs/mvcl_daf_mmintent_mini --split test --drop
    python examples/analyze.py card runs/mvcl_daf_mmintent_mini --split test
    python examples/push.py runs/mvcl_daf_mmintent_mini/seed_0/final --repo_id me/mvcl-daf-mini

Every checkpoint of a run folder gets `pictures/` with its own, and its card is written anew. The temperature of its
probabilities is fitted on the rows that selected the epoch and kept in its config, unless `--no-calibrate` is given.
`push.py` publishes the pictures with the checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_mmintent.calibration import fit_temperature, reliability, save_temperature
from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.hub.from_run import RUN_FILE, summary_from_run
from hf_mmintent.hub.model_card import build_model_card
from hf_mmintent.hub.pictures import PICTURES_FOLDER, write_pictures
from hf_mmintent.hub.push import CARD_NAME
from hf_mmintent.hub.run_summary import AreaRow, CalibrationFacts
from hf_mmintent.metrics.files import atomic_path
from hf_mmintent.run_data import find_checkpoints

from .answers import answer, default_score
from .calibration import classified, draw_reliability
from .common import Subject, add_checkpoint_arguments, fitting_rows, open_subject, save, with_rows
from .confusion import draw_task
from .robustness import RATES, SHARES, STRENGTHS, Robustness, draw, measure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)
    parser.add_argument("--repeats", type=int, default=3, help="draws per strength of a perturbation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strengths", type=float, nargs="+", default=list(STRENGTHS), help="σ of the noise")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help="of frames lost and of words cut")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="errors per word")
    parser.add_argument("--calibrate", action=argparse.BooleanOptionalAction, default=True)


def area_rows(found: Robustness, metric: str) -> list[AreaRow]:
    """A row per curve."""
    clean = sum(scores[metric] for scores in found.clean) / len(found.clean)
    return [
        AreaRow(curve.kind, curve.modality, clean, curve.area(metric), curve.x[-1], curve.means(metric)[-1])
        for curve in found.curves.values()
    ]


def draw_card(path: Path, arguments: argparse.Namespace) -> list[str]:
    """Pictures of one checkpoint, and its card; returns what happened, line by line."""
    subject = open_subject(path, arguments)
    metric, split = default_score(subject), arguments.split
    folder, images, lines = path / PICTURES_FOLDER, {}, []
    found = measure(
        subject,
        strengths=arguments.strengths,
        shares=arguments.shares,
        rates=arguments.rates,
        repeats=arguments.repeats,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
    )
    save(folder / "robustness", draw(subject.name, found, metric, split), {"metric": metric, "split": split})
    images["robustness.png"] = (
        f"{metric} under noise, lost frames and words, missing and exchanged modalities, {split} split"
    )
    for task in answer(subject, batch_size=arguments.batch_size).tasks:
        what = "" if task.name == "label" else f"_{task.name}"
        figure, numbers = draw_task(task, f"{subject.name}, {split} split{what.replace('_', ': ')}")
        save(folder / f"confusion{what}", figure, numbers)
        kind = "Confusion matrix" if task.names else "Predicted against true values"
        images[f"confusion{what}.png"] = f"{kind}{what.replace('_', ' of ')}, {split} split"
    calibration = None
    if arguments.calibrate and not subject.model.can_generate() and not subject.regression:
        calibration, line = _calibrate(subject, path, arguments, images)
        lines.append(line)
    write_pictures(path, images, area_rows(found, metric), metric, split, calibration)
    model, _ = open_checkpoint(path)
    card = build_model_card(summary_from_run(model, path))
    with atomic_path(path / CARD_NAME) as temporary:
        temporary.write_text(str(card), encoding="utf-8")
    return [*found.notes, *lines, f"{folder}: {', '.join(images)}", f"{path / CARD_NAME}"]


def _calibrate(
    subject: Subject, path: Path, arguments: argparse.Namespace, images: dict[str, str]
) -> tuple[CalibrationFacts | None, str]:
    """Fit and store the temperature, and draw what it changes."""
    fitted_on, rows = fitting_rows(path, arguments)
    validation = classified(with_rows(subject, rows), arguments.batch_size)
    task = classified(subject, arguments.batch_size)
    before = reliability(task.logits, task.labels)
    try:
        temperature = fit_temperature(validation.logits, validation.labels)
    except ValueError as error:  # the card then says that the scores are not calibrated
        return None, f"not calibrated: {error}"
    after = reliability(task.logits, task.labels, temperature)
    title = f"{subject.name}, {arguments.split} split, n = {before.n}"
    save(path / PICTURES_FOLDER / "reliability", draw_reliability(before, after, title, temperature), after.to_dict())
    images["reliability.png"] = f"Confidence against the share of right answers, {arguments.split} split"
    save_temperature(path, temperature)
    facts = CalibrationFacts(temperature, fitted_on, arguments.split, before.ece, after.ece)
    return facts, f"temperature {temperature:.4f} of the {fitted_on} split: ECE {before.ece:.4f} -> {after.ece:.4f}"


def run(arguments: argparse.Namespace) -> str:
    lines: list[str] = []
    for path in find_checkpoints(arguments.checkpoint):
        if not (path / RUN_FILE).exists():
            raise ValueError(f"{path} has no {RUN_FILE}: a card is written of a checkpoint that training left behind.")
        lines += draw_card(path, arguments)
    return "\n".join(lines)
