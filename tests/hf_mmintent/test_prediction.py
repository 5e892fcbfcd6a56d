"""From a clip to a label through one checkpoint: what works, and the one clear error for what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from hf_mmintent.data.collator import MultimodalCollator
from hf_mmintent.data.media_features import add_media_features
from hf_mmintent.evaluation import drop_conditions, evaluate, open_checkpoint, predict
from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.media_decoding import MediaError
from hf_mmintent.modeling.modeling_mvcl_daf import MvclDafForSequenceClassification
from hf_mmintent.modeling.processing_mvcl_daf import MvclDafProcessor
from hf_mmintent.prediction import predict_one
from tests.modeling.media_files import write_media
from tests.modeling.testers import MvclDafTester, tiny_bert

NAMES = ["complain", "praise", "inform"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A tiny classifier that owns a media encoder."""
    torch.manual_seed(0)
    encoder = MediaEncoderConfig(num_mel_bins=6, grid_size=4, image_size=24)
    config = MvclDafTester().config(
        text_config=tiny_bert(vocab_size=len(tiny_tokenizer)),
        encoder_config=encoder,
        audio_feature_size=6,
        video_feature_size=16,
        max_text_length=24,
        **{f"{name}_token_id": getattr(tiny_tokenizer, f"{name}_token_id") for name in ("cls", "sep", "mask", "pad")},
    )
    folder = tmp_path_factory.mktemp("checkpoint")
    MvclDafForSequenceClassification(config).save_pretrained(folder)
    MvclDafProcessor.from_config(config, tiny_tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_media(folder / "whole.mp4", seconds=1.0)
    write_media(folder / "longer.mp4", seconds=1.6)
    write_media(folder / "silent.mp4", seconds=1.0, audio=None)
    whole = (folder / "whole.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is not a film")
    return folder


def rows_of(clips: Path, names: list[str], **columns: list[Any]) -> Dataset:
    features = Features(
        {
            "id": Value("string"),
            "text": Value("string"),
            "label": ClassLabel(names=NAMES),
            "audio_path": Value("string"),
            "video_path": Value("string"),
            **{name: Value("float64") for name in columns},
        }
    )
    paths = [str(clips / name) for name in names]
    return Dataset.from_dict(
        {
            "id": [f"row{i}" for i in range(len(names))],
            "text": ["hello"] * len(names),
            "label": [0] * len(names),
            "audio_path": paths,
            "video_path": paths,
            **columns,
        },
        features=features,
    )


def test_clip_and_text_give_ranked_labels(checkpoint: Path, clips: Path) -> None:
    answer = predict_one(checkpoint, clip=clips / "whole.mp4", text="hello you are late", top_k=2)
    assert len(answer.ranking) == 2 and {name for name, _ in answer.ranking} <= set(NAMES)
    assert answer.ranking[0][1] >= answer.ranking[1][1]
    assert list(answer.modality_weights) == ["video", "audio", "coarse"]
    assert sum(answer.modality_weights.values()) == pytest.approx(1.0, abs=1e-3)
    assert answer.used == ["input_ids", "input_values", "pixel_values"]


def test_each_source_alone_works(checkpoint: Path, clips: Path) -> None:
    assert predict_one(checkpoint, text="hello").used == ["input_ids"]
    assert predict_one(checkpoint, clip=clips / "whole.mp4").used == ["input_values", "pixel_values"]
    assert predict_one(checkpoint, clip=(clips / "whole.mp4").read_bytes()).used == ["input_values", "pixel_values"]


def test_a_clip_without_sound_works_as_missing_audio(checkpoint: Path, clips: Path) -> None:
    answer = predict_one(checkpoint, clip=clips / "silent.mp4", text="hello")
    assert answer.used == ["input_ids", "pixel_values"]
    assert answer.modality_weights["audio"] == 0.0


@pytest.mark.parametrize("name", ["truncated.mp4", "empty.mp4", "text.mp4", "absent.mp4"])
def test_damaged_clips_are_one_clear_error(checkpoint: Path, clips: Path, name: str) -> None:
    with pytest.raises(MediaError, match=name):
        predict_one(checkpoint, clip=clips / name, text="hello")


def test_a_zero_length_clip_is_an_error(checkpoint: Path, clips: Path) -> None:
    _, processor = open_checkpoint(checkpoint)
    with pytest.raises(MediaError, match=r"`start` is 0.5 and `end` is 0.5"):
        processor(text=["hello"], audio=[clips / "whole.mp4"], start_time=[0.5], end_time=[0.5])


def test_nothing_and_empty_text_are_errors(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="nothing to label"):
        predict_one(checkpoint)
    with pytest.raises(ValueError, match="empty"):
        predict_one(checkpoint, text="  ")


@pytest.mark.parametrize("top_k", [0, -1])
def test_a_ranking_has_at_least_one_label(checkpoint: Path, top_k: int) -> None:
    with pytest.raises(ValueError, match=f"`top_k` is {top_k}"):
        predict_one(checkpoint, text="hello", top_k=top_k)


def test_features_made_offline_equal_those_made_inside(checkpoint: Path, clips: Path) -> None:
    """Rows with extracted features and the same rows with their media give the same logits, also for part of a clip."""
    model, processor = open_checkpoint(checkpoint)
    names = ["whole.mp4", "longer.mp4", "silent.mp4"]
    media = rows_of(clips, names, start_time=[0.0, 0.2, 0.0], end_time=[1.0, 1.3, 0.9])
    extracted = add_media_features(media, model.base_model.media_encoder)
    assert np.isnan(extracted[2]["audio_features"])  # how a null feature reads: the collator knows it
    collator = MultimodalCollator(processor)
    inside, offline = predict(model, media, collator), predict(model, extracted, collator)
    np.testing.assert_allclose(inside, offline, atol=1e-5)


def test_standardised_features_are_standardised_inside_too(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    """What training did to extracted features, cutting and standardising, happens to raw clips after reloading as well."""
    model, processor = open_checkpoint(checkpoint)
    media = rows_of(clips, ["whole.mp4", "longer.mp4"])
    extracted = add_media_features(media, model.base_model.media_encoder)
    processor.max_lengths = {"audio": 20, "video": 5}
    processor.fit_feature_stats(extracted)
    model.config.media_feature_stats, model.config.media_max_lengths = processor.feature_stats, processor.max_lengths
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, processor = open_checkpoint(tmp_path)
    collator = MultimodalCollator(processor)
    inside, offline = predict(model, media, collator), predict(model, extracted, collator)
    np.testing.assert_allclose(inside, offline, atol=1e-5)
    plain, _ = open_checkpoint(checkpoint)
    assert not np.allclose(predict(plain, media, collator), inside, atol=1e-3)


def test_extraction_names_the_file_that_fails(checkpoint: Path, clips: Path) -> None:
    model, _ = open_checkpoint(checkpoint)
    with pytest.raises(MediaError, match=r"truncated\.mp4"):
        add_media_features(rows_of(clips, ["whole.mp4", "truncated.mp4"]), model.base_model.media_encoder)


def test_evaluation_scores_conditions_and_keeps_predictions(checkpoint: Path, clips: Path) -> None:
    model, processor = open_checkpoint(checkpoint)
    rows = rows_of(clips, ["whole.mp4", "longer.mp4", "silent.mp4"])
    whole = evaluate(model, processor, rows, progress=False)
    textless = evaluate(model, processor, rows, drop_modalities=["text"], progress=False)
    assert whole.condition == "clean" and textless.condition == "without text"
    assert whole.scores["n"] == 3 and whole.predictions.ids == ["row0", "row1", "row2"]
    assert not np.array_equal(whole.predictions.scores, textless.predictions.scores)
    assert drop_conditions(["text", "audio", "video"]) == [
        (),
        ("text",),
        ("audio",),
        ("video",),
        ("text", "audio"),
        ("text", "video"),
        ("audio", "video"),
    ]


def test_labels_are_compared_by_name_when_the_order_differs(checkpoint: Path, clips: Path) -> None:
    model, processor = open_checkpoint(checkpoint)
    rows = rows_of(clips, ["whole.mp4", "longer.mp4"])
    turned = rows.cast_column("label", ClassLabel(names=NAMES)).map(
        lambda row: {"label": 2 - row["label"]},
        features=Features({**rows.features, "label": ClassLabel(names=NAMES[::-1])}),
    )
    assert turned.features["label"].int2str(turned[0]["label"]) == rows.features["label"].int2str(rows[0]["label"])
    first, second = (evaluate(model, processor, data, progress=False) for data in (rows, turned))
    assert first.scores == second.scores


def test_a_label_outside_the_names_is_an_error(checkpoint: Path, clips: Path) -> None:
    model, processor = open_checkpoint(checkpoint)
    rows = rows_of(clips, ["whole.mp4"])
    renamed = rows.cast(Features({**rows.features, "label": ClassLabel(names=["dance", *NAMES[1:]])}))
    with pytest.raises(ValueError, match=r"label 'dance' .* not one of the 3 known names"):
        evaluate(model, processor, renamed, progress=False)


def test_dropping_everything_or_the_unknown_is_an_error(checkpoint: Path) -> None:
    _, processor = open_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="leaves no modality"):
        MultimodalCollator(processor, drop_modalities=("text", "audio", "video"))
    with pytest.raises(ValueError, match=r"\['smell'\]"):
        MultimodalCollator(processor, drop_modalities=("smell",))
