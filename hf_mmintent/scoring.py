"""Checkpoints of one or several seeds to scores on a split: result files, predictions and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset

from hf_mmintent.evaluation import Evaluation, drop_conditions, evaluate, open_checkpoint
from hf_mmintent.explanations import AnswerEvaluation, evaluate_answers
from hf_mmintent.hub.run_summary import describe_hardware
from hf_mmintent.metrics import (
    BertScorer,
    RunResult,
    explanation_settings,
    format_summary,
    label_order_hash,
    mean_std,
    to_markdown,
    units,
)
from hf_mmintent.modeling.out_of_scope import OutOfScope
from hf_mmintent.run_data import data_of, find_checkpoints, run_facts
from hf_mmintent.training.tasks import label_counts

HEADLINE = {
    "regression": ("mae", "corr", "acc7", "acc2_has0", "acc2_non0", "f1_non0"),
    "single_label_classification": ("accuracy", "f1_weighted", "f1_macro", "recall_macro"),
    "multi_label_classification": ("accuracy", "f1_macro"),
    "out_of_scope": (
        "accuracy",
        "f1_weighted",
        "oid_acc",
        "f1_known",
        "f1_open",
        "oid_f1",
        "auroc",
        "fpr95",
        "rejected",
    ),
    "explanation": (
        "emotion_accuracy",
        "emotion_f1_weighted",
        "emotion_recall_macro",
        "intent_accuracy",
        "intent_f1_weighted",
        "intent_recall_macro",
        "joint_accuracy",
        "scored_joint_accuracy",
        "parse_rate",
    ),
}
# Columns of the second table of a model that writes: one row per field, without and with the sentence that names the labels.
WORDING = ("bleu4", "rouge_l", "meteor_nltk", "cider_d", "bertscore_f1", "length_ratio")


def rare_class_counts(splits: Mapping[str, Dataset], train_split: str, known: Sequence[str]) -> dict[str, int] | None:
    """Training rows of every class, for `f1_rare`; `None` without such a split, or where it has other classes."""
    rows = splits.get(train_split)
    feature = None if rows is None else rows.features.get("label")
    return label_counts(rows) if isinstance(feature, ClassLabel) and set(feature.names) <= set(known) else None


def score_checkpoints(
    checkpoint: str | Path,
    split: str = "test",
    dataset: str | None = None,
    data_dir: str | None = None,
    config_name: str | None = None,
    drop: bool = False,
    without: Sequence[str] = (),
    batch_size: int = 32,
    output_dir: str | None = None,
    bertscore: str | None = None,
    max_new_tokens: int | None = None,
) -> str:
    """
    Score every checkpoint of a run on a split and write the results.

    Args:
        checkpoint: folder, run folder with seeds, or Hub id.
        split: name of the split.
        dataset, data_dir, config_name: where the rows are; of the training run when not given.
        drop: also score with each modality dropped, and with only one.
        without: also score with these modalities dropped together.
        batch_size: rows per forward pass.
        bertscore: folder of a model for BERTScore of explanations; NaN without one.
        max_new_tokens: length of explanations; the model's own limit by default.
        output_dir: for `<condition>.json` and `<condition>.predictions.jsonl`; `scores/` beside the checkpoint by default.

    Returns:
        A Markdown table: one row per condition, mean ± std over seeds, as [`hf_mmintent.metrics.tables`] shows scores. A model
        that writes has a second one for its wording.
    """
    paths = find_checkpoints(checkpoint)
    table: dict[str, list[dict[str, float]]] = {}
    count, problem = 0, ""
    scorer = None if bertscore is None else BertScorer(bertscore)
    for path in paths:
        facts = run_facts(path)
        data = data_of(path, dataset, data_dir, config_name)
        rows = data.split(split)
        model, processor = open_checkpoint(path if path.exists() else str(checkpoint))
        writes = model.can_generate()
        counts = (
            None
            if writes
            else rare_class_counts(data.splits, data.settings.get("train_split", "train"), processor.label_names or ())
        )
        problem, count = "explanation" if writes else model.config.problem_type, len(rows)
        always = data.drop_modalities
        conditions = drop_conditions([m for m in processor.modalities if m not in always]) if drop else [()]
        if without and tuple(without) not in conditions:
            conditions.append(tuple(without))
        folder = _scores_folder(path, output_dir, several=len(paths) > 1)
        for dropped in conditions:
            hidden = (*always, *dropped)
            found: Evaluation | AnswerEvaluation
            if writes:
                found = evaluate_answers(model, processor, rows, hidden, batch_size, max_new_tokens, scorer)
            else:
                found = evaluate(model, processor, rows, hidden, batch_size, facts.get("seed", 0), counts)
            if OutOfScope.of(model.config) is not None:
                problem = "out_of_scope"
            label = "all" if not dropped else "without " + " and ".join(dropped)
            table.setdefault(label, []).append(found.scores)
            _write(
                folder / f"{split}_{label.replace(' ', '_')}",
                found,
                model,
                data.name,
                data.config_name,
                split,
                facts,
                path,
            )
    lines = _table(table, HEADLINE[problem], len(paths), count, split)
    if problem == "explanation":
        settings = ", ".join(f"{name}: {value}" for name, value in explanation_settings(scorer).items())
        lines += "\n\n" + wording_table(table["all"]) + f"\n\n{settings}"
    return lines


def _scores_folder(path: Path, output_dir: str | None, several: bool) -> Path:
    """Where the scores of one checkpoint go; every seed and every Hub id has a folder of its own."""
    if output_dir is None:
        return path / "scores" if path.exists() else Path("runs") / str(path).replace("/", "--") / "scores"
    return Path(output_dir) / path.parent.name if several else Path(output_dir)


def _write(
    stem: Path,
    found: Evaluation | AnswerEvaluation,
    model: Any,
    dataset: str,
    config_name: str | None,
    split: str,
    facts: dict[str, Any],
    path: Path,
) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    unnamed = model.can_generate() or model.config.problem_type == "regression"
    names = None if unnamed else [model.config.id2label[i] for i in range(model.config.num_labels)]
    RunResult(
        system=type(model).__name__,
        dataset=dataset,
        configuration=config_name or "default",
        split=split,
        n=int(found.scores["n"]) if model.can_generate() else len(found.predictions),
        scores={name: value for name, value in found.scores.items() if name != "n"},
        seed=facts.get("seed", 0),
        num_classes=None if names is None else len(names),
        label_order=None if names is None else label_order_hash(names),
        condition=found.condition,
        config=facts.get("settings", {}),
        checkpoint=path.name if path.exists() else str(path),
        device=describe_hardware(),
        wall_clock_seconds=facts.get("seconds"),
    ).to_json(stem.with_suffix(".json"))
    found.save(stem.with_suffix(".answers.jsonl" if model.can_generate() else ".predictions.jsonl"))


def _table(table: dict[str, list[dict[str, float]]], keys: Sequence[str], seeds: int, count: int, split: str) -> str:
    cells = [["modalities", *keys]]
    cells += [[label, *(_mean(key, key, scores) for key in keys)] for label, scores in table.items()]
    facts = f"{split}, n = {count}, {seeds} seed{'s' if seeds > 1 else ''}, {units(keys)}"
    return f"{facts}\n\n{to_markdown(cells).rstrip()}"


def _mean(key: str, name: str, seeds: Sequence[dict[str, float]]) -> str:
    """The score `name` over seeds, shown as `key` is; `n/a` where it is undefined: that must not look like a figure."""
    return format_summary(key, mean_std([scores[name] for scores in seeds]))


def wording_table(seeds: Sequence[dict[str, float]]) -> str:
    """Scores over seeds of each field's wording, without and with the sentence that names the labels."""
    fields = [name for name in ("emotion", "intent", "joint") if f"{name}_bleu4_raw" in seeds[0]]
    cells = [["reason", *WORDING]]
    for field, kind in [(field, kind) for field in fields for kind in ("stripped", "raw")]:
        cells.append([f"{field}, {kind}", *(_mean(key, f"{field}_{key}_{kind}", seeds) for key in WORDING)])
    return to_markdown(cells).rstrip()
