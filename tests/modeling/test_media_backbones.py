"""Pretrained backbones of the media encoder: layers, pooling, pieces of long sound, batches, types, presets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    CLIPVisionModel,
    DeiTConfig,
    DeiTModel,
    HubertModel,
    Wav2Vec2FeatureExtractor,
    WhisperModel,
)

from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.media_chunks import Striding, cut_clip, group_pieces
from hf_mmintent.modeling.media_presets import MEDIA_PRESETS
from hf_mmintent.modeling.modeling_media_encoder import MediaEncoderModel
from hf_mmintent.modeling.modeling_mvcl_daf import MvclDafForSequenceClassification
from hf_mmintent.modeling.processing_media import MediaSettings, prepare_media
from hf_mmintent.modeling.processing_mvcl_daf import MvclDafProcessor
from tests.modeling.media_files import write_media
from tests.modeling.test_modeling_media_encoder import (
    IMAGE,
    SPEECH,
    TOWER,
    WHISPER,
    make_model,
    run,
    sample,
    save_part,
)
from tests.modeling.testers import MvclDafTester, tiny_bert

HUBERT = {"model_type": "hubert", **SPEECH, "feat_extract_norm": "layer", "num_hidden_layers": 4}


def speech_encoder(fields: dict, **options: Any) -> MediaEncoderModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**fields)
    return MediaEncoderModel(
        MediaEncoderConfig(audio_front_end="backbone", audio_config=config, video_front_end=None, **options)
    ).eval()


def image_encoder(config: Any, **options: Any) -> MediaEncoderModel:
    torch.manual_seed(0)
    return MediaEncoderModel(
        MediaEncoderConfig(
            video_front_end="backbone", video_config=config, image_size=32, audio_front_end=None, **options
        )
    ).eval()


# ---- long sound ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.31, 0.5, 1.0, 2.345])
def test_pieces_hold_every_state_once(seconds):
    config = AutoConfig.for_model("wav2vec2")
    strides, samples = Striding(config), round(16000 * seconds)
    assert (strides.step, strides.window) == (320, 400) and strides.states(160000) == 499
    wave = torch.randn(1, 1, samples)

    def states(part: torch.Tensor) -> torch.Tensor:
        for kernel, stride in strides.layers:
            part = torch.nn.functional.conv1d(part, torch.ones(1, 1, kernel) / kernel, stride=stride)
        return part[0, 0]

    pieces = cut_clip(0, samples, 4800, 640, strides)
    assert all(piece.length <= 4800 for piece in pieces) and (len(pieces) > 1) == (samples > 4800)
    parts = [states(wave[..., p.start : p.stop])[p.first : p.first + p.count] for p in pieces]
    torch.testing.assert_close(torch.cat(parts), states(wave))
    inner = [piece for piece in pieces[1:-2] if piece]
    assert all(piece.first == 2 and strides.states(piece.length) >= piece.first + piece.count + 2 for piece in inner)


def test_context_makes_up_for_the_cuts():
    """Without attention a state sees eight neighbours: with that much context, pieces give what the whole clip gives."""
    fields = {**HUBERT, "num_hidden_layers": 0}
    wave = sample("audio", 40000)[None]
    whole = speech_encoder(fields, audio_chunk_seconds=None)(wave).audio_features
    context = speech_encoder(fields, audio_chunk_seconds=0.6, audio_overlap_seconds=0.16)(wave).audio_features
    torch.testing.assert_close(context, whole, atol=1e-5, rtol=1e-5)
    bare = speech_encoder(fields, audio_chunk_seconds=0.6, audio_overlap_seconds=0.0)(wave).audio_features
    assert bare.shape == whole.shape and (bare - whole).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["layer", "group", "whisper"])
def test_features_do_not_depend_on_how_much_runs_at_once(name):
    fields = {"model_type": "whisper", **WHISPER} if name == "whisper" else {**HUBERT, "feat_extract_norm": name}
    clips = [sample("audio", length, seed) for seed, length in enumerate((40000, 15500, 300, 16000, 39000))]
    options = {"audio_chunk_seconds": 1.0, "audio_overlap_seconds": 0.2, "normalize_waveform": True}
    found = []
    for seconds in (0.001, 2.5, 1000.0):
        model = speech_encoder(fields, audio_seconds_per_call=seconds, **options)
        calls: list[int] = []
        model.audio_front_end.encoder.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        found.append((*run(model, "audio", clips), len(calls)))
    assert found[0][2] > found[1][2] > found[2][2]
    for features, mask, _ in found[1:]:
        torch.testing.assert_close(features, found[0][0], atol=1e-5, rtol=1e-5)
        assert torch.equal(mask, found[0][1])
    assert found[0][1].sum(1).tolist()[2] == 0  # shorter than a window


def test_similar_clips_share_a_call_only_where_padding_is_masked():
    clips = [sample("audio", length, seed) for seed, length in enumerate((16000, 15500, 15000, 14000))]
    for name, expected in (("layer", 1), ("group", 4)):
        model = speech_encoder({**HUBERT, "feat_extract_norm": name})
        calls: list[int] = []
        model.audio_front_end.encoder.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        together, mask = run(model, "audio", clips)
        assert len(calls) == expected
        for row, clip in enumerate(clips):
            alone = run(model, "audio", [clip])[0][0]
            assert int(mask[row].sum()) == len(alone)
            torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=1e-5)
    whisper = speech_encoder({"model_type": "whisper", **WHISPER})
    calls = []
    whisper.audio_front_end.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    run(whisper, "audio", [*clips, sample("audio", 4000)])
    assert len(calls) == 1  # windows are of one length


def test_pictures_of_a_call():
    """On a CPU so many that they stay in its caches, in training as configured: there a call may be a batch of statistics."""
    config = AutoConfig.for_model("clip_vision_model", **TOWER, **IMAGE)
    encoder = image_encoder(config, video_pooling="mean", frames_per_chunk=500)  # of 32 × 32
    calls: list[int] = []
    front_end = encoder.video_front_end
    front_end.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    frames = torch.randn(1, 200 * torch.get_num_threads(), 3, 32, 32)
    whole = encoder(pixel_values=frames).video_features
    assert calls == [196 * torch.get_num_threads(), 4 * torch.get_num_threads()]
    front_end.train()
    assert front_end.frames_per_call(torch.device("cpu")) == 500 == front_end.frames_per_call(torch.device("cuda"))
    front_end.eval()
    encoder.config.frames_per_chunk = 7
    torch.testing.assert_close(encoder(pixel_values=frames).video_features, whole, atol=1e-5, rtol=1e-5)
    assert max(calls[2:]) == 7


def test_groups_respect_the_budget():
    strides = Striding(AutoConfig.for_model("wav2vec2"))
    pieces = [cut_clip(row, length, 10**9, 0, strides)[0] for row, length in enumerate((900, 1000, 500, 990, 2000))]
    groups = group_pieces(pieces, 2000, lambda longer, shorter: shorter >= 0.8 * longer)
    assert [[piece.row for piece in group] for group in groups] == [[4], [1, 3], [0], [2]]


# ---- layers and pooling ----------------------------------------------------------------------------------------------


def test_mean_of_the_last_four_layers():
    model = speech_encoder(HUBERT, audio_layers=(-4, -3, -2, -1))
    wave = sample("audio", 8000)[None]
    hubert = HubertModel(AutoConfig.for_model(**HUBERT)).eval()
    hubert.load_state_dict(model.audio_front_end.encoder.state_dict())
    with torch.no_grad():
        states = hubert(wave, output_hidden_states=True).hidden_states
    expected = (states[1] + states[2] + states[3] + states[4]) / 4
    torch.testing.assert_close(model(wave).audio_features, expected, atol=1e-6, rtol=1e-5)


def test_steps_of_several_states():
    wave = sample("audio", 16000)[None]
    states = speech_encoder(HUBERT)(wave).audio_features[0]
    stacked = speech_encoder(HUBERT, frames_per_step=5, step_reduction="stack")
    assert stacked.config.audio_feature_size == 80
    torch.testing.assert_close(stacked(wave).audio_features[0, 1], states[5:10].flatten())
    mean = speech_encoder(HUBERT, frames_per_step=5)(wave)
    torch.testing.assert_close(mean.audio_features[0, 1], states[5:10].mean(0))
    assert mean.audio_features.shape[1] == -(-len(states) // 5)


def test_spatiotemporal_pooling_of_a_patch_grid():
    """P patches averaged over the frames, then T frames averaged over the patches, of the last layer but one."""
    config = AutoConfig.for_model("clip_vision_model", **{**TOWER, "num_hidden_layers": 3}, **IMAGE)
    model = image_encoder(config, video_pooling="spatiotemporal", video_layers=(-2,), frames_per_chunk=2)
    tower = CLIPVisionModel(config).eval()
    tower.load_state_dict(model.video_front_end.encoder.state_dict())
    clips = [sample("video", length, seed) for seed, length in enumerate((5, 3))]
    found, mask = run(model, "video", [clips[0], None, clips[1]])
    assert found.shape == (3, 16 + 5, 16) and mask.sum(1).tolist() == [21, 0, 19]
    for row, clip in ((0, clips[0]), (2, clips[1])):
        with torch.no_grad():
            grid = tower(clip, output_hidden_states=True).hidden_states[-2][:, 1:]  # (T, 16, D)
        expected = torch.cat([grid.mean(0), grid.mean(1)])
        torch.testing.assert_close(found[row, : len(expected)], expected, atol=1e-6, rtol=1e-5)
    everything, mask = run(image_encoder(config, video_pooling="tokens", video_layers=(-2,)), "video", clips)
    assert mask.sum(1).tolist() == [80, 48]
    with torch.no_grad():
        grid = tower(clips[1], output_hidden_states=True).hidden_states[-2][:, 1:]
    torch.testing.assert_close(everything[1, :48], grid.flatten(0, 1), atol=1e-6, rtol=1e-5)


def test_class_tokens_and_maps_of_convolutions():
    frames = sample("video", 2)
    deit = DeiTConfig(**TOWER, **IMAGE)  # a class and a distillation token
    model = image_encoder(deit, video_pooling="tokens")
    twin = DeiTModel(deit).eval()
    twin.load_state_dict(model.video_front_end.encoder.state_dict())
    with torch.no_grad():
        expected = twin(frames).last_hidden_state[:, 2:].flatten(0, 1)
    torch.testing.assert_close(run(model, "video", [frames])[0][0], expected, atol=1e-6, rtol=1e-5)
    stages = {"embedding_size": 8, "hidden_sizes": (8, 16), "depths": (1, 1)}
    resnet = image_encoder(AutoConfig.for_model("resnet", **stages), video_pooling="spatiotemporal")
    swin = {"embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2), "window_size": 2, **IMAGE}
    for encoder, patches in (
        (resnet, 16),
        (image_encoder(AutoConfig.for_model("swin", **swin), video_pooling="spatiotemporal"), 4),
    ):
        assert run(encoder, "video", [frames])[0].shape == (1, patches + 2, 16)


def test_frames_spread_over_the_clip():
    frames = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    settings = MediaSettings(image_size=4, image_mean=(0, 0, 0), image_std=(1, 1, 1), num_frames=4)
    values = prepare_media(video=[frames, frames[:3], None], settings=settings)
    assert values["pixel_values_mask"].sum(1).tolist() == [4, 3, 0]
    shown = (values["pixel_values"][:, :, 0, 0, 0] * 255).round().astype(int)
    assert shown[0].tolist() == [2, 7, 12, 17] and shown[1, :3].tolist() == [0, 1, 2]
    config = MediaEncoderConfig(num_frames=4)
    assert MediaSettings.from_config(config).to_dict()["num_frames"] == 4


def test_rates_of_features():
    """Steps per second: of formulas, of an encoder's strides, of Whisper; unknown where steps do not follow the time."""
    plain = MediaEncoderModel(MediaEncoderConfig(frame_rate=5.0, frames_per_step=2))
    assert plain.feature_rate("audio") == 25.0 and plain.feature_rate("video") == 5.0
    waves = speech_encoder({"model_type": "wav2vec2", **SPEECH})
    second = {"input_values": torch.zeros(1, 16000)}
    steps = waves(**second).audio_features.shape[1]
    assert waves.feature_rate("audio") == pytest.approx(steps, rel=0.1) and waves.feature_rate("video") is None
    whisper = speech_encoder({"model_type": "whisper", **WHISPER})
    assert whisper.feature_rate("audio") == 50.0 == whisper(**second).audio_features.shape[1]
    adapted = speech_encoder({"model_type": "wav2vec2", **SPEECH, "add_adapter": True})
    assert adapted.feature_rate("audio") is None
    tower = AutoConfig.for_model("clip_vision_model", **TOWER)
    assert image_encoder(tower, video_pooling="mean").feature_rate("video") == 8.0
    assert image_encoder(tower, video_pooling="tokens").feature_rate("video") is None
    assert image_encoder(tower, video_pooling="mean", num_frames=4).feature_rate("video") is None


# ---- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype, tmp_path):
    parts = {"audio": "hubert", "video": "clip"}
    for modality, name in parts.items():
        exact = make_model(modality, name)
        length = {"audio": 8000, "video": 3}[modality]
        expected = run(exact, modality, [sample(modality, length)])[0]
        computed = make_model(modality, name, compute_dtype=dtype)
        found = run(computed, modality, [sample(modality, length)])[0]
        assert found.dtype == torch.float32 and not torch.equal(found, expected)
        torch.testing.assert_close(found, expected, atol=0.1, rtol=0.1)
        exact.save_pretrained(tmp_path / name)
        stored = MediaEncoderModel.from_pretrained(tmp_path / name, dtype=getattr(torch, dtype))
        halved = run(stored, modality, [sample(modality, length)])[0]
        assert halved.dtype == getattr(torch, dtype)
        torch.testing.assert_close(halved.float(), expected, atol=0.1, rtol=0.1)
        full = make_model(modality, name, compute_dtype="float32")
        with torch.autocast("cpu", dtype=torch.bfloat16):  # a trainer's mixed precision
            kept = run(full, modality, [sample(modality, length)])[0]
        torch.testing.assert_close(kept, expected, atol=1e-6, rtol=1e-5)


# ---- presets and pretrained parts ------------------------------------------------------------------------------------


def tiny_parts(folder: Path) -> dict[str, str]:
    """Checkpoints with the preprocessor files of real ones."""
    speech = HubertModel(AutoConfig.for_model(**HUBERT))
    speech.save_pretrained(folder / "speech")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder / "speech")
    images = CLIPVisionModel(AutoConfig.for_model("clip_vision_model", **{**TOWER, "num_hidden_layers": 2}, **IMAGE))
    sizes = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": 32}}
    statistics = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    return {
        "audio": str(folder / "speech"),
        "video": save_part(images, {**sizes, **statistics}, folder / "images"),
    }


def test_presets(tmp_path, monkeypatch):
    parts = tiny_parts(tmp_path)
    model = MediaEncoderModel.from_preset("xmei", **parts)
    config = model.config
    assert config.audio_layers == (-4, -3, -2, -1) and config.video_layers == (-2,) and config.num_frames == 8
    assert config.normalize_waveform and config.image_crop and config.video_pooling == "spatiotemporal"
    assert run(model, "video", [sample("video", 8)])[0].shape == (1, 16 + 8, 16)
    deaf = MediaEncoderModel.from_preset("xmei", **parts, audio_front_end=None, num_frames=4)
    assert deaf.config.audio_feature_size is None and deaf.config.audio_layers is None and deaf.config.num_frames == 4
    asked: dict[str, Any] = {}
    monkeypatch.setattr(MediaEncoderModel, "from_backbones", classmethod(lambda cls, **given: asked.update(given)))
    MediaEncoderModel.from_preset("mintrec", video_front_end=None)
    assert asked == {
        "audio": "facebook/wav2vec2-base-960h",
        "video": None,
        "video_front_end": None,
        "frame_rate": 25.0,
    }
    with pytest.raises(ValueError, match=r"'mintrec', 'mintrec2', 'xmei'"):
        MediaEncoderModel.from_preset("mintrec3")


# Published shapes of the presets' parts.
SIZES: dict[str, dict[str, Any]] = {
    "mintrec": {
        "audio": {"model_type": "wav2vec2"},
        "video": {"model_type": "resnet"},
        "widths": (768, 2048),
    },
    "mintrec2": {
        "audio": {"model_type": "wavlm"},
        "video": {"model_type": "swin", "embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
        "widths": (768, 768),
    },
    "xmei": {
        "audio": {
            "model_type": "hubert",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "feat_extract_norm": "layer",
        },
        "video": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "patch_size": 14,
        },
        "widths": (1024, 1024),
    },
}


@pytest.mark.parametrize("name", sorted(MEDIA_PRESETS))
def test_presets_have_the_documented_widths(name):
    preset, sizes = MEDIA_PRESETS[name], SIZES[name]
    config = MediaEncoderConfig(
        audio_front_end="backbone",
        video_front_end="backbone",
        audio_config=AutoConfig.for_model(**sizes["audio"]),
        video_config=AutoConfig.for_model(**sizes["video"]),
        image_size=224,
        **preset.fields,
    )
    assert (config.audio_feature_size, config.video_feature_size) == sizes["widths"]
    assert 16000 / Striding(config.audio_config).step == 50
    with torch.device("meta"):
        AutoModel.from_config(config.video_config)
    if name == "xmei":
        assert (224 // config.video_config.patch_size) ** 2 + config.num_frames == 264


def test_weights_of_another_type(tmp_path):
    model = MediaEncoderModel.from_backbones(**tiny_parts(tmp_path), dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16 and not model.training
    assert run(model, "audio", [sample("audio", 4000)])[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"video_layers": (-2,)}, "`video_pooling` is 'pooler'"),
        ({"video_layers": (-9,), "video_pooling": "mean"}, r"`video_layers` is \[-9\].*0 to 1"),
        ({"video_layers": (), "video_pooling": "mean"}, "at least one"),
        ({"audio_layers": (7,)}, r"`audio_layers` is \[7\].*0 to 4"),
        ({"audio_chunk_seconds": 2.0, "audio_overlap_seconds": 1.0}, "longer than its context"),
        ({"num_frames": 0}, "num_frames"),
        ({"compute_dtype": "int8"}, "compute_dtype"),
    ],
)
def test_contradictions_are_refused(fields, message):
    parts = {
        "audio_front_end": "backbone",
        "audio_config": AutoConfig.for_model(**HUBERT),
        "video_front_end": "backbone",
        "video_config": AutoConfig.for_model("clip_vision_model", **TOWER, **IMAGE),
    }
    with pytest.raises(Exception, match=message):
        MediaEncoderConfig(**{**parts, **fields})


def test_layers_of_different_sizes_are_refused():
    swin = AutoConfig.for_model("swin", embed_dim=8, depths=(1, 1), num_heads=(2, 2), window_size=2, **IMAGE)
    with pytest.raises(Exception, match="have different sizes"):
        image_encoder(swin, video_layers=(-1,), video_pooling="mean")


def test_a_width_that_the_config_does_not_tell_is_an_error():
    fields = {"hidden_sizes": [8, 8, 16], "neck_hidden_sizes": [8, 8, 8, 8, 8, 16, 24], "num_attention_heads": 2}
    model = image_encoder(AutoConfig.for_model("mobilevit", **fields, image_size=32), video_pooling="mean")
    with pytest.raises(ValueError, match="states of width 24 but its configuration states 16"):
        run(model, "video", [sample("video", 1)])


# ---- inside a classifier ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media") / "clip.mp4", seconds=1.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_clip_through_one_checkpoint(tmp_path, clip_path, tiny_tokenizer, dtype):
    torch.manual_seed(0)
    encoder = MediaEncoderModel.from_preset("xmei", **tiny_parts(tmp_path), num_frames=3)
    tokens = {f"{name}_token_id": getattr(tiny_tokenizer, f"{name}_token_id") for name in ("cls", "sep", "mask", "pad")}
    config = MvclDafTester().config(
        text_config=tiny_bert(vocab_size=len(tiny_tokenizer)),
        encoder_config=encoder.config,
        audio_feature_size=16,
        video_feature_size=16,
        **tokens,
    )
    model = MvclDafForSequenceClassification(config)
    model.backbone_owner().media_encoder.load_state_dict(encoder.state_dict())
    model.save_pretrained(tmp_path / "model")
    loaded = MvclDafForSequenceClassification.from_pretrained(tmp_path / "model", dtype=dtype)
    processor = MvclDafProcessor.from_config(loaded.config, tiny_tokenizer)
    inputs = processor(text=["hello"], audio=[clip_path], video=[clip_path])
    assert inputs["pixel_values"].shape[1] == 3
    with torch.no_grad():
        from_clip = loaded(**inputs).logits
        made = encoder.to(dtype).encode_clip(clip_path)
        features = {name: made[name] for name in made}
        words = {name: inputs[name] for name in inputs if name in ("input_ids", "attention_mask", "token_type_ids")}
        torch.testing.assert_close(loaded(**words, **features).logits, from_clip, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(from_clip).all() and made.video_features.shape == (1, 16 + 3, 16)
    loaded.train()
    (loaded(**inputs).logits.float() * torch.tensor([1.0, -2.0, 0.5][: from_clip.shape[1]])).sum().backward()
    frozen = loaded.backbone_owner().media_encoder
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in frozen.parameters())
    assert any(parameter.grad is not None for parameter in loaded.parameters())


# ---- real weights ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_backbones(local_models, clip_path):
    """Whisper's encoder and an EfficientNet give what the library gives, whatever else is in the batch."""
    names = {"audio": local_models / "whisper-tiny-en", "video": local_models / "efficientnet-lite0"}
    if missing := [str(path) for path in names.values() if not path.is_dir()]:
        pytest.skip(f"absent: {', '.join(missing)}")
    model = MediaEncoderModel.from_backbones(**{name: str(path) for name, path in names.items()})
    assert (model.config.audio_feature_size, model.config.video_feature_size) == (384, 1280)
    arrays = prepare_media(
        audio=[clip_path, None, clip_path],
        video=[clip_path, clip_path, None],
        settings=MediaSettings.from_config(model.config),
        end=[None, 0.5, 0.8],
    )
    batch = model(**{name: torch.from_numpy(value) for name, value in arrays.items()})
    alone = model.encode_clip(clip_path)
    for name in ("audio_features", "video_features"):
        scale = float(alone[name].abs().max())
        steps = alone[name].shape[1]
        torch.testing.assert_close(batch[name][0, :steps], alone[name][0], atol=1e-5 * scale, rtol=1e-4)
    whisper = WhisperModel.from_pretrained(names["audio"]).encoder.eval()
    extractor = AutoFeatureExtractor.from_pretrained(names["audio"])
    wave = arrays["input_values"][0]
    mel = extractor(wave, sampling_rate=16000, return_tensors="pt").input_features
    images = AutoModel.from_pretrained(names["video"]).eval()
    with torch.no_grad():
        states = whisper(mel).last_hidden_state[0]
        pooled = images(torch.from_numpy(arrays["pixel_values"][0])).pooler_output
    torch.testing.assert_close(alone.audio_features[0], states[: alone.audio_features.shape[1]], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(alone.video_features[0], pooled, atol=1e-4, rtol=1e-4)
