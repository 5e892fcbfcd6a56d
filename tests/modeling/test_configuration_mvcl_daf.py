"""Every setting that cannot work is refused by name, with the values that clash."""

from __future__ import annotations

from typing import Any

import pytest

from hf_mmintent.modeling.configuration_mvcl_daf import MvclDafConfig
from hf_mmintent.modeling.modeling_mvcl_daf import MvclDafForSequenceClassification

from .testers import MvclDafTester, tiny_bert

TESTER = MvclDafTester()
ONE = {"num_labels": 1, "id2label": {0: "score"}, "label2id": {"score": 0}}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"modalities": ("audio", "video")}, r"`modalities` is \['audio', 'video'\].*needs text"),
    ({"modalities": ("text", "smell")}, r"`modalities` names \['smell'\]"),
    ({"modalities": ("text", "text")}, r"`modalities` = \['text', 'text'\].*twice"),
    ({"max_text_length": 4}, r"`max_text_length` is 4 but 2 label slots.*need 5"),
    (
        {"video_feature_size": 9},
        r"`video_feature_size`.* = 9 is not divisible by `visual_heads` = 2.*`video_embed_size`",
    ),
    ({"video_embed_size": 7}, r"`video_embed_size` = 7 is not divisible by `visual_heads` = 2"),
    ({"audio_feature_size": 5}, r"`audio_feature_size`.* = 5 is odd: set `audio_embed_size`"),
    ({"audio_embed_size": 3}, r"`audio_embed_size` = 3 is odd"),
    ({"coarse_heads": 3}, r"`text_config.hidden_size` = 16 is not divisible by `coarse_heads` = 3"),
    ({"contrastive_views": ("text", "labelled")}, r"`contrastive_views` names \['labelled'\]: allowed are"),
    ({"prototype_views": ("text", "touch")}, r"`prototype_views` names \['touch'\]: allowed are .*'labelled'"),
    ({"prototype_views": ("text", "text")}, r"`prototype_views` = \['text', 'text'\] names a view twice"),
    ({"prototype_ignore_labels": (1, 3)}, r"`prototype_ignore_labels` names \[3\] but there are 3 classes"),
    ({**ONE, "problem_type": "regression"}, r"`problem_type` is regression.*`regression_bins`.*\(1.0\).*\(1.0\)"),
    ({"problem_type": "regression", "regression_bins": (0.0,)}, r"`problem_type` is regression but `num_labels` is 3"),
    ({**ONE, "regression_bins": (1.0, 0.0)}, r"`regression_bins` = \[1.0, 0.0\] are not sorted"),
    ({"problem_type": "multi_label_classification"}, r"`problem_type` is multi_label_classification.*are 1.0 and 1.0"),
    ({"temperature": 0.0}, r"`temperature` is 0.0: it must be positive"),
    ({"temperature": float("nan")}, r"`temperature` is nan: it must be positive"),
    ({"mask_token_id": 50264}, r"`mask_token_id` is 50264 but `text_config.vocab_size` is 120"),
    ({"temperature": float("inf")}, r"`temperature` is inf: it must be positive and finite"),
    ({"cls_loss_weight": float("inf")}, r"`cls_loss_weight` is inf: it must not be negative or infinite"),
    ({"prototype_temperature": -1.0}, r"`prototype_temperature` is -1.0: it must be positive"),
    ({"daf_max_depth": 0}, r"`daf_max_depth` is 0: it must be positive"),
    ({"label_slots": 0}, r"`label_slots` is 0: it must be positive"),
    ({"align_logit_scale": 0.0}, r"`align_logit_scale` is 0.0: it must be positive"),
    ({"contrastive_loss_weight": -0.5}, r"`contrastive_loss_weight` is -0.5: it must not be negative"),
    ({"daf_attention_dropout": 1.0}, r"`daf_attention_dropout` is 1.0: choose a value in \[0, 1\)"),
    ({"text_dropout": -0.1}, r"`text_dropout` is -0.1: choose a value in \[0, 1\)"),
    ({"temprature": 0.5}, r"no field `temprature`.*Did you mean `temperature`"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[str(overrides) for overrides, _ in WRONG])
def test_wrong_settings_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        TESTER.config(**overrides)
    assert isinstance(caught.value, ValueError) or isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("field", "value"),
    [("align_type", "dtw"), ("peephole", "half"), ("daf_depth_gate", "hard"), ("prototype_scope", "class")],
)
def test_unknown_choices_are_refused(field: str, value: str) -> None:
    with pytest.raises(Exception, match=field):
        TESTER.config(**{field: value})


def test_a_config_spoilt_after_its_construction_is_refused_by_the_model() -> None:
    config = TESTER.config()
    config.visual_heads = 3
    with pytest.raises(Exception, match="`visual_heads` = 3"):
        MvclDafForSequenceClassification(config)


@pytest.mark.parametrize(
    "overrides",
    [
        {"audio_feature_size": 5, "audio_embed_size": 4},
        {"audio_feature_size": 5, "acoustic_hidden_size": 3},
        {"video_feature_size": 9, "video_embed_size": 4},
        {"modalities": ("text", "audio"), "video_feature_size": 9},
        {"modalities": ("text", "video"), "audio_feature_size": 5},
        {"coarse_heads": 3, "coarse_fusion": False},
        {"contrastive_views": (), "prototype_views": ()},
        {**ONE, "problem_type": "regression", "regression_bins": (-1.0, 1.0), "prototype_ignore_labels": (2,)},
    ],
    ids=str,
)
def test_settings_that_work(overrides: dict[str, Any]) -> None:
    assert sum(p.numel() for p in TESTER.model(**overrides).parameters()) > 0


def test_plain_values_survive_json(tmp_path: Any) -> None:
    config = TESTER.config(prototype_views=["text", "labelled"], align_logit_scale="learned", temperature=1)
    config.save_pretrained(tmp_path)
    loaded = MvclDafConfig.from_pretrained(tmp_path)
    assert loaded.prototype_views == ("text", "labelled") == config.prototype_views
    assert loaded.align_logit_scale == "learned" and loaded.temperature == 1
    assert loaded.text_config.to_dict() == config.text_config.to_dict()
    assert loaded.modality_weight_names == ("video", "audio", "coarse")


def test_derived_widths() -> None:
    config = MvclDafConfig(text_config=tiny_bert(), video_embed_size=None, audio_embed_size=None, coarse_heads=2)
    assert (config.visual_size, config.acoustic_size, config.acoustic_output_size) == (256, 768, 768)
    config = TESTER.config(video_embed_size=6, audio_embed_size=10, acoustic_hidden_size=7)
    assert (config.visual_size, config.acoustic_size, config.acoustic_output_size) == (6, 10, 14)


def test_whole_numbers_are_numbers() -> None:
    """YAML writes 1 for 1.0."""
    config = TESTER.config(**ONE, problem_type="regression", regression_bins=[-1, 0, 1.5], text_dropout=0)
    assert config.regression_bins == (-1, 0, 1.5)


@pytest.mark.parametrize(("field", "value"), [("daf_max_depth", 2.5), ("temperature", "0.1"), ("coarse_fusion", "no")])
def test_types_are_checked(field: str, value: Any) -> None:
    with pytest.raises(Exception, match=f"'{field}'.*expected|'{field}'.*doesn't match"):
        TESTER.config(**{field: value})
