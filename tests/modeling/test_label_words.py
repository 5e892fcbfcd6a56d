"""Connectors against the word vectors of labels, and the stage that trains them without the language model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from hf_mmintent.modeling.label_words import agreed_logits, label_word_ids, label_word_logits

from .xmei_cases import chat_tokenizer, rows, tiny_config, tiny_model, tiny_processor

EMOTION_WORDS, INTENT_WORDS = [[7 + i, 90] for i in range(7)], [[20 + i] for i in range(9)]
WORDS: dict[str, Any] = {
    "label_word_loss_weight": 0.3,
    "emotion_word_ids": EMOTION_WORDS,
    "intent_word_ids": INTENT_WORDS,
    "stages": [["connect", 1], ["align", 1], ["joint", 1]],
}
TERMS = {f"{modality}_{label}_word" for modality in ("audio", "video") for label in ("emotion", "intent")}


@pytest.fixture
def batch(tiny_tokenizer: Any) -> dict[str, torch.Tensor]:
    return dict(tiny_processor(tiny_tokenizer)(**rows(), return_labelled_view=True))


def connecting(**overrides: Any) -> Any:
    model = tiny_model(**{**WORDS, **overrides})
    model.set_stage("connect")
    return model


def forbid(model: Any) -> None:
    """The language model may not be run."""

    def refuse(**_: Any) -> None:
        raise AssertionError("the language model was run")

    model.language_model.forward = refuse


def test_logits_equal_a_loop() -> None:
    torch.manual_seed(0)
    tokens, table = torch.randn(3, 2, 5), torch.randn(9, 5, requires_grad=True)
    ids = [[1], [2, 3], [4, 8, 0]]
    found = label_word_logits(tokens, table, ids, 0.2)
    words = [sum(table[i] for i in label) / len(label) for label in ids]
    words = [word - sum(words) / 3 for word in words]
    for row in range(3):
        for column, word in enumerate(words):
            expected = torch.cosine_similarity((tokens[row, 0] + tokens[row, 1]) / 2, word, dim=0) / 0.2
            assert found[row, column].item() == pytest.approx(expected.item(), abs=1e-5)
    assert not found.requires_grad  # word vectors are targets, not parameters


def test_agreement_leaves_out_who_is_absent() -> None:
    first, second = torch.randn(2, 4), torch.randn(2, 4)
    there = torch.tensor([True, False])
    found = agreed_logits({"audio": (first, torch.tensor([True, False])), "video": (second, ~there | there)})
    torch.testing.assert_close(found[0], first[0].log_softmax(0) + second[0].log_softmax(0))
    torch.testing.assert_close(found[1], second[1].log_softmax(0))


def test_words_are_tokenized_as_they_stand_in_an_answer() -> None:
    tokenizer = chat_tokenizer()
    ids = label_word_ids(tokenizer, ["Happy", "sad"])
    assert tokenizer.decode(ids[0]) == " happy" and tokenizer.decode(ids[1]) == " sad"


# ---- the stage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_connecting_does_not_run_the_language_model(batch: dict[str, torch.Tensor], training: bool) -> None:
    model = connecting().train(training)
    forbid(model)
    out = model(**batch)
    assert set(out.loss_terms) >= TERMS and "lm" not in out.loss_terms and "emotion" not in out.loss_terms
    tca = sum(value for name, value in out.loss_terms.items() if name.startswith("tca")) / 3
    words = sum(out.loss_terms[name] for name in TERMS)
    torch.testing.assert_close(out.loss, 0.3 * words + model.config.tca_loss_weight * tca)
    assert out.emotion_logits.shape == (4, 7) and out.intent_logits.shape == (4, 9) and out.logits is None


def test_connecting_moves_connectors_and_nothing_else(batch: dict[str, torch.Tensor]) -> None:
    model = connecting().train()
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model(**batch).loss.backward()
    optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(before[name], value)}
    parts = {name.split(".")[0] for name in moved}
    assert parts == {
        "audio_tokens", "audio_connector", "audio_projector", "video_connector", "video_projector", "alignment"
    }  # fmt: skip
    assert any("queries" in name for name in moved) and any("fillers" in name for name in moved)


def test_prompts_without_targets_are_still_answered(batch: dict[str, torch.Tensor]) -> None:
    """A checkpoint of this stage generates, whatever its connectors are worth to the language model by then."""
    model = connecting()
    prompts = dict(tiny_processor(use_captions=False, align_subtitles=False)(**rows()))
    assert {"emotion_labels", "intent_labels"} <= set(prompts)
    assert model.generate(**prompts, max_new_tokens=2).shape[0] == 4
    plain = {name: value for name, value in prompts.items() if not name.endswith("_labels")}
    with torch.no_grad():
        assert model(**plain).logits is not None and model(**prompts).logits is None


def test_samples_without_a_modality_say_nothing_about_it(batch: dict[str, torch.Tensor]) -> None:
    """Sound is missing in the second sample: its label does not matter to the loss of sound."""
    model = connecting()
    changed = {**batch, "emotion_labels": batch["emotion_labels"].clone()}
    changed["emotion_labels"][1] = 5
    with torch.no_grad():
        first, second = model(**batch).loss_terms, model(**changed).loss_terms
    assert torch.equal(first["audio_emotion_word"], second["audio_emotion_word"])
    assert not torch.equal(first["video_emotion_word"], second["video_emotion_word"])


def test_a_batch_of_words_alone_trains_nothing_and_does_not_fail() -> None:
    values = {**rows(), "audio_features": [None] * 4, "video_features": [None] * 4}
    values["text"][3] = "well"
    processor = tiny_processor(use_captions=False, align_subtitles=False)
    model = connecting(tca_loss_weight=0.0).train()
    out = model(**processor(**values, return_labelled_view=True))
    out.loss.backward()
    assert out.loss == 0 and out.loss_terms == {} and out.emotion_logits is None
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert gradients and all(gradient is None or gradient.abs().max() == 0 for gradient in gradients)


def test_alignment_alone_is_enough(batch: dict[str, torch.Tensor]) -> None:
    model = connecting(label_word_loss_weight=0.0).train()
    forbid(model)
    out = model(**batch)
    out.loss.backward()
    assert set(out.loss_terms) == {"tca_text_audio", "tca_text_video", "tca_audio_video"} and out.emotion_logits is None


def test_other_stages_keep_the_term(batch: dict[str, torch.Tensor]) -> None:
    model = connecting().train()
    model.set_stage("joint")
    out = model(**batch)
    assert TERMS | {"lm", "emotion"} <= set(out.loss_terms)
    plain = tiny_model().train()
    assert not TERMS & set(plain(**batch).loss_terms)


def test_connecting_learns_what_each_modality_shows() -> None:
    """Sound shows the emotion: after some steps its tokens lie at the right words, those of another seed's start do not."""
    torch.manual_seed(0)
    model = connecting(tca_loss_weight=0.0, label_word_loss_weight=1.0).train()
    labels = torch.arange(24) % 3
    features = torch.randn(24, 5, 6) * 0.3
    features[torch.arange(24), :, labels] += 2.0
    given = {
        "input_ids": torch.full((24, 3), 5),
        "audio_features": features,
        "emotion_labels": labels,
    }
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    with torch.no_grad():
        start = model(**given).loss.item()
    for _ in range(40):
        optimizer.zero_grad()
        model(**given).loss.backward()
        optimizer.step()
    with torch.no_grad():
        out = model.eval()(**given)
    assert out.loss.item() < 0.2 * start
    logits = model._word_logits("emotion", model.read_media(24, {"audio_features": features})[0])["audio"][0]
    assert (logits.argmax(1) == labels).float().mean() > 0.9


# ---- config -----------------------------------------------------------------------------------------------------------


def test_contradictions_are_named() -> None:
    with pytest.raises(
        StrictDataclassClassValidationError, match=r"`label_word_loss_weight` is 0\.3 but `emotion_word_ids`"
    ):
        tiny_config(**{**WORDS, "emotion_word_ids": None})
    with pytest.raises(StrictDataclassClassValidationError, match="one list of tokens per name"):
        tiny_config(**{**WORDS, "intent_word_ids": INTENT_WORDS[:3]})
    with pytest.raises(StrictDataclassClassValidationError, match="one list of tokens per name"):
        tiny_config(**{**WORDS, "intent_word_ids": [*INTENT_WORDS[:8], []]})
    with pytest.raises(StrictDataclassClassValidationError, match="there would be no loss"):
        tiny_config(**{**WORDS, "label_word_loss_weight": 0.0, "tca_loss_weight": 0.0})
    with pytest.raises(StrictDataclassClassValidationError, match="`label_word_temperature` is 0"):
        tiny_config(**WORDS, label_word_temperature=0.0)
    config = tiny_config(**WORDS)
    assert config.training_stages[0].trainable == config.training_stages[1].trainable != None  # noqa: E711
    assert type(config)(**config.to_dict()).emotion_word_ids == config.emotion_word_ids
