"""Rows to batches: columns, missing modalities, labels, ablation, modality dropout, and what it costs."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data.row_format import FORMAT
from hf_mmintent.modeling.processing_multimodal import MultimodalProcessor

NAMES = ["Complain", "Praise", "Thank"]


class Recorder:
    """A processor that returns what it was asked."""

    modalities: ClassVar[list[str]] = ["text", "audio", "video"]
    has_labelled_view: ClassVar[bool] = True
    extra_columns: ClassVar[tuple[str, ...]] = ()
    label_names: ClassVar[list[str]] = NAMES

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        return inputs


def row(index: int = 0, **columns: Any) -> dict[str, Any]:
    base = {"id": f"r{index}", "text": f"hello {index}", "label": index % 3}
    base["audio_features"] = np.full((index % 4 + 1, 5), index, np.float32)
    base["video_features"] = np.full((2, 4), index, np.float32)
    return {**base, **columns}


@pytest.fixture
def processor(tiny_tokenizer) -> MultimodalProcessor:
    return MultimodalProcessor(tiny_tokenizer, feature_sizes={"audio": 5, "video": 4}, label_names=NAMES)


def test_batch_of_the_real_processor(processor):
    batch = MultimodalCollator(processor)([row(0), row(2, audio_features=None), row(1)])
    assert batch["audio_features"].shape == (3, 2, 5)
    assert batch["audio_attention_mask"].tolist() == [[1, 0], [0, 0], [1, 1]]
    assert batch["labels"].tolist() == [0, 2, 1]
    assert batch["input_ids"].shape == batch["attention_mask"].shape


@pytest.mark.parametrize(
    "absent", [None, float("nan"), np.float64("nan"), np.array(np.nan), torch.tensor(float("nan"))]
)
def test_every_spelling_of_a_missing_feature(processor, absent):
    batch = MultimodalCollator(processor)([row(0), row(1, audio_features=absent)])
    assert batch["audio_attention_mask"][1].sum() == 0


def test_lists_and_tensors_are_features_too(processor):
    values = np.arange(10, dtype=np.float32).reshape(2, 5)
    collate = MultimodalCollator(processor)
    batches = [collate([row(1, audio_features=made)]) for made in (values, values.tolist(), torch.tensor(values))]
    for batch in batches[1:]:
        assert torch.equal(batch["audio_features"], batches[0]["audio_features"])


def test_columns_become_keywords():
    inputs = MultimodalCollator(Recorder())([row(0), row(1, text=None)])
    assert inputs["text"] == ["hello 0", None]
    assert [value.shape for value in inputs["audio_features"]] == [(1, 5), (2, 5)]
    assert inputs["labels"] == [0, 1]
    assert "return_labelled_view" not in inputs


def test_a_modality_that_no_row_has_is_left_out():
    inputs = MultimodalCollator(Recorder())([row(0, video_features=None), row(1, video_features=None)])
    assert "video_features" not in inputs


@pytest.mark.parametrize("column", ["audio_path", "audio"])
def test_raw_media_with_their_segment(column):
    media = {"id": "a", "text": "x", column: "clip.wav", "start_time": 1.0, "end_time": 2.5}
    inputs = MultimodalCollator(Recorder())([media])
    assert inputs["audio"] == ["clip.wav"]
    assert (inputs["start_time"], inputs["end_time"]) == ([1.0], [2.5])
    assert inputs["labels"] is None


def test_features_win_over_media():
    inputs = MultimodalCollator(Recorder())([row(0, audio_path="clip.wav")])
    assert "audio_features" in inputs
    assert "audio" not in inputs


def test_labelled_view_is_asked_for_in_training_only():
    assert MultimodalCollator(Recorder(), training=True)([row(0)])["return_labelled_view"] is True

    class Plain(Recorder):
        has_labelled_view = False

    assert "return_labelled_view" not in MultimodalCollator(Plain(), training=True)([row(0)])


def test_extra_columns():
    class Explains(Recorder):
        extra_columns = ("joint_reason",)

    assert MultimodalCollator(Explains())([row(0, joint_reason="why")])["joint_reason"] == ["why"]


@pytest.mark.parametrize("dropped", [("text",), ("audio",), ("text", "video")])
def test_dropped_modalities(processor, dropped):
    batch = MultimodalCollator(processor, drop_modalities=dropped)([row(0), row(1)])
    keys = {"text": "input_ids", "audio": "audio_features", "video": "video_features"}
    assert {name for name, key in keys.items() if key not in batch} == set(dropped)


@pytest.mark.parametrize(("options", "message"), [
    ({"drop_modalities": ("smell",)}, "smell"),
    ({"drop_modalities": ("text", "audio", "video")}, "leaves no modality"),
    ({"modality_dropout": 1.0}, r"choose a value in \[0, 1\)"),
    ({"modality_dropout": -0.1}, r"choose a value in \[0, 1\)"),
])  # fmt: skip
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        MultimodalCollator(Recorder(), **options)


@pytest.mark.parametrize(("rows", "message"), [
    ([], "no rows"),
    ([row(0), {"id": "x", "text": "y"}], r"row 1 of the batch does not have the columns of row 0.*audio_features"),
    ([row(0, labels=1)], "two columns of labels"),
    ([row(0, audio_path="a", audio={"bytes": b""})], "audio twice"),
    ([row(0, vide_features=None)], r"`vide_features` is no column.*Did you mean `video_features`"),
    ([row(0, genre="x")], "`genre` is no column that the model takes"),
    ([row(0, label=3)], r"row 'r0' has the label 3, outside the 3 names"),
    ([row(0, label=-1)], r"row 'r0' has the label -1"),
    ([row(0), row(1, label="Praised")], r"row 'r1' has the label 'Praised'.*Complain"),
    ([row(0, label=None)], "row 'r0' has no label"),
])  # fmt: skip
def test_wrong_rows(rows, message):
    with pytest.raises(ValueError, match=message):
        MultimodalCollator(Recorder())(rows)


@pytest.mark.parametrize(
    "broken", [{"text": " "}, {"audio_features": np.full((2, 5), np.nan)}, {"video_features": np.zeros((2, 9))}]
)
def test_an_error_of_the_processor_names_the_row(processor, broken):
    with pytest.raises(ValueError, match="sample 1") as caught:
        MultimodalCollator(processor)([row(7), row(3, **broken)])
    assert caught.value.__notes__ == [f"Sample 1 of this batch is the row with the id {row(3)['id']!r}."]


def test_known_names_ignored_columns_and_class_names():
    collate = MultimodalCollator(Recorder(), ignore_columns=("genre",))
    assert collate([row(0, label="Praise", genre="x", speaker="a", flow_features=None)])["labels"] == ["Praise"]


def test_a_number_as_target():
    class Regression(Recorder):
        label_names = None

    assert MultimodalCollator(Regression())([row(0, label=-2.4)])["labels"] == [-2.4]


# ---- modality dropout


def hidden(collate: MultimodalCollator, rows: list[dict]) -> list[tuple[bool, ...]]:
    inputs = collate(rows)
    keys = ("text", "audio_features", "video_features")
    columns = [inputs.get(key, [None] * len(rows)) for key in keys]
    return [tuple(value is None for value in values) for values in zip(*columns)]


def test_dropout_rate_and_never_all():
    rows = [row(i) for i in range(3000)]
    mask = np.array(hidden(MultimodalCollator(Recorder(), training=True, modality_dropout=0.3), rows))
    assert not mask.all(1).any()
    expected = 0.3 - 0.3**3 / 3  # one of three comes back where all were hidden
    np.testing.assert_allclose(mask.mean(0), expected, atol=0.03)


def test_dropout_counts_what_is_there():
    rows = [row(i, audio_features=None, video_features=None) for i in range(50)]
    mask = np.array(hidden(MultimodalCollator(Recorder(), training=True, modality_dropout=0.9), rows))
    assert not mask[:, 0].any()


def test_dropout_is_for_training():
    rows = [row(i) for i in range(50)]
    assert not np.array(hidden(MultimodalCollator(Recorder(), modality_dropout=0.9), rows)).any()


def test_dropout_depends_on_seed_epoch_and_rows_only():
    rows = [row(i) for i in range(40)]
    make = lambda seed=0: MultimodalCollator(Recorder(), training=True, modality_dropout=0.5, seed=seed)  # noqa: E731
    used = make()
    first = hidden(used, rows)
    hidden(used, rows[:7])
    assert hidden(used, rows) == first == hidden(make(), rows)
    assert hidden(make(1), rows) != first
    assert hidden(used, rows[::-1]) != first[::-1]
    used.set_epoch(1)
    assert hidden(used, rows) != first


def test_dropout_leaves_the_rows_alone():
    rows = [row(i) for i in range(20)]
    MultimodalCollator(Recorder(), training=True, modality_dropout=0.9)(rows)
    assert all(item["text"] and item["audio_features"] is not None for item in rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_hide_the_same(processor, workers):
    rows = Dataset.from_list([{"id": f"r{i}", "text": "hello you", "label": i % 3} for i in range(12)])
    rows = rows.add_column("audio_features", [np.ones((2, 5)).tolist()] * 12)
    collate = MultimodalCollator(processor, training=True, modality_dropout=0.5)
    loader = torch.utils.data.DataLoader(rows.with_format(FORMAT), 4, collate_fn=collate, num_workers=workers)
    masks = torch.cat([batch["attention_mask"].sum(1) for batch in loader])
    expected = torch.cat([collate([rows[i] for i in range(k, k + 4)])["attention_mask"].sum(1) for k in (0, 4, 8)])
    assert torch.equal(masks, expected)
    assert (masks == 0).any()
