"""Result files, prediction files and tables."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from hf_mmintent.metrics import (
    Predictions,
    ReferenceValue,
    RunResult,
    difference_from_paper,
    format_score,
    format_summary,
    label_order_hash,
    mean_std,
    read_runs,
    table_cells,
    table_rows,
    to_csv,
    to_markdown,
    units,
    write_table,
)
from hf_mmintent.metrics.files import atomic_path

NAMES = ["Complain", "Praise", "Thank"]
PAPER = ReferenceValue("f1_weighted", 0.7130, "a paper, table 1", system="MAG-BERT")


def run(seed=0, **changes):
    values = {
        "system": "text only",
        "dataset": "mintrec",
        "configuration": "default",
        "split": "test",
        "n": 445,
        "scores": {"accuracy": 0.70 + seed / 100, "f1_weighted": 0.5, "corr": 0.79634, "n": 445},
        "seed": seed,
        "num_classes": 3,
        "label_order": label_order_hash(NAMES),
    }
    return RunResult(**{**values, **changes})


def test_result_round_trip(tmp_path):
    result = run(
        scores={"corr": float("nan"), "mae": np.float64(0.7), "n": 445},
        config={"learning_rate": 1e-5, "stages": [1, 2]},
        checkpoint="org/name",
        wall_clock_seconds=12.5,
        references=(PAPER,),
        settings={"tokenization": "v1"},
    )
    result.to_json(tmp_path / "deep" / "run.json")
    text = (tmp_path / "deep" / "run.json").read_text(encoding="utf-8")
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict["scores"] == {"corr": "NaN", "mae": 0.7, "n": 445}
    again = RunResult.from_json(tmp_path / "deep" / "run.json")
    assert math.isnan(again.scores["corr"])
    assert replace(again, scores={}) == replace(result, scores={})
    assert {"torch", "transformers", "python"} <= set(again.library_versions)
    assert again.metric_versions["explanation"] == "1 tok=v1"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run.json"]  # no temporary file is left


def test_result_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="`n` is 444 but the scores were computed from 445"):
        run(n=444)
    with pytest.raises(ValueError, match="give both or neither"):
        run(label_order=None)
    path = tmp_path / "run.json"
    run().to_json(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "colour": 1}))
    with pytest.raises(ValueError, match=r"unknown fields \['colour'\]"):
        RunResult.from_json(path)
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "seed"}))
    with pytest.raises(ValueError, match=r"lacks \['seed'\]"):
        RunResult.from_json(path)
    path.write_text(json.dumps({**content, "schema": 99}))
    with pytest.raises(ValueError, match="schema 99"):
        RunResult.from_json(path)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    run().to_json(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        run(config={"model": object()}).to_json(path)
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_label_order_hash_sees_the_order():
    assert label_order_hash(NAMES) == label_order_hash(tuple(NAMES))
    assert label_order_hash(NAMES) != label_order_hash(NAMES[::-1])
    assert label_order_hash(["a,b"]) != label_order_hash(["a", "b"])
    assert len(label_order_hash(NAMES)) == 16


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("kind", ["classes", "regression", "text"])
def test_predictions_round_trip(tmp_path, suffix, kind):
    labels, predictions, scores = {
        "classes": ([0, 1, 2], [0, 2, -1], np.arange(6).reshape(3, 2) / 7),
        "regression": ([0.1, -2.2, 3.0], [0.5, 1 / 3, 0.0], None),
        "text": (["she smiles", "ünïcode\nline", ""], ["a", "", "c"], None),
    }[kind]
    saved = Predictions(["a", "b", "c"], labels, predictions, 1111, scores, {"dialogue_id": ["d1", "d1", None]})
    saved.save(tmp_path / f"predictions{suffix}")
    loaded = Predictions.load(tmp_path / f"predictions{suffix}")
    assert (loaded.ids, loaded.seed, loaded.columns) == (saved.ids, 1111, saved.columns)
    np.testing.assert_array_equal(loaded.labels, saved.labels)
    np.testing.assert_array_equal(loaded.predictions, saved.predictions)
    assert loaded.labels.dtype == saved.labels.dtype
    np.testing.assert_array_equal(loaded.scores, saved.scores)


def test_rows_of_the_predictions_file(tmp_path):
    Predictions(["a", "b"], [0, 1], [1, 1], 7, [[0.2, 0.8], [0.1, 0.9]]).save(tmp_path / "p.jsonl")
    lines = (tmp_path / "p.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"id": "a", "label": 0, "prediction": 1, "scores": [0.2, 0.8], "seed": 7}
    assert len(lines) == 2


def test_predictions_refuse_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"3 rows hold 2 ids, 'a' more than once: remove it.*gather with"):
        Predictions(["a", "b", "a"], [0, 1, 0], [0, 1, 0], 0)
    with pytest.raises(ValueError, match="number of samples differs"):
        Predictions(["a", "b"], [0, 1], [0], 0)
    with pytest.raises(ValueError, match=r"`columns` holds \['seed'\]"):
        Predictions(["a"], [0], [0], 0, columns={"seed": [1]})
    with pytest.raises(ValueError, match=r"must end in .jsonl or .parquet"):
        Predictions(["a"], [0], [0], 0).save(tmp_path / "p.pkl")
    with pytest.raises(ValueError, match="`prediction` holds values that are NaN"):
        Predictions(["a"], [0.0], [float("nan")], 0).save(tmp_path / "p.jsonl")
    (tmp_path / "p.jsonl").write_text('{"id": "a", "label": 0}\n')
    with pytest.raises(ValueError, match=r"lacks the columns \['prediction', 'scores', 'seed'\]"):
        Predictions.load(tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("f1_weighted", 0.71304, "71.30"),
        ("mae", 0.70804, "0.708"),
        ("corr", -0.79634, "-0.796"),
        ("joint_cider_d_stripped", 0.62841, "0.628"),
        ("length_ratio_raw", 1.04567, "1.046"),
        ("joint_bleu4_raw", 0.12345, "12.35"),
        ("n", 445, "445"),
        ("joint_n", 12, "12"),
        ("n_in_scope", 30, "30"),
        ("corr", float("nan"), "n/a"),
        ("mae_without_text", 0.70804, "0.708"),
        ("mae_with_drops", 0.70804, "0.708"),
        ("f1_weighted_without_text_audio", 0.71304, "71.30"),
        ("loss", 1.23456, "1.235"),
        ("hamming_loss", 0.125, "12.50"),
    ],
)
def test_format_of_one_score(key, value, text):
    assert format_score(key, value) == text


def test_units_are_named():
    assert units(["accuracy", "f1_macro"]) == "in percent"
    assert units(["mae", "corr", "acc7", "n"]) == "in percent except mae and corr"
    assert units(["bleu4", "mae", "corr", "cider_d"]) == "in percent except mae, corr and cider_d"
    assert units(["mae", "corr"]) == "as they are"


def test_format_of_a_summary():
    assert format_summary("accuracy", mean_std([0.70, 0.72])) == "71.00 ± 1.41"
    assert format_summary("accuracy", mean_std([0.70])) == "70.00"
    assert format_summary("corr", mean_std([0.7, float("nan")])) == "n/a"


def test_table_of_seeds_references_and_missing_scores():
    runs = [run(0, references=(PAPER,)), run(2, references=(PAPER,)), run(0, system="ours", scores={"accuracy": 0.9})]
    cells = table_cells(runs, ["accuracy", "f1_weighted", "corr"])
    assert cells == [
        ["System", "ACC", "WF1", "Corr", "n", "Runs"],
        ["text only", "71.00 ± 1.41", "50.00 ± 0.00", "0.796 ± 0.000", "445", "2 seeds"],
        ["ours", "90.00", "n/a", "n/a", "445", "1 seed"],
        ["MAG-BERT [a paper, table 1; other code, other splits possible]", "n/a", "71.30", "n/a", "–", "–"],
    ]
    markdown = to_markdown(cells).splitlines()
    assert markdown[0] == "| System | ACC | WF1 | Corr | n | Runs |"
    assert markdown[1] == "|---|---|---|---|---|---|"
    assert len(markdown) == 5
    assert list(csv.reader(io.StringIO(to_csv(cells)))) == cells
    assert to_markdown([["a|b"]]).startswith("| a\\|b |")


def test_robustness_tables_begin_with_the_clean_row():
    runs = [run(s, condition=c) for c in ("without audio", "clean", "noise 0.5") for s in (0, 1)]
    assert [row.condition for row in table_rows(runs)] == ["clean", "without audio", "noise 0.5"]
    assert table_cells(runs, ["accuracy"])[0] == ["System", "Condition", "ACC", "n", "Runs"]
    with pytest.raises(ValueError, match="use the same runs"):
        table_rows([run(0), run(1), run(0, condition="without audio")])


def test_folds_are_not_seeds():
    folds = [run(0, fold=i, n=10 + i, scores={"f1_weighted": 0.5 + i / 10}) for i in range(5)]
    cells = table_cells(folds, ["f1_weighted"])
    assert cells[1] == ["text only", "70.00 ± 15.81", "60", "5 folds"]
    with pytest.raises(ValueError, match="mixes folds and seeds"):
        table_rows([*folds, run(1)])


def test_rows_hold_one_task_only():
    with pytest.raises(ValueError, match=r"n = \[444, 445\]"):
        table_rows([run(0), run(1, n=444, scores={"accuracy": 1.0})])
    with pytest.raises(ValueError, match="did not score the same task"):
        table_rows([run(0), run(1, label_order=label_order_hash(NAMES[::-1]))])
    with pytest.raises(ValueError, match=r"has the seeds \[0, 0\]"):
        table_rows([run(0), run(0)])
    tasks = table_cells([run(0), run(0, configuration="other")], ["accuracy"])
    assert [row[0] for row in tasks] == ["Task", "mintrec/default/test", "mintrec/other/test"]


def test_difference_from_a_paper_is_marked():
    assert difference_from_paper(mean_std([0.72, 0.73]), PAPER) == (
        "+1.20 (a paper, table 1; other code, other splits possible)"
    )
    assert difference_from_paper(mean_std([0.70]), PAPER).startswith("−1.30")
    assert difference_from_paper(mean_std([float("nan")]), PAPER) == "n/a"


def test_tables_are_written_from_files_only(tmp_path):
    for seed in (1, 0):
        run(seed).to_json(tmp_path / "runs" / f"{seed}.json")
    assert [result.seed for result in read_runs(tmp_path / "runs")] == [0, 1]
    write_table(tmp_path / "runs", ["accuracy"], tmp_path / "table.md")
    assert "| text only | 70.50 ± 0.71 | 445 | 2 seeds |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    write_table(tmp_path / "runs", ["accuracy"], tmp_path / "table.csv")
    assert "text only,70.50 ± 0.71,445,2 seeds" in (tmp_path / "table.csv").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"must end in \.md or \.csv"):
        write_table(tmp_path / "runs", ["accuracy"], tmp_path / "table.txt")
    with pytest.raises(ValueError, match="holds no"):
        write_table(tmp_path, ["accuracy"], tmp_path / "table.md")
