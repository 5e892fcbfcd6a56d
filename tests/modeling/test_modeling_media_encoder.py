"""The media encoder: each sample by itself, whatever the front end; and the preparation of its inputs."""

import json
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPVisionModel,
    EfficientNetModel,
    PreTrainedConfig,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperFeatureExtractor,
    WhisperModel,
)

from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.media_decoding import Clip, MediaError, decode_clip
from hf_mmintent.modeling.media_front_ends import whisper_mel
from hf_mmintent.modeling.modeling_media_encoder import MediaEncoderModel
from hf_mmintent.modeling.processing_media import MediaSettings, prepare_media
from tests.hub_stub import BLOCK_PACKAGE
from tests.modeling.media_files import index_of, tone, write_media

SPEECH = {
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (160, 2),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
WHISPER = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_source_positions": 30,  # windows of 0.6 s
    "num_mel_bins": 80,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
IMAGE = {"image_size": 32, "patch_size": 8}
AUDIO_PARTS: dict[str, tuple[dict, dict]] = {
    "log_mel": ({}, {}),
    "log_mel mean": ({}, {"frames_per_step": 3}),
    "log_mel stack": ({}, {"frames_per_step": 2, "step_reduction": "stack"}),
    # group normalisation over time: the case in which batch padding changes every frame
    "wav2vec2": ({"model_type": "wav2vec2", **SPEECH, "feat_extract_norm": "group"}, {"normalize_waveform": True}),
    "hubert": ({"model_type": "hubert", **SPEECH, "feat_extract_norm": "layer"}, {"audio_layers": (-2, -1)}),
    "wavlm": ({"model_type": "wavlm", **SPEECH}, {}),
    "hubert in pieces": (
        {"model_type": "hubert", **SPEECH, "feat_extract_norm": "layer"},
        {"audio_chunk_seconds": 0.4, "audio_overlap_seconds": 0.1, "frames_per_step": 2},
    ),
    "whisper": ({"model_type": "whisper", **WHISPER}, {}),
}
VIDEO_PARTS: dict[str, tuple[dict, dict]] = {
    "pixel_grid": ({}, {"grid_size": 4}),
    "pixel_grid colour": ({}, {"grid_size": 4, "grayscale": False}),
    "pixel_grid difference": ({}, {"grid_size": 4, "subtract_clip_mean": True}),
    "clip": ({"model_type": "clip_vision_model", **TOWER, **IMAGE}, {}),
    "clip spatiotemporal": (
        {"model_type": "clip_vision_model", **(TOWER | {"num_hidden_layers": 2}), **IMAGE},
        {"video_pooling": "spatiotemporal", "video_layers": (-2,), "frames_per_chunk": 2},
    ),
    "vit": ({"model_type": "vit", **TOWER, **IMAGE}, {"video_pooling": "first"}),
    "vit tokens": ({"model_type": "vit", **TOWER, **IMAGE}, {"video_pooling": "tokens"}),
    "swin": (
        {"model_type": "swin", "embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2), "window_size": 2, **IMAGE},
        {},
    ),
    "resnet": ({"model_type": "resnet", "embedding_size": 8, "hidden_sizes": (8, 16), "depths": (1, 1)}, {}),
    "efficientnet": (
        {
            "model_type": "efficientnet",
            "width_coefficient": 0.25,
            "depth_coefficient": 0.1,
            "hidden_dim": 320,
        },
        {"video_pooling": "mean", "frames_per_chunk": 3},
    ),
}
ALL = [("audio", name) for name in AUDIO_PARTS] + [("video", name) for name in VIDEO_PARTS]


def backbone(fields: dict) -> PreTrainedConfig | None:
    return AutoConfig.for_model(**fields) if fields else None


def make_config(audio: str = "log_mel", video: str = "pixel_grid", **fields) -> MediaEncoderConfig:
    (audio_fields, audio_options), (video_fields, video_options) = AUDIO_PARTS[audio], VIDEO_PARTS[video]
    return MediaEncoderConfig(
        audio_front_end="backbone" if audio_fields else "log_mel",
        video_front_end="backbone" if video_fields else "pixel_grid",
        audio_config=backbone(audio_fields),
        video_config=backbone(video_fields),
        image_size=32,
        **{**audio_options, **video_options, **fields},
    )


def make_model(modality: str, name: str, **fields) -> MediaEncoderModel:
    torch.manual_seed(0)
    model = MediaEncoderModel(make_config(**{modality: name}, **fields)).eval()
    for module in model.modules():  # drawn so small that EfficientNet leaves nothing after its many layers
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.weight, 1.3)
    return model


def sample(modality: str, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (length,) if modality == "audio" else (length, 3, 32, 32)
    return torch.randn(shape, generator=generator) * (0.1 if modality == "audio" else 1.0)


LENGTHS = {"audio": (16000, 9000, 16000, 12345), "video": (5, 2, 5, 7)}


def run(model: MediaEncoderModel, modality: str, samples: list, extra: int = 0, fill: float = 0.0):
    """Features and mask of a padded batch; a sample may be `None`."""
    name = "input_values" if modality == "audio" else "pixel_values"
    shape = next(item.shape[1:] for item in samples if item is not None)
    longest = max(len(item) for item in samples if item is not None) + extra
    values, mask = torch.full((len(samples), longest, *shape), fill), torch.zeros(len(samples), longest)
    for row, item in enumerate(samples):
        if item is not None:
            values[row, : len(item)] = item
            mask[row, : len(item)] = 1
    output = model(**{name: values, f"{name}_mask": mask})
    return output[f"{modality}_features"], output[f"{modality}_attention_mask"]


# ---- invariances, for every front end -------------------------------------------------------------------------------


@pytest.mark.parametrize(("modality", "name"), ALL)
def test_a_sample_does_not_depend_on_mates_order_or_padding(modality, name):
    model = make_model(modality, name)
    samples = [sample(modality, length, seed) for seed, length in enumerate(LENGTHS[modality])]
    alone = [run(model, modality, [item]) for item in samples]
    width = getattr(model.config, f"{modality}_feature_size")
    extra = {"audio": 7001, "video": 3}[modality]
    for batch, fill in [(samples, 0.0), (samples[::-1], float("nan")), ([samples[0], None, samples[3]], float("inf"))]:
        features, mask = run(model, modality, batch, extra, fill)
        assert features.shape[:2] == mask.shape and features.shape[2] == width
        assert torch.isfinite(features).all() and mask.dtype == torch.long
        assert (features[mask == 0] == 0).all()
        for row, item in enumerate(batch):
            if item is None:
                assert not mask[row].any()
                continue
            expected, valid = alone[next(i for i, other in enumerate(samples) if other is item)]
            steps = int(valid.sum())
            assert steps > 0 and int(mask[row].sum()) == steps and mask[row, :steps].all()
            scale = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(features[row, :steps], expected[0, :steps], atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize(("modality", "name"), ALL)
def test_a_sample_does_depend_on_its_own_values(modality, name):
    model = make_model(modality, name)
    length = LENGTHS[modality][0]
    first, second = (run(model, modality, [sample(modality, length, seed)])[0] for seed in (0, 1))
    assert (first - second).abs().max() > 1e-3


def plain(config: PreTrainedConfig) -> dict:
    """The fields of a config and its parts, without what saving adds."""
    skipped = ("dtype", "_name_or_path", "architectures", "transformers_version")
    fields = {name: value for name, value in config.to_dict().items() if name not in skipped}
    return {
        name: plain(getattr(config, name)) if isinstance(value, dict) and name.endswith("_config") else value
        for name, value in fields.items()
    }


@pytest.mark.parametrize(("modality", "name"), ALL)
def test_save_and_load(modality, name, tmp_path):
    model = make_model(modality, name)
    samples = [sample(modality, length, seed) for seed, length in enumerate(LENGTHS[modality])]
    model.save_pretrained(tmp_path)
    loaded, info = MediaEncoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert plain(loaded.config) == plain(model.config)
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    expected = run(model, modality, samples)
    scale = max(1.0, float(expected[0].abs().max()))  # kernels round differently for memory of another alignment
    torch.testing.assert_close(run(loaded, modality, samples), expected, atol=1e-6 * scale, rtol=1e-5)


@pytest.mark.parametrize(("modality", "name"), [item for item in ALL if "log" not in item[1] and "grid" not in item[1]])
def test_frozen_and_trained_backbones(modality, name):
    frozen = make_model(modality, name).train()
    assert frozen.training and not any(part.training for part in (frozen.audio_front_end, frozen.video_front_end))
    samples = [sample(modality, length, seed) for seed, length in enumerate(LENGTHS[modality])]
    assert not run(frozen, modality, samples)[0].requires_grad
    free = make_model(modality, name, freeze_backbones=False)
    torch.testing.assert_close(run(free, modality, samples), run(frozen, modality, samples), atol=1e-6, rtol=1e-5)
    run(free, modality, samples)[0].square().sum().backward()
    reached = [n for n, p in free.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(reached) > 5


def test_bf16_is_close(tmp_path):
    model = make_model("audio", "wav2vec2")
    model.save_pretrained(tmp_path)
    half = MediaEncoderModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    samples = [sample("audio", 8000)]
    close, exact = run(half, "audio", samples)[0], run(model, "audio", samples)[0]
    torch.testing.assert_close(close.float(), exact, atol=0.1, rtol=0.1)
    weightless = MediaEncoderModel(MediaEncoderConfig()).to(torch.bfloat16)
    assert weightless.dtype == torch.float32 and weightless.device.type == "cpu"
    assert run(weightless, "audio", samples)[0].dtype == torch.float32


# ---- the formulas ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 399, 400, 719, 720, 16000])
def test_a_window_is_valid_when_all_its_samples_are(length):
    model = make_model("audio", "log_mel")
    values, mask = torch.randn(1, 16300), (torch.arange(16300) < length).long()[None]
    output = model(values, mask)
    expected = [t * 320 + 400 <= length for t in range(output.audio_features.shape[1])]
    assert output.audio_attention_mask[0].tolist() == [int(valid) for valid in expected]


def test_log_mel_of_a_tone():
    config = MediaEncoderConfig(num_mel_bins=40)
    features = MediaEncoderModel(config)(torch.from_numpy(tone(1.0, 16000, 1000.0))[None]).audio_features[0]
    assert features.shape == (49, 40)
    spread = features.mean(0)
    centres = np.linspace(*(3 * f / 200 for f in (20, 1000)), 15)  # Slaney's scale is linear below 1 kHz
    assert abs(int(spread.argmax()) - (40 * 15 / _slaney_mel(8000)) * len(centres) / 15) < 2
    assert features.std(0)[spread.argmax()] < 0.1  # a steady tone
    silence = MediaEncoderModel(config)(torch.zeros(1, 16000)).audio_features
    expected = (np.log(1e-6) - config.mel_mean) / config.mel_std
    torch.testing.assert_close(silence, torch.full_like(silence, expected))


def _slaney_mel(frequency: float) -> float:
    return 15 + 27 * np.log(frequency / 1000) / np.log(6.4)


def test_steps_of_several_windows():
    wave = sample("audio", 5000)[None]
    plain = MediaEncoderModel(MediaEncoderConfig())(wave)
    windows = plain.audio_features[0]
    assert len(windows) == 15
    mean = MediaEncoderModel(MediaEncoderConfig(frames_per_step=4))(wave)
    expected = torch.stack([windows[i : i + 4].mean(0) for i in (0, 4, 8, 12)])  # the last step has three windows
    torch.testing.assert_close(mean.audio_features[0], expected)
    assert mean.audio_attention_mask.tolist() == [[1, 1, 1, 1]]
    stack = MediaEncoderModel(MediaEncoderConfig(frames_per_step=4, step_reduction="stack"))(wave)
    assert stack.audio_features.shape == (1, 4, 160)
    torch.testing.assert_close(stack.audio_features[0, 1], windows[4:8].flatten())
    assert stack.audio_attention_mask.tolist() == [[1, 1, 1, 0]]


def test_pixel_grid():
    frames = torch.zeros(1, 2, 3, 32, 32)
    frames[0, 0, 1, :8, 8:16] = 1.0  # green
    frames[0, 1] = 0.5
    config = make_config()
    cells = MediaEncoderModel(config)(pixel_values=frames).video_features[0].view(2, 4, 4)
    assert cells[0, 0, 1] == pytest.approx(0.587) and cells[0].sum() == pytest.approx(0.587)
    torch.testing.assert_close(cells[1], torch.full((4, 4), 0.5))
    config.subtract_clip_mean = True
    differences = MediaEncoderModel(config)(pixel_values=frames).video_features[0]
    torch.testing.assert_close(differences, (cells - cells.mean(0)).flatten(1))


def test_whisper_windows_equal_the_librarys():
    wave = sample("audio", 20000).numpy()
    extract = WhisperFeatureExtractor(chunk_length=3)
    expected = extract(wave, sampling_rate=16000, return_tensors="pt").input_features
    found = whisper_mel(torch.nn.functional.pad(torch.from_numpy(wave)[None], (0, 48000 - 20000)), 80)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_long_sound_takes_several_whisper_windows():
    model = make_model("audio", "whisper")
    span = 2 * 30 * 160
    wave = sample("audio", 2 * span + 1000)
    features, mask = run(model, "audio", [wave])
    assert mask.sum() == 30 + 30 + 4  # 1000 samples are 3.1 steps of 320
    second, _ = run(model, "audio", [wave[span : 2 * span]])
    torch.testing.assert_close(features[:, 30:60], second)


# ---- pretrained parts -----------------------------------------------------------------------------------------------


def save_part(model, preprocessor: dict, folder):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return str(folder)


def test_from_backbones_equals_the_parts(tmp_path):
    torch.manual_seed(0)
    speech = Wav2Vec2Model(backbone(AUDIO_PARTS["wav2vec2"][0])).eval()
    images = CLIPVisionModel(backbone(VIDEO_PARTS["clip"][0])).eval()
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    extractor.save_pretrained(tmp_path / "speech")
    speech.save_pretrained(tmp_path / "speech")
    statistics = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    sizes = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": 32}}
    path = save_part(images, {**statistics, **sizes}, tmp_path / "images")
    model = MediaEncoderModel.from_backbones(audio=str(tmp_path / "speech"), video=path, frame_rate=5.0)
    config = model.config
    assert config.normalize_waveform and config.image_shape == (32, 32) and config.image_crop
    assert config.image_mean == (0.4, 0.5, 0.6) and config.frame_rate == 5.0
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    wave, frames = sample("audio", 16000), sample("video", 3)
    output = model(wave[None], None, frames[None])
    prepared = extractor(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        torch.testing.assert_close(output.audio_features, speech(prepared).last_hidden_state, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output.video_features[0], images(frames).pooler_output, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "whole")
    again = MediaEncoderModel.from_pretrained(tmp_path / "whole")(wave[None], None, frames[None])
    torch.testing.assert_close(again.to_tuple(), output.to_tuple(), atol=0, rtol=0)


def test_from_backbones_takes_whispers_encoder(tmp_path):
    torch.manual_seed(0)
    whisper = WhisperModel(backbone(AUDIO_PARTS["whisper"][0])).eval()
    path = save_part(whisper, {"sampling_rate": 16000}, tmp_path)
    model = MediaEncoderModel.from_backbones(audio=path, video_front_end=None)
    assert not any("decoder" in name for name, _ in model.named_parameters())
    wave = sample("audio", 8000)
    mel = whisper_mel(torch.nn.functional.pad(wave[None], (0, 1600)), 80)
    with torch.no_grad():
        expected = whisper.encoder(mel).last_hidden_state[:, :25]
    torch.testing.assert_close(model(wave[None]).audio_features, expected, atol=1e-5, rtol=1e-5)
    assert model.config.video_feature_size is None


def test_from_backbones_says_what_is_missing(tmp_path):
    images = EfficientNetModel(backbone(VIDEO_PARTS["efficientnet"][0]))
    path = save_part(images, {"do_resize": True, "size": {"height": 32, "width": 32}}, tmp_path)
    with pytest.raises(ValueError, match="image_mean, image_std: pass"):
        MediaEncoderModel.from_backbones(video=path)
    given = {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
    assert MediaEncoderModel.from_backbones(video=path, **given).config.image_shape == (32, 32)
    vit = AutoModel.from_config(backbone(VIDEO_PARTS["vit"][0]), add_pooling_layer=False)
    path = save_part(vit, {"size": 32, **{key: list(value) for key, value in given.items()}}, tmp_path / "vit")
    with pytest.raises(ValueError, match="no weights for its pooler"):
        MediaEncoderModel.from_backbones(video=path)
    assert MediaEncoderModel.from_backbones(video=path, video_pooling="mean").config.video_feature_size == 16


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_inputs_are_checked():
    model = make_model("audio", "log_mel")
    wave, frames = torch.zeros(2, 1000), torch.zeros(2, 3, 3, 32, 32)
    for inputs, message in [
        ({}, "both None"),
        (
            {"input_values": wave, "input_values_mask": torch.ones(2, 999)},
            r"\(2, 999\).*pass a mask of shape \(2, 1000\)",
        ),
        ({"pixel_values": frames, "pixel_values_mask": torch.ones(2, 2)}, r"pass a mask of shape \(2, 3\)"),
        ({"input_values": wave[None]}, "expected"),
        ({"pixel_values": frames[:, :, :1]}, "expected"),
        ({"input_values": wave, "pixel_values": frames[:1]}, "2 samples but `pixel_values` has 1"),
        ({"input_values": wave, "pixel_values_mask": torch.ones(2, 3)}, "without `pixel_values`"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(**inputs)
    with pytest.raises(ValueError, match="video_front_end"):
        MediaEncoderModel(MediaEncoderConfig(video_front_end=None))(pixel_values=frames)
    gaps = torch.ones(2, 1000)
    gaps[0, 0] = 0
    with pytest.raises(ValueError, match="gaps"):
        make_model("audio", "wav2vec2")(wave, gaps)


def test_config_is_checked():
    with pytest.raises(ValueError, match=r"no field `grid_sise`.*`grid_size`"):
        MediaEncoderConfig(grid_sise=3)
    for fields, message in [
        ({"audio_front_end": None, "video_front_end": None}, "both None"),
        ({"audio_front_end": "backbone"}, "`audio_config` is None"),
        ({"video_config": {"model_type": "vit"}}, "`video_front_end` is 'pixel_grid'"),
        ({"frame_rate": 0}, "frame_rate"),
        ({"mel_max_frequency": 9000}, "mel_max_frequency"),
        ({"image_std": (1.0, 0.0, 1.0)}, "image_std"),
        ({"image_mean": (1.0,)}, "image_mean"),
        ({"image_size": 8}, "grid_size"),
    ]:
        with pytest.raises(Exception, match=message):
            MediaEncoderConfig(**fields)


def test_config_takes_the_vision_tower_and_states_widths():
    config = MediaEncoderConfig(
        audio_front_end="backbone",
        audio_config={"model_type": "whisper", **WHISPER},
        video_front_end="backbone",
        video_config=AutoConfig.for_model("clip", vision_config={**TOWER, **IMAGE}),
    )
    assert config.video_config.model_type == "clip_vision_model"
    assert (config.audio_feature_size, config.video_feature_size) == (16, 16)
    assert MediaEncoderConfig().audio_feature_size == 40 and MediaEncoderConfig().video_feature_size == 256


# ---- files to arrays to features ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media") / "clip.mp4", seconds=2.0)


@pytest.fixture(scope="module")
def silent_path(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media") / "silent.mp4", seconds=1.0, audio=None)


def test_a_clip_alone_equals_the_clip_in_a_batch(clip_path, silent_path):
    """Features extracted one by one equal those of a batch with clips of other lengths and without sound."""
    model = make_model("audio", "wav2vec2")
    settings = MediaSettings.from_config(model.config)
    paths = [silent_path, clip_path]
    arrays = prepare_media(audio=paths, video=paths, settings=settings)
    assert arrays["input_values_mask"][0].sum() == 0
    assert arrays["pixel_values_mask"].sum(1).tolist() == [8, 16]
    batch = model(**{name: torch.from_numpy(value) for name, value in arrays.items()})
    decoded = decode_clip(clip_path, fps=8.0, size=32)
    for single in (model.encode_clip(clip_path), model.encode_clip(clip_path.read_bytes()), model.encode_clip(decoded)):
        for name in ("audio_features", "video_features"):
            steps = single[name].shape[1]
            torch.testing.assert_close(batch[name][1, :steps], single[name][0], atol=1e-5, rtol=1e-4)
    silent = model.encode_clip(silent_path)
    assert silent.audio_features is None and silent.video_features.shape == (1, 8, 16)
    with pytest.raises(ValueError, match=r"`frame_rate` is 8\.0"):
        model.encode_clip(decode_clip(clip_path, fps=4, size=32))


def test_prepare_media_arrays(clip_path):
    settings = MediaSettings(image_size=(16, 24), image_mean=(0.0, 0.5, 1.0), image_std=(1.0, 0.5, 0.25))
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    wave = tone(1.0, 16000)
    out = prepare_media(
        audio=[wave, None, {"array": tone(1.0, 48000), "sampling_rate": 48000}, (wave[:8000] * 32767).astype(np.int16)],
        video=[None, frames, list(frames[:1]), clip_path],
        settings=settings,
    )
    assert out["input_values"].shape == (4, 16000) and out["input_values"].dtype == np.float32
    assert out["input_values_mask"].sum(1).tolist() == [16000, 0, 16000, 8000]
    np.testing.assert_allclose(out["input_values"][2, 800:-800], wave[800:-800], atol=2e-3)
    np.testing.assert_allclose(out["input_values"][3, :8000], wave[:8000], atol=1e-4)
    assert out["pixel_values"].shape == (4, 16, 3, 16, 24) and out["pixel_values"].dtype == np.float32
    assert out["pixel_values_mask"].sum(1).tolist() == [0, 3, 1, 16]
    expected = (frames / 255 - np.array([0.0, 0.5, 1.0])) / np.array([1.0, 0.5, 0.25])
    np.testing.assert_allclose(out["pixel_values"][1, :3], expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert (out["pixel_values"][0] == 0).all() and (out["pixel_values"][1, 3:] == 0).all()


def test_prepare_media_leaves_out_what_no_sample_has(silent_path):
    assert prepare_media(audio=[None, None], video=None) == {}
    assert set(prepare_media(audio=[silent_path], video=[silent_path])) == {"pixel_values", "pixel_values_mask"}


def test_prepare_media_windows(clip_path):
    settings = MediaSettings(image_size=(32, 160), image_mean=(0, 0, 0), image_std=(1, 1, 1), max_clip_seconds=1.0)
    paths = [clip_path, str(clip_path), {"bytes": clip_path.read_bytes(), "path": None}]
    out = prepare_media(audio=paths, video=paths, settings=settings, start=[None, 0.5, 1.5], end=[0.25, None, 1.75])
    assert out["input_values_mask"].sum(1).tolist() == [4000, 16000, 4000]
    assert out["pixel_values_mask"].sum(1).tolist() == [2, 8, 2]
    pictures = (out["pixel_values"].transpose(0, 1, 3, 4, 2) * 255).round().astype(np.uint8)
    assert [index_of(pictures[row, 0]) for row in range(3)] == [0, 12, 37]
    wave = tone(2.0, 16000)
    part = prepare_media(audio=[wave], settings=settings, start=[0.5])["input_values"][0]
    np.testing.assert_array_equal(part, wave[8000:24000])


def test_one_source_is_opened_once(clip_path, silent_path, monkeypatch):
    opened = []
    original = av.open
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: opened.append(args[0]) or original(*args, **kwargs))
    prepare_media(audio=[clip_path], video=[clip_path])
    prepare_media(audio=[{"bytes": None, "path": str(clip_path)}], video=[{"bytes": None, "path": str(clip_path)}])
    assert len(opened) == 2
    prepare_media(audio=[clip_path], video=[silent_path])
    assert len(opened) == 4


def test_prepare_media_is_checked(clip_path, tmp_path):
    for inputs, message in [
        ({"audio": [None], "video": [None, None]}, "different lengths"),
        ({"audio": [np.zeros((2, 100), np.float32)]}, "one channel"),
        ({"audio": [np.zeros(0, np.float32)]}, "one channel"),
        ({"audio": [np.zeros(10, bool)]}, "dtype bool"),
        ({"video": [np.zeros((2, 8, 8, 3), np.float32)]}, "uint8"),
        ({"video": [np.zeros((0, 8, 8, 3), np.uint8)]}, "uint8"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare_media(**inputs)
    with pytest.raises(MediaError, match="does not exist"):
        prepare_media(audio=[tmp_path / "nowhere.wav"])
    with pytest.raises(MediaError, match=r"lasts 1\.00 s"):
        prepare_media(audio=[tone(1.0, 16000)], start=[2.0])


def test_settings_survive_json():
    settings = MediaSettings.from_config(MediaEncoderConfig(image_size=(24, 32), max_clip_seconds=5))
    assert MediaSettings(**json.loads(json.dumps(settings.to_dict()))) == settings
    assert settings.image_shape == (24, 32)


def test_encode_clip_without_a_front_end(clip_path, silent_path):
    audio_only = MediaEncoderModel(MediaEncoderConfig(video_front_end=None)).encode_clip(clip_path)
    assert audio_only.video_features is None and audio_only.audio_features.shape[2] == 40
    deaf = MediaEncoderModel(MediaEncoderConfig(video_front_end=None))
    for clip in (silent_path, Clip(None, None, 16000, 8.0, 0.0)):
        with pytest.raises(MediaError, match="nothing for the front ends"):
            deaf.encode_clip(clip)


REMOTE = (
    BLOCK_PACKAGE
    + """
import sys
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
torch.save(model.encode_clip(sys.argv[2]).to_tuple(), sys.argv[3])
"""
)


def test_the_code_travels_with_the_checkpoint(tmp_path, clip_path):
    model = make_model("video", "clip")
    model.__class__.register_for_auto_class("AutoModel")
    model.config.__class__.register_for_auto_class()
    model.save_pretrained(tmp_path / "model")
    command = [sys.executable, "-c", REMOTE, tmp_path / "model", clip_path, tmp_path / "out.pt"]
    done = subprocess.run([str(part) for part in command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(found, model.encode_clip(clip_path).to_tuple(), atol=0, rtol=0)
