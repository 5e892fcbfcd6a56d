"""Perturbed rows by hand: how much is lost, that weaker ones are part of stronger ones, and areas under curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hf_mmintent.analysis.perturbations import (
    ChangedRows,
    add_noise,
    deviations,
    drop_frames,
    other_label_donors,
    own_columns,
    replace_text,
    take_from,
    truncate_text,
)
from hf_mmintent.analysis.robustness import area_under
from hf_mmintent.analysis.word_errors import SoundAlikes, corrupt_texts, sound_key, word_error_rate

TEXTS = [
    "you are late again my friend and that is bad",  # 10 words
    "thank you so very much for coming over here now",  # 10
    "please leave now or i call the police right away",  # 10
    "i think this is a great day for a walk",  # 10
]


def rows() -> list[dict[str, Any]]:
    generator = np.random.default_rng(5)
    return [
        {"id": str(i), "text": text, "label": i % 2, "audio_features": generator.normal(2, 3, (8 + i, 4)).astype("f4")}
        for i, text in enumerate(TEXTS)
    ]


# ---- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "errors"), [(0.0, 0), (0.1, 4), (0.25, 10), (0.3, 12), (1.0, 40)])
def test_as_many_words_are_hit_as_asked_for(rate: float, errors: int) -> None:
    heard = corrupt_texts(TEXTS, rate, kinds={"substitution": 1.0})
    differing = sum(
        a != b
        for text, other in zip(TEXTS, heard, strict=True)
        for a, b in zip(text.split(), other.split(), strict=True)
    )
    assert differing == errors
    assert sum(word_error_rate(a, b) * 10 for a, b in zip(TEXTS, heard, strict=True)) == pytest.approx(errors)
    lost = corrupt_texts(TEXTS, rate, kinds={"deletion": 1.0})
    # all ten words of a text would be lost at a rate of 1: one stays in each
    assert sum(len(text.split()) for text in lost) == (40 - errors if rate < 1 else 4)
    more = corrupt_texts(TEXTS, rate, kinds={"insertion": 1.0})
    assert sum(len(text.split()) for text in more) == 40 + errors


def test_kinds_come_in_their_shares() -> None:
    texts = [" ".join(f"w{i}{j}" for j in range(50)) for i in "abcdefghijklmnopqrst"]  # 1,000 words, all different
    heard = corrupt_texts(texts, 1.0, seed=1)
    kept_length = sum(len(text.split()) for text in heard)
    # 600 replaced, 250 lost, 150 words added to their neighbours: 1000 − 250 + 150, give or take two deviations
    assert abs(kept_length - 900) < 60


def test_lower_rates_are_part_of_higher_ones_and_seeds_decide() -> None:
    few, many = (corrupt_texts(TEXTS, rate, kinds={"substitution": 1.0}) for rate in (0.1, 0.5))
    for text, first, second in zip(TEXTS, few, many, strict=True):
        for word, early, late in zip(text.split(), first.split(), second.split(), strict=True):
            assert early == word or late == early
    assert corrupt_texts(TEXTS, 0.5) == corrupt_texts(TEXTS, 0.5) != corrupt_texts(TEXTS, 0.5, seed=1)
    assert corrupt_texts(["hello", None, "  "], 1.0)[1:] == [None, "  "]
    with pytest.raises(ValueError, match=r"`rate` is 1.5"):
        corrupt_texts(TEXTS, 1.5)


def test_words_sound_alike() -> None:
    assert sound_key("knight") == sound_key("night") and sound_key("write") == sound_key("ride") != sound_key("wrong")
    assert SoundAlikes(["The night, was right.", "Knight apple"])("night")[0] == "knight"
    assert SoundAlikes(["one"])("one") == []
    assert corrupt_texts(["one"], 1.0, kinds={"substitution": 1.0}) == ["one"]  # nothing to replace it with


def test_word_error_rate_by_hand() -> None:
    assert word_error_rate("a b c d", "a x c d") == 0.25
    assert word_error_rate("a b c d", "a b c d e f") == 0.5
    assert word_error_rate("a b c d", "d") == 0.75
    with pytest.raises(ValueError, match="no words"):
        word_error_rate("", "a")


def test_text_is_cut_from_the_end() -> None:
    cut = {share: ChangedRows(rows(), truncate_text(share))[0]["text"] for share in (0, 0.25, 0.5, 0.99, 1)}
    assert cut[0] == TEXTS[0] and cut[0.25] == "you are late again my friend and that"  # ⌊2.5⌋ = 2 words less
    assert cut[0.5] == "you are late again my" and cut[0.99] == cut[1] == "you"
    assert truncate_text(0.5)(0, {"text": None}) == {"text": None}


# ---- sequences ------------------------------------------------------------------------------------------------------


def test_noise_has_the_strength_that_was_asked_for() -> None:
    plain = rows()
    spread = deviations(plain, "audio")
    joined = np.concatenate([row["audio_features"] for row in plain])
    np.testing.assert_allclose(spread, joined.std(0), rtol=1e-5)
    np.testing.assert_allclose(
        deviations(plain, "audio", 3), np.concatenate([r["audio_features"][:3] for r in plain]).std(0), rtol=1e-5
    )
    many = [{"audio_features": np.zeros((4000, 2), "f4")}]
    noisy = ChangedRows(many, add_noise("audio", 0.5, np.array([2.0, 4.0], "f4")))[0]["audio_features"]
    np.testing.assert_allclose(noisy.std(0), [1.0, 2.0], rtol=0.05)
    again = ChangedRows(many, add_noise("audio", 1.0, np.array([2.0, 4.0], "f4")))[0]["audio_features"]
    np.testing.assert_allclose(again, 2 * noisy, rtol=1e-5)  # one draw, scaled
    other = ChangedRows(many, add_noise("audio", 0.5, np.array([2.0, 4.0], "f4"), seed=1))[0]["audio_features"]
    assert not np.allclose(other, noisy)
    assert many[0]["audio_features"].max() == 0 and deviations(plain, "video") is None


def test_noise_on_frames_stays_in_range() -> None:
    clip = [{"video": np.full((2, 4, 4, 3), 250, np.uint8), "audio": np.zeros(100, np.float32)}]
    noisy = ChangedRows(clip, add_noise("video", 1.0, np.array([40.0, 40.0, 40.0], "f4")))[0]
    assert noisy["video"].dtype == np.uint8 and noisy["video"].max() == 255 and noisy["video"].min() < 240
    assert deviations(clip, "audio").shape == (1,)


def test_frames_are_lost_by_their_share_and_nested() -> None:
    row = {"audio_features": np.arange(10, dtype="f4")[:, None]}
    kept = {
        share: set(drop_frames("audio", share, seed=2)(0, dict(row))["audio_features"][:, 0].tolist())
        for share in (0, 0.25, 0.5, 0.9, 1.0)
    }
    assert [len(values) for values in kept.values()] == [10, 8, 5, 1, 1]
    assert kept[0.9] < kept[0.5] < kept[0.25] < kept[0]
    order = drop_frames("audio", 0.5, seed=2)(0, dict(row))["audio_features"][:, 0]
    assert (np.diff(order) > 0).all()
    wave = {"audio": np.ones(95, np.float32)}
    silent = drop_frames("audio", 0.5, packet=10)(0, dict(wave))["audio"]
    assert len(silent) == 95 and (silent == 0).sum() in (50, 45)  # five of ten packets, the last of which is shorter
    with pytest.raises(ValueError, match=r"`share` is 2"):
        drop_frames("audio", 2)


def test_donors_have_another_label() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    donors = other_label_donors(labels)
    assert (labels[donors] != labels).all() and (other_label_donors(labels) == donors).all()
    alike = other_label_donors(np.zeros(4))
    assert (alike != np.arange(4)).all()
    with pytest.raises(ValueError, match="1 samples"):
        other_label_donors(np.zeros(1))


def test_a_modality_is_taken_with_all_its_columns() -> None:
    plain = [
        {"text": str(i), "audio_features": np.full((2, 2), i, "f4"), "audio_caption": f"c{i}", "label": i}
        for i in range(3)
    ]
    taken = ChangedRows(plain, take_from(plain, np.array([2, 0, 1]), lambda row: own_columns(row, "audio")))
    assert [row["audio_caption"] for row in taken] == ["c2", "c0", "c1"]
    assert taken[0]["audio_features"][0, 0] == 2 and taken[0]["text"] == "0" and taken[0]["label"] == 0
    assert ChangedRows(plain, replace_text(["x", "y", "z"]))[1]["text"] == "y"


# ---- areas ----------------------------------------------------------------------------------------------------------


def test_area_under_a_curve_by_hand() -> None:
    # trapezoids: 1 · (1 + ½)/2 and 2 · (½ + ½)/2, over a width of 3
    assert area_under([0, 1, 3], [1.0, 0.5, 0.5]) == pytest.approx((0.75 + 1.0) / 3)
    assert area_under([0, 2], [0.4, 0.4]) == pytest.approx(0.4)
    for x, y in (([0], [1]), ([0, 0], [1, 1]), ([0, 1], [1])):
        with pytest.raises(ValueError, match="an area needs"):
            area_under(x, y)
