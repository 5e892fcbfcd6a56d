"""Mean ± standard deviation over seeds, the paired bootstrap between two systems, and Holm's correction."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from .predictions import Predictions
from .sample_statistics import Statistic, statistic

RESAMPLES = 10_000
TIE = 1e-12  # a difference below it is rounding error of two equal scores
Metric = str | Statistic | Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Summary:
    """
    One score over several runs.

    Attributes:
        mean: NaN when any run is undefined.
        std: Sample standard deviation (ddof = 1); NaN for a single run.
        values: The score of every run.
        unit: "seeds" or "folds".
    """

    mean: float
    std: float
    values: tuple[float, ...]
    unit: str = "seeds"

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.values)


def mean_std(values: Sequence[float], unit: str = "seeds") -> Summary:
    """
    Summarise one score over runs.

    Args:
        values: One value per run, at least one.
        unit: What a run is, "seeds" or "folds"; the two are never mixed.

    Raises:
        ValueError: No value, or another unit.
    """
    if unit not in ("seeds", "folds"):
        raise ValueError(f"`unit` is {unit!r} but must be 'seeds' or 'folds'.")
    if len(values) == 0:
        raise ValueError("`values` is empty: a summary needs at least one run.")
    array = np.asarray(values, dtype=np.float64)
    std = float(array.std(ddof=1)) if len(array) > 1 else float("nan")
    return Summary(float(array.mean()), std, tuple(array.tolist()), unit)


@dataclass(frozen=True)
class BootstrapResult:
    """
    Comparison of two systems on the same samples.

    Attributes:
        delta: Score of A minus score of B, each averaged over its seeds.
        low, high: Percentile 95 % interval of the difference.
        p_value: 2 · min(#{Δ ≤ 0} + 1, #{Δ ≥ 0} + 1) / (resamples + 1), at most 1.
        resamples: Resamples in which the difference is defined.
        undefined: Resamples left out because a score is undefined in them.
        n: Samples.
        clusters: Units that were resampled; n without `cluster`.
        seeds_a, seeds_b: Runs behind each system.
    """

    delta: float
    low: float
    high: float
    p_value: float
    resamples: int
    undefined: int
    n: int
    clusters: int
    seeds_a: int
    seeds_b: int


def paired_bootstrap(
    system_a: Predictions | Sequence[Predictions],
    system_b: Predictions | Sequence[Predictions],
    metric: Metric,
    *,
    cluster: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> BootstrapResult:
    """
    Paired bootstrap of A against B.

    Sample ids (or whole clusters) are drawn with replacement, the same for all runs of both systems; in every resample
    the score of each seed is computed again and averaged.

    Args:
        system_a, system_b: One [`Predictions`] per seed; the same ids and labels everywhere, in any order.
        metric: A key known to [`statistic`], a [`Statistic`] (fast), or any function of `(labels, predictions)` (slow:
            it is called resamples × runs times).
        cluster: Column of the predictions that names the unit to resample, such as `"dialogue_id"` for conversations
            or the video for CMU-MOSI: samples of one unit are not independent.
        resamples: Number of resamples.
        seed: Of the resampling.

    Returns:
        [`BootstrapResult`]; its numbers are NaN when the score of either system is undefined.

    Raises:
        ValueError: Different ids or labels, no run, or no such cluster column.
    """
    runs_a, runs_b = _as_runs(system_a, "system_a"), _as_runs(system_b, "system_b")
    runs = _align([*runs_a, *runs_b])
    units = _units(runs[0], cluster)
    clusters = int(units.max()) + 1
    evaluate = _evaluator(metric, runs, units)

    def difference(counts: np.ndarray) -> np.ndarray:
        values = evaluate(counts)  # (R, runs)
        delta = values[:, : len(runs_a)].mean(1) - values[:, len(runs_a) :].mean(1)
        return np.where(np.abs(delta) < TIE, 0.0, delta)

    observed = float(difference(np.ones((1, clusters)))[0])
    drawn = np.concatenate([difference(counts) for counts in _resample(clusters, resamples, seed)])
    defined = drawn[~np.isnan(drawn)]
    common = {
        "resamples": len(defined),
        "undefined": resamples - len(defined),
        "n": len(runs[0]),
        "clusters": clusters,
        "seeds_a": len(runs_a),
        "seeds_b": len(runs_b),
    }
    if np.isnan(observed) or len(defined) == 0:
        nan = float("nan")
        return BootstrapResult(nan, nan, nan, nan, **common)
    low, high = np.percentile(defined, [2.5, 97.5])
    smaller = min((defined <= 0).sum(), (defined >= 0).sum())
    p_value = min(1.0, 2 * (int(smaller) + 1) / (len(defined) + 1))
    return BootstrapResult(observed, float(low), float(high), p_value, **common)


def holm(p_values: Sequence[float]) -> list[float]:
    """
    Holm's step-down correction of the p-values of one table, in the given order.

    Undefined (NaN) entries stay NaN and do not count as comparisons.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted.tolist()


def _as_runs(system: Predictions | Sequence[Predictions], name: str) -> list[Predictions]:
    runs = [system] if isinstance(system, Predictions) else list(system)
    if not runs or len(runs[0]) == 0:
        raise ValueError(f"`{name}` has no run, or a run without samples: pass the predictions of at least one seed.")
    seeds = [run.seed for run in runs]
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"`{name}` holds the seeds {seeds}: every run must be another seed.")
    return runs


def _align(runs: list[Predictions]) -> list[Predictions]:
    """All runs in the order of the first one, with the same labels."""
    first = runs[0]
    aligned = [first, *(run.aligned_to(first.ids) for run in runs[1:])]
    for run in aligned[1:]:
        different = np.flatnonzero(run.labels != first.labels)
        if different.size:
            i = int(different[0])
            raise ValueError(
                f"The label of {first.ids[i]!r} is {first.labels[i]!r} in one run and {run.labels[i]!r} in another: "
                f"the runs used different versions or label orders of the data."
            )
    return aligned


def _units(run: Predictions, cluster: str | None) -> np.ndarray:
    """Index of the resampled unit of every sample, shape `(n,)`."""
    if cluster is None:
        return np.arange(len(run))
    if cluster not in run.columns:
        raise ValueError(f"`cluster` is {cluster!r} but the predictions hold the columns {sorted(run.columns)}.")
    return np.unique([str(value) for value in run.columns[cluster]], return_inverse=True)[1].reshape(-1)


def _resample(clusters: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield, in chunks of shape `(R, clusters)`, how often each unit is drawn."""
    generator = np.random.default_rng(seed)
    chunk = max(1, min(resamples, 4_000_000 // clusters))  # bounds the memory; does not change the draws
    with tqdm(total=resamples, desc="bootstrap", disable=resamples * clusters < 10_000_000) as progress:
        for start in range(0, resamples, chunk):
            size = min(chunk, resamples - start)
            drawn = generator.integers(0, clusters, size=(size, clusters))
            drawn += np.arange(size)[:, None] * clusters
            yield np.bincount(drawn.reshape(-1), minlength=size * clusters).reshape(size, clusters).astype(np.float64)
            progress.update(size)


def _evaluator(metric: Metric, runs: list[Predictions], units: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Function from unit counts `(R, clusters)` to the score of every run, `(R, runs)`."""
    if isinstance(metric, str):
        metric = statistic(metric, _num_classes(runs))
    if isinstance(metric, Statistic):
        reduce = metric.reduce
        sums = []
        for run in runs:
            rows = metric.collect(run.labels, run.predictions)
            total = np.zeros((int(units.max()) + 1, rows.shape[1]))
            np.add.at(total, units, rows)
            sums.append(total)
        return lambda counts: np.stack([reduce(counts @ total) for total in sums], axis=1)
    function = metric

    def loop(counts: np.ndarray) -> np.ndarray:
        values = np.empty((len(counts), len(runs)))
        for i, row in enumerate(counts.astype(np.int64)):
            chosen = np.repeat(np.arange(len(units)), row[units])
            for j, run in enumerate(runs):
                values[i, j] = function(run.labels[chosen], run.predictions[chosen])
        return values

    return loop


def _num_classes(runs: list[Predictions]) -> int | None:
    """Enough classes for every id that occurs; None when the labels are no class ids."""
    columns = [run.labels for run in runs] + [run.predictions for run in runs]
    if not all(np.issubdtype(column.dtype, np.integer) for column in columns):
        return None
    return int(max(column.max() for column in columns)) + 1
