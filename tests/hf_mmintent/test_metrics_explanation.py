"""Explanation scores: golden values, reference packages, label prefixes, and what is not available."""

import itertools
import math
import random

import nltk.corpus
import numpy as np
import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from transformers import BertConfig, BertModel

from hf_mmintent.metrics import (
    BertScorer,
    ExplanationMetric,
    bleu4,
    cider_d_each,
    explanation_scores,
    explanation_scores_by_field,
    explanation_settings,
    rouge_l_each,
    strip_label_prefix,
    text_scores,
    tokenize,
)
from hf_mmintent.metrics.text_overlap import (
    bleu_from_statistics,
    bleu_statistics,
    find_meteor,
    longest_common_subsequence,
    meteor_each,
)

H = ["the speaker smiles and suggests a plan", "her voice is flat"]
R = ["the speaker smiles and proposes a plan", "her voice is flat and low"]
WORDS = "she he smiles frowns and a the plan voice is flat low loud while speaking don't"


def words(texts):
    return [tokenize(text) for text in texts]


def random_texts(n, seed, shortest=0):
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS.split(), k=generator.randint(shortest, 14))) for _ in range(n)]


class SilentWordNet:
    """Stands in for the WordNet data: no synonyms at all."""

    def ensure_loaded(self):
        pass

    def synsets(self, word):
        return []


class MissingWordNet:
    def ensure_loaded(self):
        raise LookupError("no data")


def test_tokens_are_lower_case_words_without_punctuation():
    assert tokenize("She's “SMILING”, isn't she? (2 times)") == ["she's", "smiling", "isn't", "she", "2", "times"]
    assert tokenize(" ...! ") == []


def test_golden_values():
    assert bleu4(words(R), words(H)) == pytest.approx(0.528638, abs=1e-6)
    assert rouge_l_each(words(R), words(H)) == pytest.approx([0.857143, 0.772152], abs=1e-6)
    assert rouge_l_each(words(R), words(H), beta=1.0) == pytest.approx([0.857143, 0.8], abs=1e-6)
    assert cider_d_each(words(R), words(H)) == pytest.approx([5.375, 6.984683], abs=1e-6)


def test_identity():
    texts = ["the speaker smiles and proposes a plan", "her voice is flat and low", "a b c d"]
    scores = text_scores(texts, texts)
    for key in ("bleu4", "rouge_l", "rouge_l_f1", "length_ratio"):
        assert scores[key] == pytest.approx(1.0)
    assert scores["cider_d"] == pytest.approx(10.0)


def test_bleu_equals_sacrebleu_and_its_sums():
    references = random_texts(60, 0, 4)
    generator = random.Random(1)  # hypotheses: the references with a tenth of the words replaced, or nothing at all
    hypotheses = [
        " ".join(word if generator.random() < 0.9 else "uh" for word in text.split()) if i % 9 else ""
        for i, text in enumerate(references)
    ]
    expected = sacrebleu.corpus_bleu(hypotheses, [references], tokenize="none", smooth_method="none").score / 100
    assert 0.3 < expected < 0.9
    assert bleu4([r.split() for r in references], [h.split() for h in hypotheses]) == pytest.approx(expected)
    rows = bleu_statistics(words(references), words(hypotheses))
    for size in (1, 5, 60):
        total = bleu_from_statistics(rows[:size].sum(0, keepdims=True))[0]
        assert total == pytest.approx(bleu4(words(references[:size]), words(hypotheses[:size])))
    each = bleu_from_statistics(rows)
    assert abs(each.mean() - expected) > 0.02  # the mean of sentences is another number


def test_one_order_without_a_match_makes_bleu_zero():
    assert bleu4(words(["a b c d e"]), words(["a b c x e"])) == 0.0
    assert bleu4(words(["a b c"]), words(["a b c"])) == 0.0  # no 4-gram at all, and no smoothing
    assert math.isnan(bleu4([], []))


def test_rouge_equals_the_rouge_score_package():
    references, hypotheses = random_texts(80, 2, 1), random_texts(80, 3)
    references = [text.replace("don't", "dont") for text in references]  # that package splits at apostrophes
    hypotheses = [text.replace("don't", "dont") for text in hypotheses]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    expected = [scorer.score(r, h)["rougeL"].fmeasure for r, h in zip(references, hypotheses)]
    assert rouge_l_each(words(references), words(hypotheses), beta=1.0) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=8), st.lists(st.sampled_from("abcd"), max_size=8))
def test_common_subsequence_equals_the_obvious_one(first, second):
    subsequences = {tuple(c) for k in range(len(first) + 1) for c in itertools.combinations(first, k)}
    others = {tuple(c) for k in range(len(second) + 1) for c in itertools.combinations(second, k)}
    assert longest_common_subsequence(first, second) == max(len(s) for s in subsequences & others)


def test_cider_equals_the_obvious_one():
    references, hypotheses = words(random_texts(12, 4, 1)), words(random_texts(12, 5))

    def grams(tokens, k):
        return [tuple(tokens[i : i + k]) for i in range(len(tokens) - k + 1)]

    def vector(tokens, k):
        result = {}
        for gram in grams(tokens, k):
            documents = sum(gram in grams(reference, k) for reference in references)
            idf = math.log(len(references)) - math.log(max(1, documents))
            result[gram] = grams(tokens, k).count(gram) * idf
        return result

    for reference, hypothesis, value in zip(references, hypotheses, cider_d_each(references, hypotheses)):
        similarity = []
        for k in range(1, 5):
            r, h = vector(reference, k), vector(hypothesis, k)
            dot = sum(min(h[g], r[g]) * r[g] for g in h if g in r)
            norms = math.sqrt(sum(v**2 for v in r.values()) * sum(v**2 for v in h.values()))
            similarity.append(dot / norms if norms else 0.0)
        penalty = math.exp(-((len(hypothesis) - len(reference)) ** 2) / 72)
        assert value == pytest.approx(10 * penalty * sum(similarity) / 4)


def test_cider_depends_on_the_split():
    assert cider_d_each(words(H[:1]), words(H[:1])).tolist() == [0.0]  # idf of a single document is 0
    assert cider_d_each(words(H), words(H)).tolist() == pytest.approx([10.0, 10.0])


def test_empty_hypotheses_score_zero_and_stay_in_the_mean():
    full, half = text_scores(R, R), text_scores(R, [R[0], ""])
    for key in ("rouge_l", "rouge_l_f1", "cider_d"):
        assert half[key] == pytest.approx(full[key] / 2)
    assert 0 < half["bleu4"] < 1  # through the brevity penalty of the corpus
    nothing = text_scores(R, ["", "..."])
    assert [nothing[key] for key in ("bleu4", "rouge_l", "rouge_l_f1", "cider_d", "length_ratio")] == [0.0] * 5
    assert text_scores(["", "a b c d"], ["a b", "a b c d"])["rouge_l"] == 0.5  # nothing to be right about: 0


def test_no_sample_is_undefined():
    assert all(math.isnan(value) for value in text_scores([], []).values())


PREFIXES = {
    "The speaker's emotion is Happy, and intent is Suggesting. The deep reason is: she found it.": "she found it.",
    "The emotion is sad and the intent is wishing. He lowers his head.": "He lowers his head.",
    "emotion is neutral, intent is neutral; the reason is: nothing happens": "nothing happens",
    "In this clip the EMOTION IS anger and the INTENT IS questioning!\nShe shouts.": "She shouts.",
    'Mr. Smith\'s emotion is "fear" and his intent is "consoling" here. The joint reason is: his hands shake.': (
        "his hands shake."
    ),
    "The emotion is happy and the intent is agreeing, because she nods twice.": "because she nods twice.",
    "The emotion is happy and the intent is agreeing: she nods twice.": "she nods twice.",
    "The emotion is disgust and the intent is encouraging.": "",
    "  He smiles. Later the emotion is sad and the intent is wishing. ": (
        "He smiles. Later the emotion is sad and the intent is wishing."
    ),
    "Her emotion is visible in her face. The intent is hard to read.": (
        "Her emotion is visible in her face. The intent is hard to read."
    ),
}


@pytest.mark.parametrize("text", PREFIXES)
def test_label_prefix_is_stripped(text):
    assert strip_label_prefix(text) == PREFIXES[text]
    assert strip_label_prefix(PREFIXES[text]) == PREFIXES[text]


def test_the_shared_template_inflates_only_the_raw_scores():
    template = "The emotion is happy and the intent is wishing. The deep reason is: "
    scores = explanation_scores([template + "she smiles"], [template + "he frowns"], parsed=[True])
    assert scores["rouge_l_stripped"] == 0.0
    assert scores["rouge_l_raw"] > 0.8
    assert (scores["n"], scores["parse_rate"]) == (1, 1.0)
    assert scores["length_ratio_stripped"] == 1.0


def test_fields_are_scored_apart():
    fields = {"joint": (R, H), "emotion": (R[:1], R[:1])}
    scores = explanation_scores_by_field(fields, parsed=[True, False])
    assert scores["parse_rate"] == 0.5
    assert (scores["joint_n"], scores["emotion_n"]) == (2, 1)
    assert scores["joint_bleu4_stripped"] == pytest.approx(0.528638, abs=1e-6)
    assert scores["emotion_bleu4_stripped"] == pytest.approx(1.0)
    assert "joint_parse_rate" not in scores


def test_what_cannot_run_is_nan(monkeypatch):
    monkeypatch.setattr(nltk.corpus, "wordnet", MissingWordNet())
    scores = text_scores(R, H)
    assert math.isnan(scores["meteor_nltk"]) and math.isnan(scores["bertscore_f1"])
    described = explanation_settings()
    assert described["meteor_nltk"] == described["bertscore"] == "not available"
    assert described["tokenization"] == "v1"


def test_meteor_by_hand(monkeypatch):
    monkeypatch.setattr(nltk.corpus, "wordnet", SilentWordNet())
    values = meteor_each(
        words(["a b c d", "she suggests", "a b"]), words(["a b c d", "she suggested", ""]), find_meteor()
    )
    # F = PR / (αP + (1 − α)R) = 1 in the first two (the second by its stem); penalty γ (chunks / matches)^β
    assert values == pytest.approx([1 - 0.5 * (1 / 4) ** 3, 1 - 0.5 * (1 / 2) ** 3, 0.0])
    assert not math.isnan(text_scores(R, H)["meteor_nltk"])


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory, tiny_tokenizer):
    """A random encoder with its tokenizer in a folder."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    folder = tmp_path_factory.mktemp("tiny_bert")
    BertModel(BertConfig(vocab_size=len(tiny_tokenizer), **sizes)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def test_bertscore_equals_loops(tiny_bert):
    scorer = BertScorer(tiny_bert, layer=1, batch_size=2)
    references = ["i think this is great", "please leave now", "hello you", "thank you so much"]
    hypotheses = ["this is great", "ask for help please", "hello you", ""]
    values = scorer.f1_each(references, hypotheses)
    assert values[2] == pytest.approx(1.0, abs=1e-5)
    assert values[3] == 0.0
    for reference, hypothesis, value in list(zip(references, hypotheses, values))[:2]:
        vectors = []
        for text in (reference, hypothesis):
            inputs = scorer.tokenizer(text, return_tensors="pt")
            with torch.no_grad():
                hidden = scorer.model(**inputs, output_hidden_states=True).hidden_states[1][0].double()
            vectors.append([v / v.norm() for v in hidden])
        r, h = vectors
        # the first and last token are special: they may be matched but do not count themselves
        recall = np.mean([max(float(a @ b) for b in h) for a in r[1:-1]])
        precision = np.mean([max(float(a @ b) for a in r) for b in h[1:-1]])
        assert value == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)
    assert scorer.settings == {"model": tiny_bert.name, "layer": 1, "idf": False, "rescale": False}
    assert text_scores(references, hypotheses, scorer)["bertscore_f1"] == pytest.approx(values.mean())


def test_bertscore_needs_a_folder_and_a_layer(tiny_bert):
    with pytest.raises(FileNotFoundError, match="not a local folder"):
        BertScorer("roberta-large")
    with pytest.raises(ValueError, match="`layer` is 3 but the model has 3 hidden states"):
        BertScorer(tiny_bert, layer=3)


def test_metric_equals_the_function():
    metric = ExplanationMetric()
    for _ in range(2):
        for reference, hypothesis in zip(R, H):
            metric.add(reference=reference, prediction=hypothesis)
        scores = metric.compute(parsed=[True, True])
        assert scores == pytest.approx(explanation_scores(R, H, parsed=[True, True]), nan_ok=True)
    with pytest.raises(ValueError, match=r"\{'references': 2, 'parsed': 1\}"):
        explanation_scores(R, H, parsed=[True])
