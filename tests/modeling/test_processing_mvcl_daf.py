"""The processor of MVCL-DAF: label slots, missing parts, labels, features, raw media, saving."""

from __future__ import annotations

import copy
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, BertTokenizer

from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.modeling_media_encoder import MediaEncoderModel
from hf_mmintent.modeling.modeling_mvcl_daf import MvclDafForSequenceClassification
from hf_mmintent.modeling.processing_mvcl_daf import MvclDafProcessor

from .media_files import write_media
from .testers import MvclDafTester, tiny_bert

NAMES = ["complain", "praise", "ask for help", "apologise"]
SIZES = {"video": 5, "audio": 3}


def make(tokenizer: Any, **overrides: Any) -> MvclDafProcessor:
    fields: dict[str, Any] = {
        "feature_sizes": dict(SIZES),
        "label_names": NAMES,
        "label_slots": 4,
        "max_text_length": 12,
    }
    return MvclDafProcessor(copy.deepcopy(tokenizer), **{**fields, **overrides})


@pytest.fixture
def processor(tiny_tokenizer: BertTokenizer) -> MvclDafProcessor:
    return make(tiny_tokenizer)


def tokens(processor: MvclDafProcessor, ids: Any) -> list[str]:
    return processor.tokenizer.convert_ids_to_tokens(ids.tolist())


def frames(*lengths: int, width: int = 3, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(length, width)).astype(np.float32) for length in lengths]


# ---- text views -------------------------------------------------------------------------------------------------------


def test_slots_lie_behind_the_words(processor: MvclDafProcessor) -> None:
    batch = processor(["you are late", "thank you"], labels=["ask for help", "praise"], return_labelled_view=True)
    first, second = batch["input_ids"]
    assert tokens(processor, first) == ["[CLS]", "you", "are", "late", *["[MASK]"] * 4, "[SEP]"]
    assert tokens(processor, second) == ["[CLS]", "thank", "you", *["[MASK]"] * 4, "[SEP]", "[PAD]"]
    assert batch["attention_mask"].tolist() == [[1] * 9, [1] * 8 + [0]]
    assert batch["label_slot_mask"].tolist() == [[0] * 4 + [1] * 4 + [0], [0] * 3 + [1] * 4 + [0] * 2]
    assert not batch["token_type_ids"].any() and batch["token_type_ids"].shape == batch["input_ids"].shape
    slots = batch["label_slot_mask"].bool()
    assert torch.equal(slots, batch["input_ids"] == processor.tokenizer.mask_token_id)
    assert batch["labels"].tolist() == [2, 1]


def test_labelled_view_fills_the_first_slots(processor: MvclDafProcessor) -> None:
    """The rest stays [MASK]; nothing else differs, so that one mask fits both views."""
    batch = processor(["you are late", "thank you"], labels=["ask for help", "praise"], return_labelled_view=True)
    masked, labelled, slots = batch["input_ids"], batch["labelled_input_ids"], batch["label_slot_mask"].bool()
    assert tokens(processor, labelled[0]) == ["[CLS]", "you", "are", "late", "ask", "for", "help", "[MASK]", "[SEP]"]
    assert tokens(processor, labelled[1]) == [
        "[CLS]",
        "thank",
        "you",
        "praise",
        "[MASK]",
        "[MASK]",
        "[MASK]",
        "[SEP]",
        "[PAD]",
    ]
    assert torch.equal(masked[~slots], labelled[~slots])


def test_labelled_view_only_on_request(processor: MvclDafProcessor) -> None:
    assert "labelled_input_ids" not in processor(["thank you"], labels=["praise"])
    assert "labelled_input_ids" not in processor(["thank you"], return_labelled_view=True)


def test_masked_view_does_not_know_the_label(processor: MvclDafProcessor) -> None:
    views = [
        processor(["thank you"], labels=[label], return_labelled_view=True)["input_ids"]
        for label in ("praise", "complain")
    ]
    assert torch.equal(*views)


def test_ignored_label_stays_masked(processor: MvclDafProcessor) -> None:
    batch = processor(["thank you", "hello"], labels=[-100, 1], return_labelled_view=True)
    assert torch.equal(batch["labelled_input_ids"][0], batch["input_ids"][0])
    assert batch["labels"].tolist() == [-100, 1]


def test_label_longer_than_the_slots_raises(tiny_tokenizer: BertTokenizer) -> None:
    with pytest.raises(ValueError, match=r"'ask for help' has 3 wordpieces but `label_slots` is 2.*`label_slots=3`"):
        make(tiny_tokenizer, label_slots=2)
    assert make(tiny_tokenizer, label_slots=3).label_slots == 3


def test_truncation_keeps_slots_and_separator(processor: MvclDafProcessor) -> None:
    batch = processor(["hello " * 30], labels=["ask for help"], return_labelled_view=True)
    assert tokens(processor, batch["input_ids"][0]) == ["[CLS]", *["hello"] * 6, *["[MASK]"] * 4, "[SEP]"]
    assert tokens(processor, batch["labelled_input_ids"][0])[7:11] == ["ask", "for", "help", "[MASK]"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"max_lengths": {"audoi": 3}}, r"`max_lengths` says 'audoi': 3: expected .*'audio'"),
        ({"max_lengths": {"audio": 0}}, "`max_lengths` says 'audio': 0"),
        ({"label_names": ["praise", "complain", "praise"]}, r"`label_names` holds \['praise'\] more than once"),
    ],
)
def test_settings_that_would_be_ignored_raise(
    tiny_tokenizer: BertTokenizer, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(tiny_tokenizer, **overrides)


def test_no_room_for_words_raises(tiny_tokenizer: BertTokenizer) -> None:
    with pytest.raises(ValueError, match="`max_text_length` is 6 but `label_slots` is 4"):
        make(tiny_tokenizer, max_text_length=6)


def test_special_tokens_in_the_words_are_words(processor: MvclDafProcessor) -> None:
    """A transcript that says "[MASK]" gets no further slot, and "[SEP]" ends nothing."""
    batch = processor(["hello [MASK] [SEP]"])
    ids, slots = batch["input_ids"][0], batch["label_slot_mask"][0].bool()
    assert (ids == processor.tokenizer.mask_token_id).sum() == 4 == slots.sum()
    assert (ids == processor.tokenizer.sep_token_id).sum() == 1


def test_sample_without_text(processor: MvclDafProcessor) -> None:
    """Its mask is zero; the model puts the empty utterance there, which the labelled view already has."""
    batch = processor(
        ["you are late", None], audio_features=frames(2, 3), labels=["praise", "complain"], return_labelled_view=True
    )
    assert not batch["attention_mask"][1].any() and not batch["label_slot_mask"][1].any()
    assert batch["attention_mask"][0].all()
    assert tokens(processor, batch["labelled_input_ids"][1])[:6] == [
        "[CLS]",
        "complain",
        "[MASK]",
        "[MASK]",
        "[MASK]",
        "[SEP]",
    ]


def test_no_text_at_all_with_labelled_view(processor: MvclDafProcessor) -> None:
    expected = ["[CLS]", "praise", "[MASK]", "[MASK]", "[MASK]", "[SEP]"]
    for text in (None, [None, None]):
        batch = processor(text, audio_features=frames(2, 3), labels=["praise"] * 2, return_labelled_view=True)
        assert set(batch) == {"audio_features", "audio_attention_mask", "labels", "labelled_input_ids"}
        assert tokens(processor, batch["labelled_input_ids"][1]) == expected


def test_left_padding_is_switched(tiny_tokenizer: BertTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.padding_side = "left"
    logger = logging.getLogger("transformers")
    propagate, logger.propagate = logger.propagate, True
    try:
        with caplog.at_level("WARNING"):
            processor = make(tokenizer)
    finally:
        logger.propagate = propagate
    assert processor.tokenizer.padding_side == "right"
    assert "pads on the left" in caplog.text
    assert processor(["hello", "you are late"])["attention_mask"][0].tolist() == [1] * 7 + [0] * 2


@pytest.mark.parametrize("text", ["", "   ", "\n", "\u200b\ufeff", "\x00"], ids=ascii)
def test_empty_text_raises(processor: MvclDafProcessor, text: str) -> None:
    """Also letters that nobody sees: the tokenizer drops them, and an empty utterance would be labelled."""
    with pytest.raises(ValueError, match=r"text of sample 1 is empty: .* Pass `None`"):
        processor(["hello", text])


def test_a_batch_without_samples_raises(processor: MvclDafProcessor) -> None:
    with pytest.raises(ValueError, match="the batch has no samples: `text` are empty lists"):
        processor([])


def test_text_of_another_type_raises(processor: MvclDafProcessor) -> None:
    with pytest.raises(ValueError, match=r"text of sample 1 is .*float"):
        processor(["hello", float("nan")])  # what pandas makes of an empty cell


# ---- labels -----------------------------------------------------------------------------------------------------------


def test_labels_by_name_and_by_id(processor: MvclDafProcessor) -> None:
    for labels in (NAMES, [0, 1, 2, 3], np.arange(4), torch.arange(4), [0, "praise", np.int64(2), "apologise"]):
        found = processor(["hello"] * 4, labels=labels, return_labelled_view=True)
        assert found["labels"].tolist() == [0, 1, 2, 3] and found["labels"].dtype == torch.int64
        assert tokens(processor, found["labelled_input_ids"][2])[2:5] == ["ask", "for", "help"]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("Praise", r"label 'Praise' of sample 1 is not one of the 4 known names.*'praise'"),
        (4, r"label id 4 of sample 1 is outside \[0, 4\)"),
        (-1, r"label id -1 of sample 1 is outside \[0, 4\)"),
        (None, r"label None of sample 1 is neither a name nor an id"),
        (float("nan"), r"label nan of sample 1 is neither a name nor an id"),
        (1.5, r"label 1.5 of sample 1 is neither a name nor an id"),
    ],
)
def test_wrong_labels_raise(processor: MvclDafProcessor, label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor(["hello", "hello"], labels=["praise", label])


def test_regression_labels_and_levels(tiny_tokenizer: BertTokenizer) -> None:
    """The level written into the slots is the class that the model computes, also on an edge that float32 rounds."""
    edges = (-0.6, 0.1, 0.7)
    processor = make(
        tiny_tokenizer,
        problem_type="regression",
        label_names=None,
        regression_bins=edges,
        label_slots=6,
        max_text_length=16,
    )
    labels = [-3.0, -0.6, 0.1, 0.7, 0.70001, 3.0]
    batch = processor(["hello"] * 6, labels=labels, return_labelled_view=True)
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == pytest.approx(labels)
    model = MvclDafTester().model(
        problem_type="regression", regression_bins=edges, num_labels=1, id2label={0: "score"}, label2id={"score": 0}
    )
    classes = model._classes(batch["labels"])[0].tolist()
    assert classes == [0, 0, 1, 2, 3, 3]
    written = [tokens(processor, row)[2:8] for row in batch["labelled_input_ids"]]
    assert [[word for word in row if word.isdigit()] for row in written] == [[str(level)] for level in classes]
    with pytest.raises(ValueError, match="label of sample 1 is not a finite number"):
        processor(["hello", "hello"], labels=[0.0, float("nan")])


def test_regression_without_bins_has_no_labelled_view(tiny_tokenizer: BertTokenizer) -> None:
    processor = make(tiny_tokenizer, problem_type="regression", label_names=None)
    assert "labelled_input_ids" not in processor(["hello"], labels=[0.5], return_labelled_view=True)


def test_several_labels_have_no_labelled_view(tiny_tokenizer: BertTokenizer) -> None:
    processor = make(tiny_tokenizer, problem_type="multi_label_classification")
    batch = processor(["hello", "thank you"], labels=[[1, 0, 0, 1], [0, 0, 0, 0]], return_labelled_view=True)
    assert batch["labels"].tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]] and batch["labels"].dtype == torch.float32
    assert "labelled_input_ids" not in batch
    assert processor("hello", labels=[1, 0, 0, 1])["labels"].tolist() == [[1, 0, 0, 1]]
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*4"):
        processor(["hello", "hello"], labels=[[1, 0, 0], [0, 0, 0]])


# ---- features ---------------------------------------------------------------------------------------------------------


def test_features_are_padded_behind_a_prefix_mask(processor: MvclDafProcessor) -> None:
    audio = frames(2, 4, 1)
    batch = processor(["hello"] * 4, audio_features=[audio[0], None, audio[1], audio[2]], video_features=[None] * 4)
    assert "video_features" not in batch and "video_attention_mask" not in batch
    assert batch["audio_features"].dtype == torch.float32
    assert batch["audio_attention_mask"].tolist() == [[1, 1, 0, 0], [0] * 4, [1] * 4, [1, 0, 0, 0]]
    np.testing.assert_array_equal(batch["audio_features"][2].numpy(), audio[1])
    assert not batch["audio_features"][~batch["audio_attention_mask"].bool()].any()


def test_first_steps_are_kept(tiny_tokenizer: BertTokenizer) -> None:
    processor = make(tiny_tokenizer, max_lengths={"audio": 3})
    audio = frames(7, 2)
    audio[0][3:] = np.inf  # beyond what is read
    batch = processor(["hello"] * 2, audio_features=audio, video_features=frames(7, 2, width=5))
    np.testing.assert_array_equal(batch["audio_features"][0].numpy(), audio[0][:3])
    assert batch["video_features"].shape == (2, 7, 5)


@pytest.mark.parametrize("kind", ["list", "float64", "float16", "tensor"])
def test_any_kind_of_array(processor: MvclDafProcessor, kind: str) -> None:
    audio = frames(3)[0]
    given = {
        "list": audio.tolist(),
        "float64": audio.astype(np.float64),
        "float16": audio.astype(np.float16),
        "tensor": torch.from_numpy(audio),
    }[kind]
    batch = processor(["hello"], audio_features=[given])
    np.testing.assert_allclose(batch["audio_features"][0].numpy(), audio, atol=2e-3)
    assert batch["audio_features"].dtype == torch.float32


@pytest.mark.filterwarnings("ignore:overflow")  # of 1e39 in float32
@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((4, 7)), r"`audio_features` of sample 1 has shape \(4, 7\).*\(steps, 3\).*`audio_feature_size=7`"),
        (np.zeros(3), r"`audio_features` of sample 1 has shape \(3,\)"),
        (np.zeros((0, 3)), r"`audio_features` of sample 1 has no steps: pass `None`"),
        (np.full((2, 3), np.nan), r"`audio_features` of sample 1 holds 6 NaN or infinite values"),
        (np.array([[0.0, -np.inf, 1.0]]), r"`audio_features` of sample 1 holds 1 NaN or infinite values"),
        (np.array([[0.0, 1e39, 1.0]]), r"`audio_features` of sample 1 holds 1 NaN or infinite values"),
        (["a", "b", "c"], r"`audio_features` of sample 1 are no real numbers but <U1"),
        (np.ones((2, 3), np.complex64), r"`audio_features` of sample 1 are no real numbers but complex64"),
        ([[1.0, 2.0, 3.0], [1.0]], r"`audio_features` of sample 1 are no array of numbers"),
    ],
)
def test_wrong_features_raise(processor: MvclDafProcessor, features: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor(["hello", "hello"], audio_features=[frames(2)[0], features])


def test_non_finite_values_become_zero_on_request(tiny_tokenizer: BertTokenizer) -> None:
    processor = make(tiny_tokenizer, non_finite="zero")
    audio = np.array([[1.0, np.nan, 2.0], [-np.inf, np.inf, 3.0]], np.float32)
    batch = processor(["hello"], audio_features=[audio])
    assert batch["audio_features"][0].tolist() == [[1, 0, 2], [0, 0, 3]]
    assert np.isnan(audio[0, 1])  # the caller's array is left alone
    with pytest.raises(ValueError, match="`non_finite` is 'mean'"):
        make(tiny_tokenizer, non_finite="mean")


def test_unknown_features_and_unequal_columns_raise(processor: MvclDafProcessor) -> None:
    with pytest.raises(ValueError, match=r"`face_features` is not an input.*audio_features"):
        processor(["hello"], face_features=frames(2))
    with pytest.raises(ValueError, match=r"different numbers of samples .*'text': 2.*'audio_features': 1"):
        processor(["hello", "hello"], audio_features=frames(2))
    with pytest.raises(ValueError, match=r"different numbers of samples .*'labels': 1"):
        processor(["hello", "hello"], labels=[0])


def test_sample_with_nothing_is_named(processor: MvclDafProcessor) -> None:
    with pytest.raises(ValueError, match=r"all modalities are missing.*sample 1|sample 1.*all modalities"):
        processor(["hello", None], audio_features=[frames(2)[0], None])
    with pytest.raises(ValueError, match="all modalities are missing"):
        processor()
    with pytest.raises(ValueError, match="all modalities are missing"):
        processor([None, None])


def test_single_sample_equals_a_batch_of_one(processor: MvclDafProcessor) -> None:
    audio, video = frames(4)[0], frames(2, width=5)[0]
    one = processor(
        "you are late", audio_features=audio, video_features=video, labels="praise", return_labelled_view=True
    )
    batch = processor(
        ["you are late"], audio_features=[audio], video_features=[video], labels=["praise"], return_labelled_view=True
    )
    assert set(one) == set(batch) and all(torch.equal(one[name], batch[name]) for name in batch)
    for given in (audio, torch.from_numpy(audio)):
        alone = processor(audio_features=given)
        assert torch.equal(alone["audio_features"], batch["audio_features"])
    stacked = processor(audio_features=np.stack([audio, audio]))  # an array of three dimensions is a batch
    assert stacked["audio_features"].shape == (2, 4, 3)


def test_numpy_output_equals_tensors(processor: MvclDafProcessor) -> None:
    fields: dict[str, Any] = {"audio_features": frames(4, 2), "labels": [0, 1], "return_labelled_view": True}
    arrays = processor(["hello", "thank you"], return_tensors="np", **fields)
    tensors = processor(["hello", "thank you"], **fields)
    assert set(arrays) == set(tensors)
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    for name, tensor in processor.to_tensors(arrays).items():
        assert torch.equal(tensor, tensors[name])


def test_every_output_is_a_named_model_input(processor: MvclDafProcessor) -> None:
    batch = processor(
        ["hello"],
        audio_features=frames(4),
        video_features=frames(2, width=5),
        labels=[0],
        return_labelled_view=True,
    )
    assert set(batch) - {"labels"} == set(processor.model_input_names)


# ---- standardisation --------------------------------------------------------------------------------------------------


def test_feature_statistics_equal_numpy(tiny_tokenizer: BertTokenizer) -> None:
    processor = make(tiny_tokenizer)
    audio = [array * [1.0, 50.0, 0.0] + [3.0, -2.0, 7.0] for array in frames(40, 3, 17)]
    rows: list[dict[str, Any]] = [{"audio_features": array, "video_features": None} for array in audio]
    processor.fit_feature_stats([*rows, {"audio_features": None}])
    joined = np.concatenate(audio)
    stats = processor.feature_stats["audio"]
    np.testing.assert_allclose(stats["mean"], joined.mean(0), rtol=1e-9)
    np.testing.assert_allclose(stats["std"][:2], joined.std(0)[:2], rtol=1e-9)
    assert stats["std"][2] == 1.0  # a constant column
    assert "video" not in processor.feature_stats
    batch = processor(["hello"] * 3, audio_features=audio)
    valid = batch["audio_features"][batch["audio_attention_mask"].bool()].numpy()
    np.testing.assert_allclose(valid.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(valid.std(0), [1.0, 1.0, 0.0], atol=1e-4)
    assert not batch["audio_features"][~batch["audio_attention_mask"].bool()].any()


def test_statistics_cover_the_steps_that_are_used(tiny_tokenizer: BertTokenizer) -> None:
    processor = make(tiny_tokenizer, max_lengths={"audio": 3})
    audio = frames(9)[0]
    processor.fit_feature_stats([{"audio_features": audio}])
    np.testing.assert_allclose(processor.feature_stats["audio"]["mean"], audio[:3].mean(0), rtol=1e-5)


def test_statistics_of_another_width_raise(tiny_tokenizer: BertTokenizer) -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 1\).*`audio_feature_size` = 3"):
        make(tiny_tokenizer).fit_feature_stats([{"audio_features": np.ones((4, 1))}])


# ---- saving -------------------------------------------------------------------------------------------------------------


def test_saved_processor_gives_the_same(tiny_tokenizer: BertTokenizer, tmp_path: Path) -> None:
    processor = make(tiny_tokenizer, max_lengths={"audio": 3}, non_finite="zero")
    processor.fit_feature_stats([{"audio_features": array} for array in frames(9, 4)])
    MvclDafTester().config().save_pretrained(tmp_path)  # names the model type
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is MvclDafProcessor
    fields: dict[str, Any] = {
        "audio_features": [*frames(5, seed=1), None],
        "video_features": frames(2, 6, width=5),
        "labels": ["apologise", 2],
        "return_labelled_view": True,
    }
    expected, found = (item(["thank you so much", "hello"], **fields) for item in (processor, loaded))
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_processor_of_a_config(tiny_tokenizer: BertTokenizer) -> None:
    config = MvclDafTester().config(max_text_length=14, label_slots=3)
    processor = MvclDafProcessor.from_config(config, tiny_tokenizer, max_lengths={"video": 9})
    assert processor.label_names == ["complain", "praise", "inform"] and processor.label_slots == 3
    assert processor.max_text_length == 14 and processor.feature_sizes == {"video": 8, "audio": 6}
    assert processor.max_lengths == {"video": 9} and processor.media is None
    with pytest.raises(ValueError, match="no `media` settings"):
        processor(["hello"], audio=[np.zeros(800, np.float32)])


# ---- raw media --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("clips") / "clip.mp4", seconds=1.0)


@pytest.fixture(scope="module")
def media_model(tiny_tokenizer: BertTokenizer) -> MvclDafForSequenceClassification:
    """Takes clips: its own encoder makes 6 mel bands and 16 gray cells."""
    encoder = MediaEncoderConfig(num_mel_bins=6, grid_size=4, image_size=16)
    return MvclDafTester().model(
        text_config=tiny_bert(vocab_size=len(tiny_tokenizer)),
        encoder_config=encoder,
        video_feature_size=16,
        **{f"{name}_token_id": getattr(tiny_tokenizer, f"{name}_token_id") for name in ("cls", "sep", "mask", "pad")},
    )


def test_clip_to_logits_equals_features_to_logits(
    clip: Path, media_model: MvclDafForSequenceClassification, tiny_tokenizer: BertTokenizer
) -> None:
    """One file three ways: decoded by the processor, as bytes, and as features extracted beforehand."""
    processor = MvclDafProcessor.from_config(media_model.config, copy.deepcopy(tiny_tokenizer))
    text: list[str | None] = ["you are late", None]
    features = MediaEncoderModel(media_model.config.encoder_config).eval().encode_clip(str(clip))
    audio, video = features.audio_features[0].numpy(), features.video_features[0].numpy()
    assert audio.shape[1] == 6 and video.shape[1] == 16 and len(video) == 8
    logits = []
    for inputs in (
        {"audio": [str(clip)] * 2, "video": [str(clip)] * 2},
        {"audio": [{"bytes": clip.read_bytes(), "path": None}] * 2, "video": [clip.read_bytes()] * 2},
        {"audio_features": [audio] * 2, "video_features": [video] * 2},
    ):
        batch = processor(text, **inputs)
        assert ("input_values" in batch) == ("audio" in inputs) and ("pixel_values" in batch) == ("audio" in inputs)
        with torch.no_grad():
            logits.append(media_model(**batch).logits)
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], atol=1e-5, rtol=0)
    with torch.no_grad():
        silent = media_model(**processor(text, video=[str(clip)] * 2)).logits
    assert not torch.allclose(silent, logits[0], atol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sound_that_is_not_finite_raises(
    media_model: MvclDafForSequenceClassification, tiny_tokenizer: BertTokenizer, tmp_path: Path, value: float
) -> None:
    """As an array, and in a file that stores its sound as floats."""
    processor = MvclDafProcessor.from_config(media_model.config, copy.deepcopy(tiny_tokenizer))
    wave = np.zeros(1600, np.float32)
    wave[700] = value
    with pytest.raises(ValueError, match="a waveform holds 1 NaN or infinite sound samples"):
        processor(["hello"], audio=[wave])
    path = tmp_path / "broken.wav"
    write_float_wav(path, wave)
    with pytest.raises(ValueError, match=r"broken\.wav' holds \d+ NaN or infinite sound samples"):
        processor(["hello"], audio=[str(path)])


def write_float_wav(path: Path, wave: np.ndarray, rate: int = 16000) -> None:
    """One channel of 32-bit floats, which no integer format could hold as they are."""
    data = wave.astype("<f4").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
    path.write_bytes(head + struct.pack("<4sI", b"data", len(data)) + data)


def test_clip_of_one_sample_among_features_of_none(
    clip: Path, media_model: MvclDafForSequenceClassification, tiny_tokenizer: BertTokenizer
) -> None:
    """A sample without a clip has mask rows of zeros; alone, without media, it gives the same logits."""
    processor = MvclDafProcessor.from_config(media_model.config, copy.deepcopy(tiny_tokenizer))
    batch = processor(["you are late", "hello"], audio=[str(clip), None], video=[None, str(clip)])
    assert batch["input_values_mask"].any(1).tolist() == [True, False]
    assert batch["pixel_values_mask"].any(1).tolist() == [False, True]
    with torch.no_grad():
        together = media_model(**batch).logits
        first = media_model(**processor("you are late", audio=str(clip))).logits
        second = media_model(**processor("hello", video=str(clip))).logits
    torch.testing.assert_close(together, torch.cat([first, second]), atol=1e-5, rtol=0)


def test_part_of_a_clip(
    clip: Path, media_model: MvclDafForSequenceClassification, tiny_tokenizer: BertTokenizer
) -> None:
    processor = MvclDafProcessor.from_config(media_model.config, copy.deepcopy(tiny_tokenizer))
    whole = processor(["hello"], audio=[str(clip)], video=[str(clip)])
    batch = processor(["hello"], audio=[str(clip)], video=[str(clip)], start_time=[0.25], end_time=[0.75])
    one = processor("hello", audio=str(clip), video=str(clip), start_time=0.25, end_time=0.75)
    assert whole["pixel_values_mask"].sum() == 8 and batch["pixel_values_mask"].sum() == 4
    assert batch["input_values_mask"].sum() == pytest.approx(8000, abs=2)
    assert all(torch.equal(one[name], batch[name]) for name in batch)


def test_media_model_reloads_with_its_encoder(
    clip: Path, media_model: MvclDafForSequenceClassification, tiny_tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    processor = MvclDafProcessor.from_config(media_model.config, copy.deepcopy(tiny_tokenizer))
    media_model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, loaded = MvclDafForSequenceClassification.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = media_model(**processor("hello", audio=str(clip), video=str(clip))).logits
        found = model.eval()(**loaded("hello", audio=str(clip), video=str(clip))).logits
    for name, value in media_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)  # the same sums, in another place of the memory
