"""
Word-overlap scores of explanations, one reference per sample.

Tokenisation `v1`: lower case, tokens are the matches of ``\\w+(?:'\\w+)?``, so punctuation is dropped. Every function
takes lists of tokens, the references first. An empty hypothesis scores 0 and stays in the mean.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from sacrebleu.metrics import BLEU

from hf_mmintent.modeling.answer_format import strip_label_prefix as strip_label_prefix

from .base import check_same_length

TOKENIZATION = "v1"
ROUGE_BETA = 1.2  # caption toolkits, the convention of tables that show BLEU, METEOR and CIDEr side by side
BLEU_ORDER = 4
CIDER_ORDER = 4
CIDER_SIGMA = 6.0

Tokens = Sequence[str]
_TOKEN = re.compile(r"\w+(?:'\w+)?")


def tokenize(text: str) -> list[str]:
    """Lower-case word tokens of a text, without punctuation."""
    return _TOKEN.findall(text.lower())


def ngrams(tokens: Tokens, order: int) -> Counter[tuple[str, ...]]:
    """Counts of the n-grams of one order."""
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


def bleu4(references: Sequence[Tokens], hypotheses: Sequence[Tokens]) -> float:
    """
    Corpus BLEU with up to 4-grams, exp(min(0, 1 − r/c)) · (Π p_n)^¼, in [0, 1].

    Counted by sacrebleu on our tokens and without smoothing: one order without any match makes the score 0. NaN for
    no sample at all. The mean of sentence scores is another number.
    """
    if check_same_length(references=references, hypotheses=hypotheses) == 0:
        return float("nan")
    bleu = BLEU(tokenize="none", smooth_method="none", max_ngram_order=BLEU_ORDER, force=True)
    score = bleu.corpus_score([" ".join(tokens) for tokens in hypotheses], [[" ".join(t) for t in references]])
    return score.score / 100


def bleu_statistics(references: Sequence[Tokens], hypotheses: Sequence[Tokens]) -> np.ndarray:
    """
    What BLEU sums over the corpus, per sample.

    Returns:
        float64 of shape `(n, 10)`: hypothesis length, reference length, four clipped match counts, four n-gram counts.
    """
    check_same_length(references=references, hypotheses=hypotheses)
    rows = []
    for reference, hypothesis in zip(references, hypotheses):
        matches = [(ngrams(hypothesis, k) & ngrams(reference, k)).total() for k in range(1, BLEU_ORDER + 1)]
        totals = [max(0, len(hypothesis) - k + 1) for k in range(1, BLEU_ORDER + 1)]
        rows.append([len(hypothesis), len(reference), *matches, *totals])
    return np.array(rows, dtype=np.float64).reshape(-1, 2 + 2 * BLEU_ORDER)


def bleu_from_statistics(sums: np.ndarray) -> np.ndarray:
    """Corpus BLEU of shape `(R,)` from sums of [`bleu_statistics`] of shape `(R, 10)`."""
    hypothesis, reference = sums[:, 0], sums[:, 1]
    matches, totals = sums[:, 2 : 2 + BLEU_ORDER], sums[:, 2 + BLEU_ORDER :]
    scored = (matches > 0).all(1)  # then every n-gram count and the hypothesis length are positive too
    result = np.zeros(len(sums))
    precision = np.log(matches[scored] / totals[scored]).mean(1)
    brevity = np.minimum(0, 1 - reference[scored] / hypothesis[scored])
    result[scored] = np.exp(precision + brevity)
    return result


def longest_common_subsequence(first: Tokens, second: Tokens) -> int:
    """
    Length of the longest common subsequence.

    One bit per token of `first`; a zero bit marks a position where the length grows (Hyyrö, 2004).
    """
    positions: dict[str, int] = {}
    for index, token in enumerate(first):
        positions[token] = positions.get(token, 0) | (1 << index)
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        matched = row & positions.get(token, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(first) - row.bit_count()


def rouge_l_each(references: Sequence[Tokens], hypotheses: Sequence[Tokens], beta: float = ROUGE_BETA) -> np.ndarray:
    """
    (1 + β²) P R / (R + β² P) per sample, with P and R the common subsequence over hypothesis and reference length.

    Args:
        references, hypotheses: One token list per sample.
        beta: 1.2 is the habit of caption toolkits (`rouge_l`), 1 gives the F1 of `rouge-score` (`rouge_l_f1`).

    Returns:
        float64 of shape `(n,)`, 0 where either side is empty or nothing is shared.
    """
    check_same_length(references=references, hypotheses=hypotheses)
    values = np.zeros(len(references))
    for index, (reference, hypothesis) in enumerate(zip(references, hypotheses)):
        common = longest_common_subsequence(reference, hypothesis)
        if common:
            precision, recall = common / len(hypothesis), common / len(reference)
            values[index] = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    return values


def cider_d_each(references: Sequence[Tokens], hypotheses: Sequence[Tokens]) -> np.ndarray:
    """
    CIDEr-D per sample (Vedantam et al., 2015), ×10.

    For n = 1…4: tf-idf vectors of n-gram counts with idf = log(N / document frequency) from the N references given
    here, the numerator clipped to the reference, and a Gaussian penalty of the difference in length (σ = 6); then the
    mean over n. It therefore depends on the split, and is 0 for a single sample.

    Returns:
        float64 of shape `(n,)`, in [0, 10].
    """
    check_same_length(references=references, hypotheses=hypotheses)
    values = np.zeros(len(references))
    for order in range(1, CIDER_ORDER + 1):
        grams = [ngrams(reference, order) for reference in references]
        frequency = Counter(gram for counts in grams for gram in counts)
        idf = {gram: math.log(len(references) / count) for gram, count in frequency.items()}
        unseen = math.log(len(references)) if references else 0.0  # document frequency 0 counts as 1
        for index, hypothesis in enumerate(hypotheses):
            truth = {gram: count * idf[gram] for gram, count in grams[index].items()}
            guess = {gram: count * idf.get(gram, unseen) for gram, count in ngrams(hypothesis, order).items()}
            norm = _norm(truth) * _norm(guess)
            if norm > 0:
                clipped = sum(
                    min(weight, truth.get(gram, 0.0)) * truth.get(gram, 0.0) for gram, weight in guess.items()
                )
                values[index] += clipped / norm
    gaps = np.array([len(h) - len(r) for r, h in zip(references, hypotheses)], dtype=np.float64)
    return 10 * values / CIDER_ORDER * np.exp(-(gaps**2) / (2 * CIDER_SIGMA**2))


def _norm(vector: dict[tuple[str, ...], float]) -> float:
    return math.sqrt(sum(weight * weight for weight in vector.values()))


def find_meteor() -> Callable[[Tokens, Tokens], float] | None:
    """
    NLTK's METEOR (exact, stem and WordNet matches; α 0.9, β 3, γ 0.5), or None without nltk or its WordNet data.

    The Java METEOR 1.5 of caption toolkits gives other numbers; its key would be `meteor_1_5`.
    """
    try:
        from nltk.corpus import wordnet
        from nltk.translate.meteor_score import single_meteor_score

        wordnet.ensure_loaded()
    except (ImportError, LookupError):  # nltk raises LookupError when its data is not installed
        return None

    def meteor(reference: Tokens, hypothesis: Tokens) -> float:
        return single_meteor_score(reference, hypothesis, wordnet=wordnet, alpha=0.9, beta=3.0, gamma=0.5)

    return meteor


def meteor_each(
    references: Sequence[Tokens], hypotheses: Sequence[Tokens], meteor: Callable[[Tokens, Tokens], float] | None
) -> np.ndarray:
    """METEOR per sample, 0 where either side is empty; NaN everywhere when `meteor` (see [`find_meteor`]) is None."""
    n = check_same_length(references=references, hypotheses=hypotheses)
    if meteor is None:
        return np.full(n, np.nan)
    return np.array([meteor(r, h) if r and h else 0.0 for r, h in zip(references, hypotheses)])
