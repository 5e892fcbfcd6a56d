"""The data behind every picture, by hand or against a loop; that pictures are drawn, and that commands answer bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Array2D, Dataset, Features, Value
from torch import nn

from hf_mmintent.analysis.answers import Task, answer, default_score, join
from hf_mmintent.analysis.attribution import attribute, draw_attribution, of_clip
from hf_mmintent.analysis.calibration import draw_reliability
from hf_mmintent.analysis.common import Subject, run_name, save, save_tables
from hf_mmintent.analysis.confusion import confusion, draw_task, worst
from hf_mmintent.analysis.modality_attention import Shares, draw_shares, occlusion, shares, write_samples
from hf_mmintent.analysis.per_class import class_f1, class_table, draw_classes
from hf_mmintent.analysis.robustness import measure
from hf_mmintent.analysis.tsne import Points, class_means, nearest_is_own, view_points
from hf_mmintent.calibration import reliability
from hf_mmintent.data.row_format import FORMAT
from hf_mmintent.evaluation import open_checkpoint
from tests.modeling import xmei_cases
from tests.modeling.media_files import write_media
from tests.modeling.pipeline_cases import save_clip_checkpoint
from tests.modeling.testers import ALL_TESTERS, LABELS, ConcatFusionTester, ModelTester, MvclDafTester

WORDS = ["hello you are late again", "thank you so much", "please leave now", "i think this is great"]


def subject_of(tester: ModelTester, tokenizer: Any) -> Subject:
    """An untrained model of a tester with its four samples as rows."""
    inputs = ModelTester.inputs(tester)  # of all modalities, whatever the model takes
    columns = {
        "id": list("abcd"),
        "text": WORDS,
        "label": ["complain", "praise", "inform", "praise"],
        **{f"{m}_features": list(inputs[f"{m}_features"].numpy()) for m in ("audio", "video")},
    }
    features = Features(
        {
            **dict.fromkeys(("id", "text", "label"), Value("string")),
            "audio_features": Array2D((None, 6), "float32"),
            "video_features": Array2D((None, 8), "float32"),
        }
    )
    rows = Dataset.from_dict(columns, features=features).with_format(FORMAT)
    return Subject("tiny", tester.model(), tester.processor(tokenizer), rows)


@pytest.fixture(scope="module")
def daf(tiny_tokenizer: Any) -> Subject:
    return subject_of(MvclDafTester(), tiny_tokenizer)


def drawn(figure: Any, folder: Path) -> None:
    picture, numbers = save(folder / "picture", figure, {"a": 1}).split("  ")
    assert Path(picture).read_bytes().startswith(b"\x89PNG") and json.loads(Path(numbers).read_text()) == {"a": 1}


# ---- confusion and rare classes -------------------------------------------------------------------------------------

GOLDEN = Task("label", np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2]), ["x", "y", "z"])


def test_confusion_by_hand(tmp_path: Path) -> None:
    assert confusion(GOLDEN).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    several = Task("label", np.array([[1, 0], [1, 1]]), np.array([[1, 1], [0, 1]]), ["x", "y"])
    assert confusion(several).tolist() == [[1, 1, 0, 0], [1, 0, 1, 0]]  # right, missed, false alarm, rightly none
    value = Task("label", np.array([0.0, 1.0]), np.array([0.5, 1.0]), [])
    for task in (GOLDEN, several, value):
        figure, numbers = draw_task(task, "title")
        assert json.dumps(numbers)
        drawn(figure, tmp_path)
    with pytest.raises(ValueError, match="has no classes"):
        confusion(value)
    told, _, *rows = worst(
        Task("label", np.append(GOLDEN.labels, 0), np.append(GOLDEN.predictions, -1), GOLDEN.names)
    ).splitlines()
    assert told == "4 of 7 right (57.14 %)" and rows[2:] == ["| x | y | 1 |", "| y | z | 1 |"]
    assert worst(Task("label", GOLDEN.labels, GOLDEN.labels, GOLDEN.names)) == "6 of 6 right (100.00 %)"
    (twice,) = join([[GOLDEN], [GOLDEN]])
    assert confusion(twice).tolist() == (2 * confusion(GOLDEN)).tolist()


def test_classes_by_frequency(tmp_path: Path) -> None:
    f1 = class_f1(GOLDEN)
    np.testing.assert_allclose(f1, [4 / 5, 1 / 2, 2 / 3])  # 2·2/(3+2), 2·1/(2+2), 2·1/(1+2)
    rows = class_table(np.stack([f1, f1 + 0.1]), np.array([5, 50, 20]), np.array([3, 2, 1]), GOLDEN.names)
    assert [row["class"] for row in rows] == ["y", "z", "x"] and [row["rare"] for row in rows] == [False, False, True]
    assert (
        rows[0]["f1"] == pytest.approx(0.55)
        and rows[0]["std"] == pytest.approx(0.1 / 2**0.5)
        and rows[2]["scored"] == 3
    )
    drawn(draw_classes(rows), tmp_path)
    alike = class_table(f1[None], np.array([7, 7, 7]), np.array([3, 2, 1]), GOLDEN.names)
    assert not any(row["rare"] for row in alike) and {row["std"] for row in alike} == {
        None
    }  # one seed has no deviation
    drawn(draw_classes(alike), tmp_path)
    several = Task("label", np.array([[1, 0], [1, 1]]), np.array([[1, 1], [0, 1]]), ["x", "y"])
    np.testing.assert_allclose(class_f1(several), [2 / 3, 2 / 3])


def test_reliability_is_drawn(tmp_path: Path) -> None:
    before = reliability([[2.0, 0.0], [1.0, 0.0], [0.0, 0.5]], [0, 1, 1])
    drawn(draw_reliability(before, None), tmp_path)
    drawn(draw_reliability(before, before, "t", 1.5), tmp_path)


def test_tables_are_written_as_markdown_and_csv(tmp_path: Path) -> None:
    save_tables(tmp_path / "t", {"one": (["a", "b"], [["x", 0.123456]]), "two": (["a", "c"], [["y", 2]])})
    assert "**one**\n\n| a | b |\n| --- | --- |\n| x | 0.1235 |" in (tmp_path / "t.md").read_text()
    assert (tmp_path / "t.csv").read_text().splitlines() == ["table,a,b,c", "one,x,0.123456,", "two,y,,2"]
    rows = [[0.123456, 0.123456, 0.5], [None, float("nan"), 1.0]]
    save_tables(tmp_path / "t", {"one": (["a", "b", "c"], rows)}, {"a": "accuracy", "b": "mae"})
    assert "| 12.35 | 0.123 | 0.5000 |\n| n/a | n/a | 1.0000 |" in (tmp_path / "t.md").read_text()
    assert "one,0.123456,0.123456,0.5" in (tmp_path / "t.csv").read_text()


@pytest.mark.parametrize(
    ("path", "name"),
    [("runs/a/seed_1/final", "a_seed_1"), ("runs/a/final", "a"), ("runs/a", "a"), ("me/model", "model")],
)
def test_runs_have_names(path: str, name: str) -> None:
    assert run_name(path) == name


# ---- weights --------------------------------------------------------------------------------------------------------


def test_weights_are_those_of_the_model(daf: Subject, tmp_path: Path) -> None:
    found = shares(daf, batch_size=3)
    assert found.sources == ["video", "audio", "coarse"] and found.kind == "weights" and found.ids == list("abcd")
    batch = daf.processor(**{name: list(daf.rows[name]) for name in ("text", "audio_features", "video_features")})
    with torch.no_grad():
        out = daf.model(**batch)
    np.testing.assert_allclose(found.pooled, out.modality_weights, atol=1e-5)
    tokens = out.token_modality_weights.numpy()
    by_loop = [row[: int(mask.sum())].mean(0) for row, mask in zip(tokens, batch["attention_mask"], strict=True)]
    np.testing.assert_allclose(found.over_tokens, np.stack(by_loop), atol=1e-5)
    means = found.by_class()
    assert list(means) == ["complain", "inform", "praise"]
    np.testing.assert_allclose(means["praise"], found.pooled[[1, 3]].mean(0))
    drawn(draw_shares({"one": found, "two": found}), tmp_path)
    write_samples(tmp_path / "samples.csv", {"one": found})
    lines = (tmp_path / "samples.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 * 3 and lines[1].startswith("one,a,complain,video,weights,")


def test_without_weights_leaving_out_is_measured(tiny_tokenizer: Any, tmp_path: Path) -> None:
    subject = subject_of(ConcatFusionTester(), tiny_tokenizer)
    found = shares(subject)
    assert found.kind == "occlusion" and found.sources == list(subject.processor.modalities)
    whole, rest = answer(subject).tasks[0], answer(subject, drop=("audio",)).tasks[0]
    before, after = (torch.tensor(task.logits).softmax(-1).numpy() for task in (whole, rest))
    own = np.arange(4), whole.predictions
    column = found.sources.index("audio")
    np.testing.assert_allclose(found.pooled[:, column], before[own] - after[own], atol=1e-6)
    assert np.isnan(occlusion(subject, ["text"])).all()
    drawn(draw_shares({"one": found}), tmp_path)
    with pytest.raises(ValueError, match=r"computes no weights: choose `--kind occlusion`"):
        shares(subject, "weights")
    drawn(draw_shares({"x": Shares(["text"], np.array([[0.5]]), None, ["a"], ["1"], "weights")}), tmp_path)


# ---- class means ----------------------------------------------------------------------------------------------------


def test_class_means_by_hand() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [3.0, 0.0]])
    points = Points(vectors, np.array([0, 0, 1, 1]), np.array(["", "", "", ""]), list("abcd"))
    means = class_means(points)
    np.testing.assert_allclose(means.vectors, [[2**-0.5, 2**-0.5], [3 / 13**0.5, 2 / 13**0.5]])
    assert means.labels.tolist() == [0, 1]
    # cosines with class 0: .71 .71 .71 .71; with class 1: .83 .55 .55 .83
    assert nearest_is_own(points, means) == pytest.approx(2 / 4)
    apart = Points(vectors, points.labels, np.array(["t", "a", "t", "a"]), points.ids)
    assert class_means(apart).modalities.tolist() == ["a", "a", "t", "t"]
    assert nearest_is_own(apart, class_means(apart)) == 1.0


def test_views_are_those_of_the_model(daf: Subject) -> None:
    found = view_points(daf, ["fused"], batch_size=3)
    batch = daf.processor(**{name: list(daf.rows[name]) for name in ("text", "audio_features", "video_features")})
    with torch.no_grad():
        views = daf.model(**batch, output_views=True).view_embeddings
    np.testing.assert_allclose(found.vectors, views["fused"], atol=1e-5)
    assert found.ids == list("abcd") and found.labels.tolist() == [0, 1, 2, 1]
    assert len(view_points(daf, None).vectors) == 4 * 4  # text, audio, video, fused
    with pytest.raises(ValueError, match=r"has no views \['smell'\]"):
        view_points(daf, ["smell"])


# ---- attribution ----------------------------------------------------------------------------------------------------


def test_gradient_times_input_is_what_a_small_change_does(daf: Subject) -> None:
    """To first order: scaling an input by 1 ± ε changes the logit by ± ε · its attribution."""
    model, small = daf.model, 1e-2  # smaller, and single precision would be all that is seen
    row = {name: [daf.rows[0][name]] for name in ("text", "audio_features", "video_features")}
    batch = dict(daf.processor(**row))
    found = attribute(model, daf.processor, batch, WORDS[0])
    assert found.words == WORDS[0].split() and len(found.word_scores) == 5
    assert len(found.steps["audio"]) == int(batch["audio_attention_mask"].sum())
    index = {name: i for i, name in LABELS.items()}[found.target]
    table = model.get_input_embeddings()
    plain = table.weight.detach().clone()
    word = daf.processor.tokenizer("late", add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def logit(factor: float, what: str) -> float:
        features = batch["audio_features"].clone()
        try:
            if what == "audio":
                features *= factor
            else:
                table.weight[word] *= factor
            return model(**{**batch, "audio_features": features}).logits[0, index].item()
        finally:
            table.weight.copy_(plain)

    for what, total in (("audio", found.steps["audio"].sum()), ("word", found.word_scores[3])):
        expected = (logit(1 + small, what) - logit(1 - small, what)) / (2 * small)
        assert total == pytest.approx(expected, rel=0.03, abs=2e-5), what
    other = attribute(model, daf.processor, batch, WORDS[0], target="Inform")
    assert other.target == "inform" and not table._forward_hooks and table.weight.grad is None


def test_a_linear_model_is_explained_completely(tiny_tokenizer: Any) -> None:
    class Linear(nn.Module):
        """Logits are a sum over all inputs: gradient × input of everything adds up to the logit."""

        def __init__(self, config: Any) -> None:
            super().__init__()
            self.config, self.device = config, torch.device("cpu")
            self.words, self.head = nn.Embedding(len(tiny_tokenizer), 4), nn.Linear(4 + 6, 3, bias=False)

        def can_generate(self) -> bool:
            return False

        def get_input_embeddings(self) -> nn.Module:
            return self.words

        def forward(self, input_ids: Any, audio_features: Any, **rest: Any) -> Any:
            joined = torch.cat([self.words(input_ids).sum(1), audio_features.sum(1)], -1)
            return type("Out", (), {"logits": self.head(joined)})

    tester = ConcatFusionTester()
    model, processor = Linear(tester.config()), tester.processor(tiny_tokenizer)
    batch = dict(processor(text=["you are late, thank you"], audio_features=[np.ones((5, 6), "f4")]))
    found = attribute(model, processor, batch, "you are late, thank you")
    assert found.words == ["you", "are", "late,", "thank", "you"]
    assert sum(found.totals().values()) == pytest.approx(found.logit, rel=1e-5)
    np.testing.assert_allclose(found.steps["audio"], found.steps["audio"][0], rtol=1e-5)  # five equal steps
    with pytest.raises(ValueError, match="are not those in `input_ids`"):
        attribute(model, processor, batch, "zzz")


def test_a_clip_is_explained_over_time(tmp_path: Path, tiny_tokenizer: Any) -> None:
    model, processor = open_checkpoint(save_clip_checkpoint(tmp_path / "checkpoint", tiny_tokenizer))
    clip = write_media(tmp_path / "clip.mp4", seconds=1.5)
    found = of_clip(model, processor, clip, "hello you are late")
    assert found.seconds["audio"] == pytest.approx(1.5, abs=0.1) and found.seconds["video"] == pytest.approx(
        1.5, abs=0.2
    )
    assert found.frames is not None and found.frames.shape[0] == len(found.steps["video"]) and set(found.totals()) == {
        "text", "special tokens", "audio", "video",
    }  # fmt: skip
    drawn(draw_attribution(found, "clip: "), tmp_path)
    silent = of_clip(model, processor, None, "hello you")
    assert silent.words == ["hello", "you"] and not silent.steps
    drawn(draw_attribution(silent), tmp_path)
    drawn(draw_attribution(of_clip(model, processor, clip, None)), tmp_path)
    for arguments, message in (
        ((None, None), "nothing to explain"),
        ((None, "hello", "anger"), r"`target` is 'anger': the labels are \['complain'"),
    ):
        with pytest.raises(ValueError, match=message):
            of_clip(model, processor, *arguments)


# ---- models that write ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def writer(tiny_tokenizer: Any) -> Subject:
    values = xmei_cases.rows()
    features = Features(
        {
            **{name: Value("string") for name in values if not name.endswith("_features")},
            "audio_features": Array2D((None, xmei_cases.AUDIO), "float32"),
            "video_features": Array2D((None, xmei_cases.VIDEO), "float32"),
            "id": Value("string"),
        }
    )
    rows = Dataset.from_dict({**values, "id": list("abcd")}, features=features).with_format(FORMAT)
    config = xmei_cases.tiny_config("cat_mod")
    model = xmei_cases.tiny_model(connector="cat_mod")
    return Subject("writer", model, xmei_cases.tiny_processor(tiny_tokenizer, config=config), rows)


def test_answers_of_a_model_that_writes(writer: Subject) -> None:
    assert default_score(writer) == "joint_accuracy"
    found = answer(writer)
    assert [task.name for task in found.tasks] == ["emotion", "intent"]
    assert found.tasks[0].names[found.tasks[0].labels[0]] == "happy"
    both = [np.mean(task.predictions == task.labels) for task in found.tasks]
    assert found.scores["emotion_accuracy"] == both[0] and found.scores["joint_accuracy"] <= min(both)
    assert found.changed(found) == 0.0


def test_a_model_that_writes_is_made_worse(writer: Subject) -> None:
    quick = {"strengths": (0.0, 8.0), "shares": (0.0, 0.5), "rates": (0.0, 1.0), "repeats": 1}
    found = measure(writer, **quick)
    assert (
        set(found.shuffled) == {*writer.processor.modalities, "audio caption", "video caption"}
        and found.clean[0]["joint_accuracy"] >= 0
    )
    assert any("rows have none of it" in note for note in found.notes)  # rows without words, sound or pictures
    with pytest.raises(ValueError, match="no logit of a label"):
        attribute(writer.model, writer.processor, {})
    with pytest.raises(ValueError, match="no weights by class"):
        shares(writer)


@pytest.mark.parametrize("tester", ALL_TESTERS, ids=lambda tester: type(tester).__name__)
def test_every_architecture_can_be_looked_at(tester: ModelTester, tiny_tokenizer: Any) -> None:
    subject = subject_of(tester, tiny_tokenizer)
    names = subject.processor.modalities
    found = measure(subject, strengths=(0.0, 1.0), shares=(0.0, 0.5), rates=(0.0, 0.5), repeats=1)
    assert set(found.shuffled) == set(names) and len(found.subsets) == (2 ** len(names) - 1 if len(names) > 1 else 0)
    assert sum(kind == "noise" for kind, _ in found.curves) == len(names) and not found.notes
    weights = shares(subject)
    assert weights.pooled.shape == (4, len(weights.sources))
    columns = ("text", "audio_features", "video_features")
    row = {name: [subject.rows[0][name]] for name in columns if name.removesuffix("_features") in names}
    explained = attribute(subject.model, subject.processor, dict(subject.processor(**row)), row.get("text", [None])[0])
    assert set(explained.steps) == set(names) - {"text"} and all(
        np.abs(values).sum() > 0 for values in explained.steps.values()
    )
    assert len(explained.words) == (5 if "text" in names else 0)
