"""XMEI-Qwen: media in prompts, losses, heads, generation, saving."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

from hf_mmintent.modeling.media_tokens import AudioTokens
from hf_mmintent.modeling.modeling_xmei_qwen import XmeiQwenForConditionalGeneration
from hf_mmintent.modeling.trimodal_alignment import TrimodalAlignment, symmetric_info_nce
from hf_mmintent.modeling.xmei_qwen_outputs import CACHE

from .testers import run
from .xmei_cases import (
    AUDIO,
    VIDEO,
    connector_fields,
    move_padding,
    one_row,
    rows,
    tiny_model,
    tiny_processor,
    variants,
)


@pytest.fixture
def processor(tiny_tokenizer):
    return tiny_processor(tiny_tokenizer)


def without(batch: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in names}


# ---- the common suite, adapted to generation ------------------------------------------------------------------------


@variants
def test_outputs(processor, variant) -> None:
    model, batch = tiny_model(**variant), processor(**rows(), return_labelled_view=True)
    out = run(model, batch, output_attentions=True, output_hidden_states=True)
    size, length = batch["input_ids"].shape
    assert out.logits.shape == (size, length, model.config.language_model_config.vocab_size)
    assert out.emotion_logits.shape == (4, 7) and out.intent_logits.shape == (4, 9) and out.embeddings.shape == (4, 16)
    assert torch.isfinite(out.logits).all() and len(out.hidden_states) == 3
    assert set(out.cross_attentions) == {"audio", "video"}
    assert out.cross_attentions["video"][0].shape[:3] == (4, 2, 6) and out.modality_weights is None
    plain = run(model, batch, return_dict=False)
    assert torch.equal(plain[0], out.loss)


@variants
def test_loss_is_the_weighted_sum_of_its_terms(processor, variant) -> None:
    model = tiny_model(**variant, label_token_weight=3.0).train()
    out = model(**processor(**rows(), return_labelled_view=True))
    terms, config = out.loss_terms, model.config
    assert {"lm", "emotion", "intent", "tca_text_audio", "tca_text_video", "tca_audio_video"} <= set(terms)
    assert all(not term.requires_grad and term.dim() == 0 for term in terms.values())
    tca = sum(value for name, value in terms.items() if name.startswith("tca")) / 3
    expected = terms["lm"] + config.emotion_loss_weight * terms["emotion"] + config.intent_loss_weight * terms["intent"]
    torch.testing.assert_close(out.loss, expected + config.tca_loss_weight * tca)


@variants
def test_save_and_load(processor, tmp_path: Path, variant) -> None:
    model, batch = tiny_model(**variant), processor(**rows())
    model.save_pretrained(tmp_path)
    for auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert isinstance(loaded, XmeiQwenForConditionalGeneration)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert torch.equal(run(loaded.eval(), batch).logits, run(model, batch).logits)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    torch.testing.assert_close(run(half, batch).logits.float(), run(model, batch).logits, atol=0.15, rtol=0.1)


@variants
def test_training_moves_what_trains_and_nothing_else(processor, variant) -> None:
    model = tiny_model(**variant).train()
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    model(**processor(**rows(), return_labelled_view=True)).loss.backward()
    optimizer.step()
    still = {name for name, value in model.named_parameters() if torch.equal(before[name], value)}
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert still == frozen
    assert all(name.startswith("text_model.") or "_connector.embeddings." in name for name in frozen) and frozen
    assert not any("queries" in name or "fillers" in name for name in frozen)


def test_seeds_reproduce_training(processor) -> None:
    def train() -> torch.Tensor:
        model = tiny_model(seed=1).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            model(**processor(**rows(), return_labelled_view=True)).loss.backward()
            optimizer.step()
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(train(), train())


def test_activation_checkpointing_gives_the_same_gradients(processor) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(seed=2).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**processor(**rows(), return_labelled_view=True)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_bf16_autocast_trains(processor) -> None:
    model = tiny_model().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**processor(**rows(), return_labelled_view=True)).loss
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_missing_weights_are_the_same_from_run_to_run(processor, tmp_path: Path) -> None:
    tiny_model(use_classification_heads=False).save_pretrained(tmp_path)
    logits = []
    for _ in range(2):
        torch.manual_seed(3)
        model = AutoModel.from_pretrained(tmp_path, use_classification_heads=True).eval()
        logits.append(run(model, processor(**rows())).emotion_logits)
    assert torch.isfinite(logits[0]).all() and torch.equal(*logits)


@variants
def test_training_and_evaluation_give_one_loss(processor, variant) -> None:
    """Training makes logits of answer positions only."""
    model, batch = tiny_model(**variant), processor(**rows(), return_labelled_view=True)
    expected = run(model, batch)
    out = run(model.train(), batch)
    assert out.logits is None
    torch.testing.assert_close(out.loss_terms["lm"], expected.loss_terms["lm"])


# ---- invariances -------------------------------------------------------------------------------------------------


@variants
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_side_does_not_matter(processor, variant, attention) -> None:
    model, right = tiny_model(**variant), processor(**rows(), return_labelled_view=True)
    model.set_attn_implementation(attention)
    left = move_padding(right)
    assert not torch.equal(left["input_ids"], right["input_ids"])
    first, second = run(model, right), run(model, left)
    torch.testing.assert_close(first.loss, second.loss)
    torch.testing.assert_close(first.embeddings, second.embeddings, atol=1e-5, rtol=1e-4)
    for name, term in first.loss_terms.items():
        torch.testing.assert_close(second.loss_terms[name], term, msg=name)


@variants
def test_batch_mates_do_not_matter(processor, variant) -> None:
    model = tiny_model(**variant)
    batch = processor(**rows())
    together = run(model, batch)
    answers = model.generate(**batch, max_new_tokens=6)[:, batch["input_ids"].shape[1] :]
    for index in range(4):
        single = processor(**one_row(index))
        alone = run(model, single)
        torch.testing.assert_close(alone.embeddings[0], together.embeddings[index], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.logits[0, -1], together.logits[index, -1], atol=1e-4, rtol=1e-4)
        answer = model.generate(**single, max_new_tokens=6)[0, single["input_ids"].shape[1] :]
        assert answers[index, : len(answer)].tolist() == answer.tolist()


@pytest.mark.parametrize("fill", [0.0, 7.0, float("nan"), float("inf")])
def test_padded_features_do_not_matter(processor, fill) -> None:
    model, batch = tiny_model(), processor(**rows())
    changed = dict(batch)
    for name in ("audio", "video"):
        mask = batch[f"{name}_attention_mask"].bool()
        changed[f"{name}_features"] = batch[f"{name}_features"].masked_fill(~mask[..., None], fill)
    torch.testing.assert_close(run(model, changed).embeddings, run(model, batch).embeddings)


@pytest.mark.parametrize("missing", [("audio",), ("video",), ("audio", "video")])
def test_absent_equals_masked(processor, missing) -> None:
    model = tiny_model()
    values = rows()
    for name in missing:
        values[f"{name}_features"] = [None] * 4
    values["text"][3] = "not nothing"
    batch = processor(**values)
    assert not any(f"{name}_features" in batch for name in missing)
    masked = dict(batch)
    for name, width in (("audio", AUDIO), ("video", VIDEO)):
        if name in missing:
            masked[f"{name}_features"] = torch.full((4, 3, width), float("nan"))
            masked[f"{name}_attention_mask"] = torch.zeros(4, 3, dtype=torch.long)
    first, second = run(model, batch), run(model, masked)
    assert torch.isfinite(first.logits).all()
    torch.testing.assert_close(first.logits, second.logits)


def test_every_set_of_modalities_trains_and_generates(processor) -> None:
    for size, index in itertools.product((0, 1, 2), range(3)):
        missing = (
            [("audio", "video"), ("text",), ()][index] if size == 0 else [["audio"], ["video"], ["text"]][index][:1]
        )
        values = rows()
        for row in range(4):
            for name in missing:
                values["text" if name == "text" else f"{name}_features"][row] = None
            if "text" not in missing:
                values["text"][row] = "hello"
            else:
                values["audio_features"][row] = rows()["audio_features"][0]
        model = tiny_model().train()
        loss = model(**processor(**values, return_labelled_view=True)).loss
        loss.backward()
        assert torch.isfinite(loss), missing
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None), missing
        assert model.eval().generate(**processor(**values), max_new_tokens=2).shape[0] == 4


# ---- captions ----------------------------------------------------------------------------------------------------


@variants
def test_captions_matter_and_their_padding_does_not(processor, variant) -> None:
    model, batch = tiny_model(**variant), processor(**rows())
    expected = run(model, batch).embeddings
    swapped = {**batch, "video_caption_ids": batch["video_caption_ids"][[1, 0, 2, 3]]}
    swapped["video_caption_mask"] = batch["video_caption_mask"][[1, 0, 2, 3]]
    assert (run(model, swapped).embeddings - expected)[:2].abs().max() > 1e-3
    padded = dict(batch)
    for name in ("audio", "video"):
        mask = batch[f"{name}_caption_mask"].bool()
        padded[f"{name}_caption_ids"] = batch[f"{name}_caption_ids"].masked_fill(~mask, 77)
    assert any(not torch.equal(padded[name], batch[name]) for name in batch)
    torch.testing.assert_close(run(model, padded).embeddings, expected)
    assert model.generate(**swapped, max_new_tokens=2).shape[0] == 4


@variants
def test_no_caption_equals_masked_caption(processor, variant) -> None:
    model, batch = tiny_model(**variant), processor(**rows())
    names = [f"{name}_caption_{part}" for name in ("audio", "video") for part in ("ids", "mask")]
    hidden = {**batch, **{name: torch.zeros_like(batch[name]) for name in names if name.endswith("mask")}}
    torch.testing.assert_close(run(model, hidden).embeddings, run(model, without(batch, *names)).embeddings)


def test_masked_caption_slots_are_hidden_from_the_language_model(processor) -> None:
    """With `caption_fill='mask'` at every step of a generation, too."""
    model = tiny_model(**connector_fields(caption_fill="mask"))
    batch = processor(**rows())
    mask = model.answering_mask(batch["input_ids"], batch["attention_mask"], batch)
    slots = batch["input_ids"] == model.config.video_token_id
    empty = (batch["video_caption_mask"] == 0).sum(1)
    present = batch["video_attention_mask"].any(1)
    assert torch.equal(((mask == 0) & slots).sum(1), empty * present) and empty.sum() > 0
    assert model.generate(**batch, max_new_tokens=6).tolist() == _greedy(model, batch, 6)


def test_captions_as_states_of_the_text_encoder(processor) -> None:
    fields = connector_fields(caption_source="encoder", caption_embed_size=16)
    model = tiny_model(**fields, tca_loss_weight=0.0)
    assert model.text_model is not None
    batch = processor(**rows())
    swapped = {**batch, "audio_caption_ids": batch["audio_caption_ids"].flip(0)}
    assert (run(model, swapped).embeddings - run(model, batch).embeddings).abs().max() > 1e-4


# ---- splice ------------------------------------------------------------------------------------------------------


def test_media_take_the_places_of_their_placeholders_in_order(processor) -> None:
    model, batch = tiny_model(), processor(**rows())
    ids = batch["input_ids"]
    embeds = torch.zeros(*ids.shape, 16)
    tokens = torch.arange(4 * 6 * 16, dtype=torch.float).view(4, 6, 16) + 1
    present = torch.tensor([True, True, False, True])
    out = model.splice("video", ids, embeds, tokens, present)
    slots = ids == model.config.video_token_id
    for row in range(4):
        expected = tokens[row] if present[row] else torch.zeros(0, 16)
        assert torch.equal(out[row][slots[row]], expected)
    assert out[~slots].abs().max() == 0
    order = [i for i in ids[0].tolist() if i in (model.config.video_token_id, model.config.audio_token_id)]
    assert order == [model.config.video_token_id] * 6 + [model.config.audio_token_id] * 6


@pytest.mark.parametrize("fill", ["filler", "mask"])
@pytest.mark.parametrize("change", ["too few", "too many", "no features"])
def test_wrong_number_of_placeholders_raises(processor, change, fill) -> None:
    model, batch = tiny_model(**connector_fields(caption_fill=fill)), dict(processor(**rows()))
    token = model.config.video_token_id
    position = int((batch["input_ids"][0] == token).nonzero()[0])
    batch["input_ids"] = batch["input_ids"].clone()
    if change == "too few":
        batch["input_ids"][0, position] = 5
    elif change == "too many":
        batch["input_ids"][0, position - 1] = token
    else:
        batch = without(batch, "video_features", "video_attention_mask")
    found = {"too few": "5 video placeholders.*6", "too many": "7 video placeholders.*6", "no features": "6 video.*0"}
    with pytest.raises(ValueError, match=found[change]):
        run(model, batch)
    with pytest.raises(ValueError, match=found[change]):
        model.generate(**batch, max_new_tokens=2)


def test_placeholder_rows_of_the_embeddings_are_not_read(processor) -> None:
    model, batch = tiny_model(), processor(**rows())
    expected = run(model, batch).embeddings
    with torch.no_grad():
        for name in ("video", "audio"):
            model.get_input_embeddings().weight[getattr(model.config, f"{name}_token_id")] = 1e4
    torch.testing.assert_close(run(model, batch).embeddings, expected)


def test_misaligned_inputs_raise(processor) -> None:
    model, batch = tiny_model(), dict(processor(**rows()))
    with pytest.raises(ValueError, match="attention_mask"):
        run(model, {**batch, "attention_mask": batch["attention_mask"][:, 1:]})
    with pytest.raises(ValueError, match=r"width \d+ .* is \d+"):
        run(model, {**batch, "audio_features": torch.cat([batch["audio_features"]] * 2, -1)})
    with pytest.raises(ValueError, match="batch sizes"):
        parts = {name: batch[name][:2] for name in ("audio_features", "audio_attention_mask")}
        run(model, {**batch, **parts})
    with pytest.raises(ValueError, match="all modalities are missing"):
        run(model, {})
    for name in ("video_caption_ids", "emotion_labels"):
        with pytest.raises(ValueError, match=rf"`{name}` has shape \(2,.*`input_ids` has 4 samples"):
            run(model, {**batch, name: batch[name][:2]})
    with pytest.raises(
        ValueError, match=r"`audio_caption_mask` has shape \(4, 3\) but `audio_caption_ids` has \(4, 4\)"
    ):
        run(model, {**batch, "audio_caption_mask": batch["audio_caption_mask"][:, 1:]})
    with pytest.raises(ValueError, match="`audio_caption_mask` is given without `audio_caption_ids`"):
        run(model, without(batch, "audio_caption_ids"))
    training = dict(processor(**rows(), return_labelled_view=True))
    with pytest.raises(ValueError, match=r"`subtitle_ids` has shape \(2,"):
        run(model, {**training, "subtitle_ids": training["subtitle_ids"][:2]})
    with pytest.raises(ValueError, match="`label_token_mask` has shape"):
        run(model, {**training, "label_token_mask": training["label_token_mask"][:, 1:]})
    with pytest.raises(ValueError, match="encoder_config"):
        run(model, {**without(batch, "audio_features", "audio_attention_mask"), "input_values": torch.randn(4, 800)})


# ---- heads, losses -----------------------------------------------------------------------------------------------


def test_heads_do_not_see_the_answer(processor) -> None:
    model = tiny_model()
    training = processor(**rows(), return_labelled_view=True)
    expected = run(model, training)
    other = rows()
    other.update(joint_reason=["a wholly different text"] * 4, emotion=["fear", "happy", "sad", "neutral"])
    for batch in (processor(**other, return_labelled_view=True), processor(**rows())):
        out = run(model, batch)
        torch.testing.assert_close(out.emotion_logits, expected.emotion_logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(out.embeddings, expected.embeddings, atol=1e-5, rtol=1e-4)


def test_label_token_weight_touches_label_tokens_only(processor) -> None:
    batch = processor(**rows(), return_labelled_view=True)
    model = tiny_model()
    logits = run(model, batch).logits[:, :-1]
    targets, weights = batch["labels"][:, 1:], torch.ones_like(batch["labels"][:, 1:], dtype=torch.float)
    weights[batch["label_token_mask"][:, 1:].bool()] = 5.0
    weights[targets == -100] = 0.0
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=-100)
    model.config.label_token_weight = 5.0
    torch.testing.assert_close(run(model, batch).loss_terms["lm"], (each * weights).sum() / weights.sum())


def test_rows_without_labels_have_no_head_loss(processor) -> None:
    values = rows()
    values["emotion"] = [None, None, None, "sad"]
    batch = processor(**values, return_labelled_view=True)
    model = tiny_model()
    out = run(model, batch)
    expected = torch.nn.functional.cross_entropy(out.emotion_logits[3:], torch.tensor([2]))
    torch.testing.assert_close(out.loss_terms["emotion"], expected)
    none = run(model, {**batch, "emotion_labels": torch.full((4,), -100)})
    assert none.loss_terms["emotion"] == 0 and torch.isfinite(none.loss)


def test_frozen_heads_leave_the_loss(processor) -> None:
    model = tiny_model().train()
    model.set_stage("align")
    assert not any(p.requires_grad for p in model.emotion_head.parameters())
    assert not any(p.requires_grad for p in model.language_model.parameters())
    out = model(**processor(**rows(), return_labelled_view=True))
    tca = sum(value for name, value in out.loss_terms.items() if name.startswith("tca")) / 3
    torch.testing.assert_close(out.loss, out.loss_terms["lm"] + model.config.tca_loss_weight * tca)
    model.set_stage("joint")
    assert all(p.requires_grad for p in model.language_model.parameters())
    assert not any(p.requires_grad for p in model.text_model.parameters())


def test_alignment_equals_a_loop() -> None:
    """Three symmetric InfoNCE; same subtitles are no negatives, samples without a side are left out."""
    torch.manual_seed(0)
    module = TrimodalAlignment(5, 4, 3, 0.2)
    ids = torch.tensor([[1, 2], [1, 2], [3, 0], [4, 9], [1, 7]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1], [1, 0]])
    there = {"text": [1, 1, 1, 1, 1], "audio": [1, 1, 0, 1, 1], "video": [1, 0, 1, 1, 1]}
    values = {name: torch.randn(5, 5 if name == "text" else 4) for name in there}
    found = module({name: (values[name], torch.tensor(there[name], dtype=torch.bool)) for name in there}, ids, mask)
    points = {n: torch.nn.functional.normalize(getattr(module, n)(v), dim=-1) for n, v in values.items()}
    texts = [tuple(i for i, m in zip(a, b) if m) for a, b in zip(ids.tolist(), mask.tolist())]
    for a, b in itertools.combinations(there, 2):
        kept = [i for i in range(5) if there[a][i] and there[b][i]]
        total = 0.0
        for first, second in ((a, b), (b, a)):
            for i in kept:
                others = [j for j in kept if j == i or texts[j] != texts[i]]
                scores = torch.stack([points[first][i] @ points[second][j] / 0.2 for j in others])
                total -= scores.log_softmax(0)[others.index(i)].item() / (2 * len(kept))
        assert found[f"tca_{a}_{b}"].item() == pytest.approx(total, abs=1e-5)


def test_alignment_without_pairs_is_zero() -> None:
    assert symmetric_info_nce(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, 0, dtype=torch.bool), 0.1) == 0


def test_audio_mask_follows_the_convolutions() -> None:
    """A step is valid if any step it covers is, and padding does not leak into it."""
    torch.manual_seed(0)
    module = AudioTokens(3, 2, False)
    for steps in range(1, 12):
        states, mask = torch.randn(1, 16, 3), torch.arange(16)[None] < steps
        out, valid = module(states.masked_fill(~mask[..., None], 9.0), mask)
        short, there = module(states[:, :steps], mask[:, :steps])
        length = short.shape[1]
        assert there.all() and valid[0].tolist() == [True] * length + [False] * (valid.shape[1] - length)
        torch.testing.assert_close(out[:, :length], short)
        assert out[:, length:].abs().max() == 0


# ---- generation ----------------------------------------------------------------------------------------------------


def _greedy(model: Any, batch: dict[str, Any], count: int) -> list[list[int]]:
    """Slow generation: the whole sequence anew for every token."""
    batch = without(batch, "emotion_labels", "intent_labels")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    done = torch.zeros(len(ids), dtype=torch.bool)
    for _ in range(count):
        logits = run(model, {**batch, "input_ids": ids, "attention_mask": mask}).logits[:, -1]
        token = torch.where(done, model.generation_config.pad_token_id, logits.argmax(-1))
        done |= token == model.generation_config.eos_token_id
        ids, mask = torch.cat([ids, token[:, None]], 1), torch.cat([mask, mask.new_ones(len(ids), 1)], 1)
        if done.all():
            break
    return ids.tolist()


@variants
def test_generation_with_and_without_cache(processor, variant) -> None:
    model, batch = tiny_model(**variant), processor(**rows())
    slow = _greedy(model, batch, 8)
    assert model.generate(**batch, max_new_tokens=8).tolist() == slow
    assert model.generate(**batch, max_new_tokens=8, use_cache=False).tolist() == slow
    beams = model.generate(**batch, max_new_tokens=4, num_beams=2)
    assert beams.shape[0] == 4


def test_a_batch_that_holds_the_answers_is_no_prompt(processor) -> None:
    model, batch = tiny_model(), processor(**rows(), return_labelled_view=True)
    with pytest.raises(ValueError, match="end with the answers"):
        model.generate(**batch, max_new_tokens=2)
    with pytest.raises(ValueError, match="end with the answers"):
        model.score_labels(batch, *processor.label_token_ids())


@variants
def test_cache_is_that_of_the_language_model(processor, variant) -> None:
    model, batch = tiny_model(**variant), processor(**rows())
    out = run(model, batch, use_cache=True)
    assert len(out[CACHE].layers) == model.config.language_model_config.num_hidden_layers
    assert model.config.get_text_config() is model.config.language_model_config
    assert model.config.get_text_config(decoder=True) is model.config.language_model_config
    step = run(model, {"input_ids": batch["input_ids"][:, -1:]}, use_cache=True, **{CACHE: out[CACHE]})
    assert step.emotion_logits is None and step.embeddings is None


def test_media_are_read_once(processor, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_model(), processor(**rows())
    calls: list[int] = []
    forward = model.video_connector.forward
    monkeypatch.setattr(model.video_connector, "forward", lambda **kwargs: calls.append(1) or forward(**kwargs))
    model.generate(**batch, max_new_tokens=5)
    assert len(calls) == 1


@variants
def test_scored_labels_equal_a_loop(processor, variant) -> None:
    """Mean log-likelihood per token, the intent after the chosen emotion; completions of different lengths."""
    model, batch = tiny_model(**variant), processor(**rows())
    emotions, intents = processor.label_token_ids()
    found = model.score_labels(batch, emotions, intents)

    def score(row: int, given: list[int], tokens: list[int]) -> float:
        single = without(processor(**one_row(row)), "emotion_labels", "intent_labels")
        ids = torch.cat([single["input_ids"], torch.tensor([given + tokens])], 1)
        logits = run(model, {**single, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0]
        each = logits[:-1].log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)
        return each[-len(tokens) :].mean().item()

    for row in range(4):
        expected = [score(row, [], tokens) for tokens in emotions]
        assert found.emotion_scores[row].tolist() == pytest.approx(expected, abs=1e-4)
        best = int(found.emotion_ids[row])
        assert best == max(range(7), key=expected.__getitem__)
        expected = [score(row, emotions[best], tokens) for tokens in intents]
        assert found.intent_scores[row].tolist() == pytest.approx(expected, abs=1e-4)
