"""
Scores of generated explanations (JX4MEI): emotion, intent and joint reason, scored separately; joint is the headline.

The main scores (`*_stripped`) are taken after [`strip_label_prefix`] on both sides, because a shared template that
names the labels inflates overlap; `*_raw` are the scores of the untouched texts. A metric that cannot run is NaN, and
is never replaced by another one under its name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from .base import LocalMetric, Scores, check_same_length
from .bertscore import BertScorer
from .intent import mean_or_nan
from .library import evaluate
from .text_overlap import (
    ROUGE_BETA,
    TOKENIZATION,
    bleu4,
    cider_d_each,
    find_meteor,
    meteor_each,
    rouge_l_each,
    strip_label_prefix,
    tokenize,
)

VERSION = f"1 tok={TOKENIZATION}"
TEXT_KEYS = ("bleu4", "rouge_l", "rouge_l_f1", "cider_d", "meteor_nltk", "bertscore_f1", "length_ratio")


def text_scores(references: Sequence[str], hypotheses: Sequence[str], scorer: BertScorer | None = None) -> Scores:
    """
    Scores of texts as they are, without any stripping.

    Args:
        references: One true text per sample.
        hypotheses: One generated text per sample; an empty one scores 0 and stays in the mean.
        scorer: For `bertscore_f1`; NaN without one.

    Returns:
        `bleu4` (corpus level), `rouge_l` (β = 1.2), `rouge_l_f1` (β = 1), `cider_d` (×10), `meteor_nltk` (NaN without
        nltk and its WordNet data), `bertscore_f1`, `length_ratio` (mean hypothesis tokens / mean reference tokens; NaN
        if the references have none). All NaN for no sample.

    Raises:
        ValueError: Different numbers of references and hypotheses.
    """
    n = check_same_length(references=references, hypotheses=hypotheses)
    truth, guess = [tokenize(text) for text in references], [tokenize(text) for text in hypotheses]
    words = sum(map(len, truth))
    bert = np.full(n, np.nan) if scorer is None else scorer.f1_each(references, hypotheses)
    return {
        "bleu4": bleu4(truth, guess),
        "rouge_l": mean_or_nan(rouge_l_each(truth, guess)),
        "rouge_l_f1": mean_or_nan(rouge_l_each(truth, guess, beta=1.0)),
        "cider_d": mean_or_nan(cider_d_each(truth, guess)),
        "meteor_nltk": mean_or_nan(meteor_each(truth, guess, find_meteor())),
        "bertscore_f1": mean_or_nan(bert),
        "length_ratio": sum(map(len, guess)) / words if words else float("nan"),
    }


def explanation_scores(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    parsed: Sequence[bool] | None = None,
    scorer: BertScorer | None = None,
) -> Scores:
    """
    Scores of one field of the explanations. The references come first.

    Args:
        references: One true text per sample, verbatim.
        hypotheses: One generated text per sample, verbatim.
        parsed: Whether both labels could be read from the answer, per sample; adds `parse_rate`.
        scorer: Local model for `bertscore_f1`.

    Returns:
        Every key of [`text_scores`] twice, `<key>_stripped` (the main score) and `<key>_raw`; `parse_rate`; `n`.
    """
    n = check_same_length(references=references, hypotheses=hypotheses)
    raw = text_scores(references, hypotheses, scorer)
    stripped = text_scores(
        [strip_label_prefix(text) for text in references], [strip_label_prefix(text) for text in hypotheses], scorer
    )
    scores = {f"{key}_stripped": value for key, value in stripped.items()}
    scores.update({f"{key}_raw": value for key, value in raw.items()})
    if parsed is not None:
        check_same_length(references=references, parsed=parsed)
        scores["parse_rate"] = mean_or_nan(np.asarray(parsed, dtype=bool))
    return {**scores, "n": n}


def explanation_scores_by_field(
    fields: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    *,
    parsed: Sequence[bool] | None = None,
    scorer: BertScorer | None = None,
) -> Scores:
    """
    [`explanation_scores`] of several fields.

    Args:
        fields: Field name (`joint`, `emotion`, `intent`) to `(references, hypotheses)`. Samples without a reference for
            a field are left out of that field by the caller, so `n` is given per field.
        parsed: Per answer; one `parse_rate` without a prefix.
        scorer: Local model for `bertscore_f1`.

    Returns:
        Keys prefixed by the field, `joint_rouge_l_stripped`, `joint_n`, and `parse_rate`.
    """
    scores: Scores = {}
    for field, (references, hypotheses) in fields.items():
        one = explanation_scores(references, hypotheses, scorer=scorer)
        scores.update({f"{field}_{key}": value for key, value in one.items()})
    if parsed is not None:
        scores["parse_rate"] = mean_or_nan(np.asarray(parsed, dtype=bool))
    return scores


def explanation_settings(scorer: BertScorer | None = None) -> dict[str, Any]:
    """The settings that belong to the numbers; they go into the result file."""
    return {
        "tokenization": TOKENIZATION,
        "bleu4": "corpus, no smoothing, sacrebleu counts on our tokens",
        "rouge_l_beta": ROUGE_BETA,
        "cider_d_scale": 10,
        "meteor_nltk": "not available" if find_meteor() is None else "nltk, alpha 0.9, beta 3, gamma 0.5",
        "bertscore": "not available" if scorer is None else scorer.settings,
    }


class ExplanationMetric(LocalMetric):
    """
    [`explanation_scores`] as an `evaluate.Metric` over strings.

    Args:
        scorer: Local model for `bertscore_f1`.
        **kwargs: Arguments of [`LocalMetric`].

    `compute(..., parsed=[...])` adds `parse_rate`; the entries are in the order in which samples were added.
    """

    def __init__(self, scorer: BertScorer | None = None, **kwargs: Any) -> None:
        self.scorer = scorer
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="BLEU-4, ROUGE-L, CIDEr-D, METEOR and BERTScore of explanations, raw and without label prefix.",
            citation="",
            inputs_description="\n`predictions` are generated texts and `references` true texts, one per sample.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, *, predictions: Any, references: Any, parsed: Sequence[bool] | None = None) -> Scores:
        return explanation_scores(references, predictions, parsed=parsed, scorer=self.scorer)
