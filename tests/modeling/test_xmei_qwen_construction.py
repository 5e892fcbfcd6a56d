"""XMEI-Qwen: building it from parts, raw clips, settings, saving."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModel, BertModel

from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.modeling_xmei_qwen import XmeiQwenForConditionalGeneration

from .test_media_backbones import tiny_parts
from .testers import run, tiny_bert
from .xmei_cases import (
    AUDIO,
    VIDEO,
    chat_tokenizer,
    connector_fields,
    move_padding,
    one_row,
    rows,
    tiny_config,
    tiny_lm,
    tiny_model,
    tiny_processor,
)


@pytest.fixture
def processor(tiny_tokenizer):
    return tiny_processor(tiny_tokenizer)


@pytest.fixture
def parts(tmp_path: Path, tiny_tokenizer) -> dict[str, str]:
    """A language model that lacks rows for the placeholders, and a BERT, in folders."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    lm = AutoModelForCausalLM.from_config(tiny_lm(vocab_size=len(tokenizer), pad_token_id=tokenizer.eos_token_id))
    bert = BertModel(tiny_bert(), add_pooling_layer=False)
    for name, part, words in (("lm", lm, tokenizer), ("bert", bert, tiny_tokenizer)):
        part.save_pretrained(tmp_path / name)
        words.save_pretrained(tmp_path / name)
    return {"language_model": str(tmp_path / "lm"), "text": str(tmp_path / "bert")}


def test_from_backbones(parts, tmp_path: Path) -> None:
    from hf_mmintent.modeling.processing_xmei_qwen import XmeiQwenProcessor

    model = XmeiQwenForConditionalGeneration.from_backbones(
        **parts, audio=AUDIO, video=VIDEO, visual_tokens="frame", tca_dim=8, **connector_fields()
    )
    tokenizer = chat_tokenizer()
    assert (
        model.get_input_embeddings().num_embeddings
        == len(tokenizer) + 3
        == model.config.language_model_config.vocab_size
    )
    bert = BertModel.from_pretrained(parts["text"], add_pooling_layer=False)
    for connector in (model.video_connector, model.audio_connector):  # captions are not looked up in random tables
        assert torch.equal(connector.embeddings.word_embeddings.weight, bert.embeddings.word_embeddings.weight)
    assert torch.equal(model.text_model.embeddings.word_embeddings.weight, bert.embeddings.word_embeddings.weight)
    assert not any(p.requires_grad for p in model.text_model.parameters())
    assert not any(p.is_meta for p in model.parameters())
    processor = XmeiQwenProcessor.from_backbones(model.config, parts)
    assert processor.use_captions and processor.tokenizer.pad_token_id != processor.tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    batch = processor(**rows())
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = AutoModel.from_pretrained(tmp_path / "model").eval()
    assert torch.equal(run(loaded, batch).logits, run(model, batch).logits)
    assert loaded.generation_config.eos_token_id == model.generation_config.eos_token_id


def test_encoders_by_name_and_widths_may_be_mixed(parts, tmp_path: Path) -> None:
    """A name builds the encoder, a width says that features come; the grid is that of the encoder, not of CLIP-L."""
    names = tiny_parts(tmp_path)
    fields = {"num_frames": 3, "tca_loss_weight": 0.0, "audio_conv_layers": 1}
    connectors = connector_fields(num_caption_tokens=0, encoder_hidden_size=16)

    def build(**given: Any) -> XmeiQwenForConditionalGeneration:
        return XmeiQwenForConditionalGeneration.from_backbones(
            language_model=parts["language_model"], **fields, **{**connectors, **given}
        )

    model = build(**names)
    config = model.config
    assert (config.num_spatial_tokens, config.encoder_config.num_frames) == (16, 3)  # 32 pixels, patches of 8
    frames = torch.randint(0, 255, (7, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    made = tiny_processor(config=config)(text=["hello"], video=[frames.numpy()], audio=[torch.randn(4000).numpy()])
    assert made["pixel_values"].shape[1] == 3 and torch.isfinite(run(model, made).logits).all()
    assert model.generate(**made, max_new_tokens=2).shape[0] == 1
    model.config.num_spatial_tokens = 9
    with pytest.raises(ValueError, match="`num_spatial_tokens` is 9 but the media encoder makes 16"):
        run(model, made)
    audio = connector_fields(num_caption_tokens=0)["audio_connector_config"]
    half = build(video=names["video"], audio=AUDIO, audio_connector_config=audio)
    assert (half.config.audio_feature_size, half.config.encoder_config.audio_front_end) == (AUDIO, None)
    both = tiny_processor(config=half.config)(
        text=["hello"], video=[frames.numpy()], audio_features=[torch.randn(5, AUDIO).numpy()]
    )
    assert {"pixel_values", "audio_features"} <= set(both) and torch.isfinite(run(half, both).logits).all()
    with pytest.raises(StrictDataclassClassValidationError, match=r"audio features of width 40 but .* is 6"):
        build(encoder=MediaEncoderConfig(grid_size=4), audio=AUDIO, visual_tokens="frame", audio_connector_config=audio)


@pytest.mark.parametrize("lm", ["llama", "gemma", "gpt2"])
def test_any_causal_language_model(tiny_tokenizer, tmp_path: Path, lm: str) -> None:
    """Padding sides, cache, label scores, gradients and reloading, with one connector of each kind."""
    audio = tiny_config("cat_mod").audio_connector_config
    model = tiny_model(lm=lm, audio_connector_config=audio, tca_loss_weight=0.0)
    assert {type(model.connector(name)).__name__ for name in ("audio", "video")} == {"CatModModel", "LQFormerModel"}
    processor = tiny_processor(tiny_tokenizer, config=model.config)
    training, batch = processor(**rows(), return_labelled_view=True), processor(**rows())
    torch.testing.assert_close(run(model, move_padding(training)).loss, run(model, training).loss)
    answers = model.generate(**batch, max_new_tokens=4)
    assert torch.equal(model.generate(**batch, max_new_tokens=4, use_cache=False), answers)
    scores = model.score_labels(batch, *processor.label_token_ids())
    alone = model.score_labels(processor(**one_row(1)), *processor.label_token_ids())
    torch.testing.assert_close(scores.emotion_scores[1], alone.emotion_scores[0], atol=1e-4, rtol=1e-4)
    model.train()(**training).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.eval().save_pretrained(tmp_path)
    assert torch.equal(run(AutoModel.from_pretrained(tmp_path).eval(), batch).logits, run(model, batch).logits)


def test_resized_embeddings_are_saved(processor, tmp_path: Path) -> None:
    model = tiny_model()
    model.resize_token_embeddings(model.config.language_model_config.vocab_size + 7)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert torch.equal(run(loaded, processor(**rows())).logits, run(model, processor(**rows())).logits)


def test_clips_give_what_cached_features_give(tiny_tokenizer, tmp_path: Path) -> None:
    """Raw path: waveforms and frames through the encoder that the model owns."""
    from hf_mmintent.modeling.modeling_media_encoder import MediaEncoderModel

    encoder = MediaEncoderModel(MediaEncoderConfig(num_mel_bins=AUDIO, grid_size=4, image_size=16)).eval()
    video = {"video_connector_config": connector_fields(encoder_hidden_size=16)["video_connector_config"]}
    model = tiny_model(encoder_config=encoder.config, video_feature_size=16, **video)
    processor = tiny_processor(tiny_tokenizer, config=model.config)
    generator = torch.Generator().manual_seed(0)
    waves = [torch.randn(4000, generator=generator).numpy() * 0.1, None]
    frames = [torch.randint(0, 255, (5, 16, 16, 3), generator=generator, dtype=torch.uint8).numpy()] * 2
    raw = processor(text=["hello", None], audio=waves, video=frames)
    made = encoder(**{name: raw[name] for name in raw if name.startswith(("input_values", "pixel_values"))})
    features = {
        f"{name}_features": [
            values[mask.bool()].numpy() if mask.any() else None
            for values, mask in zip(made[f"{name}_features"], made[f"{name}_attention_mask"])
        ]
        for name in ("audio", "video")
    }
    cached = processor(text=["hello", None], **features)
    assert torch.equal(raw["input_ids"], cached["input_ids"])
    torch.testing.assert_close(run(model, raw).logits, run(model, cached).logits)
    assert model.generate(**raw, max_new_tokens=2).shape[0] == 2


def test_patch_grids_are_pooled_over_time_and_space(tiny_tokenizer) -> None:
    model = tiny_model(visual_tokens="spatiotemporal", num_spatial_tokens=4)
    processor = tiny_processor(tiny_tokenizer, config=model.config)
    grid = torch.randn(3, 4, VIDEO).numpy()
    batch = processor(text=["hello"], video_features=[grid])
    assert batch["video_features"].shape == (1, 7, VIDEO)
    torch.testing.assert_close(batch["video_features"][0, :4], torch.tensor(grid.mean(0)))
    torch.testing.assert_close(batch["video_features"][0, 4:], torch.tensor(grid.mean(1)))
    assert model.video_tokens.segments.weight.shape == (2, VIDEO)
    assert torch.isfinite(run(model, batch).logits).all()
    with pytest.raises(ValueError, match="num_spatial_tokens"):
        processor(text=["hello"], video_features=[grid[:, 0]])


def test_shared_connectors(processor) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match="width 8 but `audio_feature_size` is 6"):
        tiny_config(share_connectors=True)
    model = tiny_model(share_connectors=True, audio_feature_size=VIDEO, **connector_fields(encoder_hidden_size=VIDEO))
    assert model.audio_connector is None and model.connector("audio") is model.video_connector
    shared = tiny_processor(config=model.config, use_captions=False, align_subtitles=False)
    values = {name: rows()[name] for name in ("text", "video_features")}
    assert torch.isfinite(run(model, shared(**values, audio_features=values["video_features"])).logits).all()


def test_config_errors() -> None:
    with pytest.raises(ValueError, match=r"no field `emotion_name`.*Did you mean `emotion_names`"):
        tiny_config(emotion_name=("a", "b"))
    with pytest.raises(StrictDataclassClassValidationError, match="at least two different"):
        tiny_config(intent_names=("a", "A"))
    with pytest.raises(StrictDataclassClassValidationError, match="0 or more"):
        tiny_config(lm_loss_weight=-1.0)
    with pytest.raises(StrictDataclassClassValidationError, match="are both 7"):
        tiny_config(video_token_id=7, audio_token_id=7)


def test_ablations_of_the_specification_build() -> None:
    release = {
        "visual_tokens": "frame",
        "audio_conv_layers": 0,
        "answer_format": "sentence",
        "tca_loss_weight": 0.0,
        "use_classification_heads": False,
    }
    model = tiny_model(**release)
    assert model.emotion_head is None and model.alignment is None and model.text_model is None
    plain = tiny_model(**connector_fields(num_caption_tokens=0, num_learned_queries=6))
    assert plain.config.num_tokens("video") == 6 and plain.config.num_caption_tokens("video") == 0


def test_fresh_process_gives_the_same_answer(processor, tmp_path: Path) -> None:
    model, batch = tiny_model(), processor(**rows())
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    torch.save(dict(batch), tmp_path / "batch.pt")
    code = (
        "import sys, torch, hf_mmintent\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        "folder = sys.argv[1]\n"
        "model = AutoModelForImageTextToText.from_pretrained(folder).eval()\n"
        "batch = torch.load(folder + '/batch.pt')\n"
        "print(model.generate(**batch, max_new_tokens=5).tolist())\n"
        "print(AutoProcessor.from_pretrained(folder)(text=['hello'])['input_ids'].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answers, prompt = done.stdout.strip().splitlines()[-2:]
    assert answers == str(model.generate(**batch, max_new_tokens=5).tolist())
    assert prompt == str(processor(text=["hello"])["input_ids"].tolist())
