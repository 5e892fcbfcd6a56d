"""Mean ± std, the paired bootstrap (vectorised and by hand, clustered), Holm's correction."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mmintent.metrics import (
    Predictions,
    class_statistic,
    explanation_scores,
    holm,
    intent_scores,
    mean_std,
    open_scores,
    open_statistic,
    paired_bootstrap,
    rare_statistic,
    regression_scores,
    statistic,
)
from hf_mmintent.metrics.significance import _resample

CLASS_KEYS = ("accuracy", "f1_weighted", "precision_weighted", "recall_macro", "f1_macro", "precision_macro")
REGRESSION_KEYS = ("mae", "corr", "acc7", "acc5", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0")


def system(accuracy, seed, n=120, classes=4):
    """Predictions that are right with the given probability; ten dialogues."""
    labels = np.random.default_rng(99).integers(0, classes, n)
    generator = np.random.default_rng(seed)
    guesses = np.where(generator.random(n) < accuracy, labels, generator.integers(0, classes, n))
    dialogues = [f"d{i % 10}" for i in range(n)]
    return Predictions([f"u{i}" for i in range(n)], labels, guesses, seed, columns={"dialogue_id": dialogues})


def test_mean_and_sample_standard_deviation():
    summary = mean_std([0.1, 0.2, 0.6])
    assert summary.mean == pytest.approx(0.3)
    assert summary.std == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert (summary.n, summary.values, summary.unit) == (3, (0.1, 0.2, 0.6), "seeds")
    assert math.isnan(mean_std([0.5]).std)
    assert math.isnan(mean_std([0.5, float("nan")]).mean)  # one undefined run makes the mean undefined
    with pytest.raises(ValueError, match="at least one run"):
        mean_std([])
    with pytest.raises(ValueError, match="'seeds' or 'folds'"):
        mean_std([0.1], unit="epochs")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 5)), min_size=1, max_size=40))
def test_class_statistics_equal_the_scores(pairs):
    y, p = map(np.array, zip(*pairs))
    expected = intent_scores(y, p, train_counts=[5, 1, 4, 4, 2, 9])
    for key in CLASS_KEYS:
        if key.startswith("precision_macro") and (p < 0).all():
            continue
        assert class_statistic(key, 6).value(y, p) == pytest.approx(expected[key]), key
    assert rare_statistic([5, 1, 4, 4, 2, 9]).value(y, p) == pytest.approx(expected["f1_rare"], nan_ok=True)
    p = np.maximum(p, 0)
    for key, value in open_scores(y, p, num_known=5).items():
        assert open_statistic(key, 5).value(y, p) == pytest.approx(value), key


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-15, 15), st.integers(-350, 350)), min_size=1, max_size=40))
def test_regression_statistics_equal_the_scores(pairs):
    y, p = np.array([a / 5 for a, _ in pairs]), np.array([b / 100 for _, b in pairs])
    expected = regression_scores(y, p)
    for key in REGRESSION_KEYS:
        assert statistic(key).value(y, p) == pytest.approx(expected[key], nan_ok=True, abs=1e-9), key


def test_text_statistics_equal_the_scores():
    references = np.array(["she smiles and nods at him", "his voice is flat and low", "they agree on a plan"])
    hypotheses = np.array(["she smiles and nods", "his voice is flat and loud", ""])
    expected = explanation_scores(list(references), list(hypotheses))
    for key in ("bleu4", "rouge_l", "rouge_l_f1", "cider_d"):
        assert statistic(key).value(references, hypotheses) == pytest.approx(expected[f"{key}_raw"]), key


def test_unknown_statistics_are_refused():
    with pytest.raises(ValueError, match="`name` is 'f1'"):
        statistic("f1")
    with pytest.raises(ValueError, match="`num_classes` is None"):
        statistic("f1_macro")
    with pytest.raises(ValueError, match="'oid' but must be"):
        open_statistic("oid", 3)


@pytest.mark.parametrize("metric", ["f1_weighted", "accuracy"])
def test_a_system_against_itself(metric):
    runs = [system(0.7, 1), system(0.7, 2)]
    shuffled = [run.aligned_to(run.ids[::-1]) for run in runs]
    result = paired_bootstrap(runs, shuffled, metric, resamples=500)
    assert (result.delta, result.low, result.high, result.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert (result.seeds_a, result.seeds_b, result.n, result.undefined) == (2, 2, 120, 0)


def test_a_better_system_is_found_and_the_sign_is_a_minus_b():
    good, bad = [system(0.9, s) for s in (1, 2, 3)], [system(0.5, s) for s in (4, 5)]
    result = paired_bootstrap(good, bad, "f1_macro", resamples=2000)
    expected = np.mean([intent_scores(r.labels, r.predictions)["f1_macro"] for r in good]) - np.mean(
        [intent_scores(r.labels, r.predictions)["f1_macro"] for r in bad]
    )
    assert result.delta == pytest.approx(expected)
    assert 0 < result.low < result.delta < result.high
    assert result.p_value == pytest.approx(2 / 2001)  # no resample at or below 0
    reverse = paired_bootstrap(bad, good, "f1_macro", resamples=2000)
    assert (reverse.delta, reverse.low) == pytest.approx((-result.delta, -result.high))


def test_equals_the_definition_by_hand_and_any_function():
    a, b = system(0.72, 1), system(0.66, 2)
    fast = paired_bootstrap(a, b, "f1_weighted", resamples=300)
    slow = paired_bootstrap(a, b, lambda y, p: intent_scores(y, p)["f1_weighted"], resamples=300)
    for name in ("delta", "low", "high", "p_value"):
        assert getattr(fast, name) == pytest.approx(getattr(slow, name))
    generator = np.random.default_rng(0)
    deltas = []
    for _ in range(300):
        i = generator.integers(0, 120, 120)
        scores = [intent_scores(r.labels[i], r.predictions[i])["f1_weighted"] for r in (a, b)]
        deltas.append(scores[0] - scores[1])
    deltas = np.array(deltas)
    assert (fast.low, fast.high) == pytest.approx(tuple(np.percentile(deltas, [2.5, 97.5])))
    assert fast.p_value == pytest.approx(min(1, 2 * min((deltas <= 0).sum() + 1, (deltas >= 0).sum() + 1) / 301))
    assert 0.001 < fast.p_value < 1


def test_draws_are_reproducible_and_do_not_depend_on_chunks():
    a, b = system(0.7, 1), system(0.6, 2)
    assert paired_bootstrap(a, b, "accuracy", resamples=200) == paired_bootstrap(a, b, "accuracy", resamples=200)
    assert paired_bootstrap(a, b, "accuracy", resamples=200, seed=1) != paired_bootstrap(
        a, b, "accuracy", resamples=200
    )
    size = 1_500_000  # large enough for chunks of two
    chunks = list(_resample(size, 5, seed=0))
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    generator = np.random.default_rng(0)
    for row in np.concatenate(chunks):
        np.testing.assert_array_equal(row, np.bincount(generator.integers(0, size, size), minlength=size))


def test_clusters_are_drawn_whole():
    ids = [f"u{i}" for i in range(12)]
    dialogues = ["x"] * 1 + ["y"] * 4 + ["z"] * 7
    run = Predictions(ids, np.arange(12), np.arange(12), 0, columns={"dialogue_id": dialogues})
    drawn = []

    def record(labels, predictions):
        drawn.append(np.bincount(labels, minlength=12))
        return float(len(labels))

    result = paired_bootstrap(run, run, record, cluster="dialogue_id", resamples=50)
    assert (result.clusters, result.n) == (3, 12)
    times = np.array(drawn)[2:]  # the first two calls are the observed scores
    for start, stop in ((0, 1), (1, 5), (5, 12)):
        assert (times[:, start:stop] == times[:, start : start + 1]).all()
    assert (times[:, [0, 1, 5]].sum(1) == 3).all()  # as many dialogues as there are
    assert len(set(times.sum(1))) > 3  # but not always as many samples


def test_clusters_widen_the_interval_of_dependent_samples():
    n = 200
    group = np.arange(n) // 20
    right = np.random.default_rng(3).random(10)[group] < 0.6  # whole dialogues are right or wrong
    columns = {"dialogue_id": group.tolist()}
    a = Predictions(range(n), np.ones(n, int), right.astype(int), 0, columns=columns)
    b = Predictions(range(n), np.ones(n, int), (np.arange(n) % 2), 0, columns=columns)
    plain = paired_bootstrap(a, b, "accuracy", resamples=1000)
    clustered = paired_bootstrap(a, b, "accuracy", cluster="dialogue_id", resamples=1000)
    assert clustered.delta == plain.delta
    assert clustered.high - clustered.low > 2 * (plain.high - plain.low)
    with pytest.raises(
        ValueError, match=r"`cluster` is 'video' but the predictions hold the columns \['dialogue_id'\]"
    ):
        paired_bootstrap(a, b, "accuracy", cluster="video")


def test_regression_and_text_systems():
    generator = np.random.default_rng(0)
    y = generator.normal(size=80)
    ids = range(80)
    near = Predictions(ids, y, y + 0.1 * generator.normal(size=80), 0)
    far = Predictions(ids, y, y + 2.0 * generator.normal(size=80), 0)
    result = paired_bootstrap(near, far, "corr", resamples=400)
    assert result.delta > 0.2 and result.p_value < 0.05
    assert paired_bootstrap(near, far, "mae", resamples=400).high < 0  # an error: smaller is better
    constant = Predictions(ids, y, np.zeros(80), 0)
    undefined = paired_bootstrap(near, constant, "corr", resamples=50)
    assert math.isnan(undefined.delta) and math.isnan(undefined.p_value) and undefined.undefined == 50
    truth = np.array(["she smiles and nods at him", "his voice is flat and low"] * 5)
    worse = np.array(["she smiles", "his voice is flat and loud"] * 5)
    text = paired_bootstrap(
        Predictions(range(10), truth, truth, 0), Predictions(range(10), truth, worse, 0), "bleu4", resamples=100
    )
    assert text.delta > 0 and text.low > 0


def test_different_samples_or_labels_are_refused():
    a, b = system(0.7, 1), system(0.6, 2)
    other = Predictions([f"v{i}" for i in range(120)], b.labels, b.predictions, 2)
    with pytest.raises(ValueError, match="scored on different samples: 120 ids are missing"):
        paired_bootstrap(a, other, "accuracy", resamples=10)
    relabelled = Predictions(b.ids, (b.labels + 1) % 4, b.predictions, 2)
    with pytest.raises(ValueError, match="different versions or label orders"):
        paired_bootstrap(a, relabelled, "accuracy", resamples=10)
    with pytest.raises(ValueError, match="must be another seed"):
        paired_bootstrap([a, a], b, "accuracy", resamples=10)
    with pytest.raises(ValueError, match="`system_b` has no run"):
        paired_bootstrap(a, [], "accuracy")


def test_holm_by_hand():
    # sorted 0.01·4, 0.02·3, 0.03·2 (raised to its predecessor), 0.5·1
    assert holm([0.03, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([0.7, 0.9, 0.8]) == [1.0, 1.0, 1.0]
    corrected = holm([0.01, float("nan"), 0.04])
    assert corrected[0] == pytest.approx(0.02) and math.isnan(corrected[1]) and corrected[2] == pytest.approx(0.04)
    assert holm([]) == []
