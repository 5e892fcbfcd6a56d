"""CLCR with other modalities and backbones: named streams, ResNets, given levels, raw clips."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_mmintent.modeling.configuration_clcr import ClcrConfig
from hf_mmintent.modeling.modality_inputs import ModalityInput
from hf_mmintent.modeling.modeling_clcr import ClcrForSequenceClassification, ClcrModel
from hf_mmintent.modeling.picture_augmentation import random_crop, random_mirror
from hf_mmintent.modeling.picture_inputs import SpectrogramSettings, log_spectrogram, spread
from hf_mmintent.modeling.processing_clcr import ClcrProcessor

from .media_files import write_media
from .testers import ClcrTester, prefix_mask, run

TESTER = ClcrTester()


TINY_RESNET = {"embedding_size": 4, "hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 1, 1]}


def other_model(modalities: tuple[str, ...], configs: dict[str, Any], **overrides: Any) -> Any:
    torch.manual_seed(0)
    fields = {"hidden_size": 16, "exchange_heads": 2, "inter_stat_rank": 4, "num_labels": 3, **overrides}
    return ClcrForSequenceClassification(ClcrConfig(modalities=modalities, modality_configs=configs, **fields)).eval()


def test_video_and_flow_build_no_text(tmp_path: Path) -> None:
    model = other_model(
        ("video", "flow"), {"flow": {"backbone": "tcn", "feature_size": 4}, "video": {"feature_size": 8}}
    )
    assert model.model.text_model is None and model.config.text_config is None
    inputs = {"video_features": torch.randn(4, 6, 8), "flow_features": torch.randn(4, 9, 4)}
    out = run(model, inputs)
    assert out.modality_weights.shape == (4, 2) and model.config.modality_weight_names == ("video", "flow")
    for wrong in ("audio_features", "flows_features", "flow", "flow_mask", "output_everything"):
        with pytest.raises(ValueError, match=f"`{wrong}` is not an input"):
            run(model, {**inputs, wrong: torch.randn(4, 6, 8)})
    with pytest.raises(ValueError, match="no text"):
        run(model, {**inputs, "input_ids": torch.ones(4, 3, dtype=torch.long)})
    model.train().activation_checkpointing_enable()
    model(**inputs, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    model.eval().save_pretrained(tmp_path)
    loaded = ClcrForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(run(loaded, inputs).logits, out.logits)
    with pytest.raises(NotImplementedError, match="no text"):
        model.get_input_embeddings()


def test_from_backbones_takes_widths_by_name() -> None:
    fields = {"hidden_size": 16, "exchange_heads": 2, "inter_stat_rank": 4}
    model = ClcrForSequenceClassification.from_backbones(
        modalities=("video", "flow"), video=7, flow=4, modality_configs={"flow": {"backbone": "tcn"}}, **fields
    )
    assert model.config.feature_sizes == {"video": 7, "flow": 4}
    with pytest.raises(ValueError, match="no field `flow`"):
        ClcrForSequenceClassification.from_backbones(video=7, flow=4, **fields)
    with pytest.raises(ValueError, match=r"width 7 but .* 8"):
        ClcrForSequenceClassification.from_backbones(
            modalities=("video",), video=7, modality_configs={"video": {"feature_size": 8}}, **fields
        )


def test_one_modality_has_nobody_to_exchange_with() -> None:
    model = other_model(("audio",), {"audio": {"feature_size": 6}})
    out = model.train()(audio_features=torch.randn(4, 9, 6), labels=torch.tensor([0, 1, 2, 0]))
    out.loss.backward()
    assert out.participation is None and (out.modality_weights == 1).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_pictures_and_spectrograms_through_resnets(tmp_path: Path) -> None:
    """Every sample alone, at its own length, gives what it gives in a padded batch."""
    resnet = {"backbone": "resnet18", "backbone_config": TINY_RESNET}
    configs = {"audio": {**resnet, "feature_size": 33}, "video": {**resnet, "feature_size": [3, 32, 32]}}
    model = other_model(("audio", "video"), configs)
    model.save_pretrained(tmp_path)
    assert ClcrConfig.from_pretrained(tmp_path).modality_configs == model.config.modality_configs
    audio, video = torch.randn(3, 40, 33), torch.randn(3, 4, 3, 32, 32)
    masks = {"audio_attention_mask": prefix_mask(40, 25, 31), "video_attention_mask": prefix_mask(2, 4, 1)}
    inputs = {"audio_features": audio, "video_features": video, **masks}
    broken = {
        "audio_features": audio.masked_fill(~masks["audio_attention_mask"][..., None], float("nan")),
        "video_features": video.masked_fill(~masks["video_attention_mask"][..., None, None, None], float("nan")),
    }
    together = run(model, {**inputs, **broken}, output_hidden_states=True)
    assert [x.shape[1] for x in together.hidden_states[:2]] == [16, 64]  # one picture of sound, four frames
    torch.testing.assert_close(run(model, inputs).logits, together.logits)
    for row in range(3):
        sizes = {name: int(mask[row].sum()) for name, mask in masks.items()}
        alone = run(
            model,
            {
                "audio_features": audio[row : row + 1, : sizes["audio_attention_mask"]],
                "video_features": video[row : row + 1, : sizes["video_attention_mask"]],
            },
        )
        torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-5, rtol=1e-5)
    none = {**inputs, "video_attention_mask": torch.zeros(3, 4)}
    only = {"audio_features": audio, "audio_attention_mask": masks["audio_attention_mask"]}
    torch.testing.assert_close(run(model, none).logits, run(model, only).logits)
    with pytest.raises(ValueError, match=r"expected \(batch_size, pictures, 3, 32, 32\)"):
        run(model, {**inputs, "video_features": video[:, :, :1]})
    assert ClcrModel(model.config).hierarchy.backbones["audio"].network.config.layer_type == "basic"


def test_given_levels_are_taken_as_they_are() -> None:
    configs = {"audio": {"backbone": "identity", "feature_size": [2, 3, 4]}, "video": {"feature_size": 8}}
    model = other_model(("audio", "video"), configs)
    levels = tuple(torch.randn(2, 5, width) for width in (2, 3, 4))
    video = torch.randn(2, 6, 8)
    split = run(model, {"audio_features": levels, "video_features": video})
    joint = run(model, {"audio_features": torch.cat(levels, -1), "video_features": video})
    assert torch.equal(split.logits, joint.logits) and model.config.feature_sizes["audio"] == 9
    with pytest.raises(ValueError, match=r"tuple of widths \[3, 2, 4\]"):
        run(model, {"audio_features": (levels[1], levels[0], levels[2]), "video_features": video})


def test_processor_of_pictures_and_without_text(tmp_path: Path) -> None:
    resnet = {"backbone": "resnet18", "backbone_config": TINY_RESNET}
    configs = {"flow": {**resnet, "feature_size": [2, 8, 8]}, "video": {"feature_size": 8}}
    model = other_model(("video", "flow"), configs)
    ClcrProcessor.from_config(model.config).save_pretrained(tmp_path)
    processor = ClcrProcessor.from_pretrained(tmp_path)
    assert processor.tokenizer is None
    flow = [np.ones((2, 2, 8, 8), np.float32), None]
    batch = processor(video_features=[np.ones((3, 8)), np.ones((5, 8))], flow_features=flow, labels=[0, 2])
    assert batch["flow_features"].shape == (2, 2, 2, 8, 8) and batch["flow_attention_mask"].tolist() == [[1, 1], [0, 0]]
    assert torch.isfinite(run(model, dict(batch)).loss)
    with pytest.raises(ValueError, match=r"sample 0 has shape \(2, 8, 8\)"):
        processor(flow_features=[np.ones((2, 8, 8))])


def test_spectrograms_have_the_published_sizes() -> None:
    published = {
        (22050, 3.0, 512, 353): (188, 257),
        (16000, 10.0, 512, 160): (1001, 257),
        (16000, 5.0, 256, 128): (626, 129),
    }
    for values, shape in published.items():
        settings = SpectrogramSettings(*values)
        tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(values[0]) / values[0])  # one second: it is repeated
        found = log_spectrogram(tone, settings)
        assert found.shape == settings.shape == shape
        loudest = found[shape[0] // 2].argmax()
        assert loudest == round(1000 * values[2] / values[0])
        # A Hann window of n samples has gain n/2 and a sine of amplitude 0.5 half of that: log(0.5·n/4) at most.
        assert found.max() <= math.log(0.5 * values[2] / 4) + 0.05 and found.max() > math.log(0.5 * values[2] / 4) - 0.4
    assert spread(75, 3).tolist() == [12, 37, 62] and spread(2, 3).tolist() == [0, 1] and spread(9, 1).tolist() == [4]


def test_raw_clips_to_spectrograms_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("av")
    clip = write_media(tmp_path / "clip.mp4", seconds=1.0)
    resnet = {"backbone": "resnet18", "backbone_config": TINY_RESNET}
    configs = {"audio": {**resnet, "feature_size": 33}, "video": {**resnet, "feature_size": [3, 32, 32]}}
    model = other_model(("audio", "video"), configs)
    options = {
        "spectrogram": {"sampling_rate": 8000, "seconds": 2.0, "n_fft": 64, "hop": 320},
        "pictures": {"count": 3, "size": 32, "frame_rate": 10.0},
    }
    ClcrProcessor.from_config(model.config, **options).save_pretrained(tmp_path / "processor")
    processor = ClcrProcessor.from_pretrained(tmp_path / "processor")
    batch = processor(audio=[str(clip), None], video=[str(clip), str(clip)], labels=[0, 1])
    assert batch["audio_features"].shape == (2, 51, 33) and batch["audio_attention_mask"].sum(1).tolist() == [51, 0]
    assert batch["video_features"].shape == (2, 3, 3, 32, 32)
    torch.testing.assert_close(batch["video_features"][0], batch["video_features"][1])
    assert torch.isfinite(run(model, dict(batch)).logits).all()
    with pytest.raises(ValueError, match=r"size 65 but `feature_sizes` says 33"):
        ClcrProcessor.from_config(model.config, spectrogram={"n_fft": 128})


def test_training_crops_and_mirrors_all_frames_of_a_sample_alike() -> None:
    """Pictures that are ramps tell what was cut: their ends how much of each side is seen, their direction the mirror."""
    torch.manual_seed(1)
    ramp = torch.linspace(0, 1, 32).expand(64, 3, 2, 32, 32)  # (B, T, C, H, W)
    down = ramp.transpose(-1, -2)
    torch.manual_seed(2)
    across = random_crop(ramp, (0.25, 0.5))
    torch.manual_seed(2)
    along = random_crop(down, (0.25, 0.5))
    assert across.shape == ramp.shape and across.dtype == ramp.dtype
    assert torch.equal(across, across[:, :1, :1].expand_as(across))  # frames and channels alike
    widths = across[:, 0, 0, 0, -1] - across[:, 0, 0, 0, 0]  # (B,), about the part of the width that is seen
    heights = along[:, 0, 0, -1, 0] - along[:, 0, 0, 0, 0]
    seen = widths * heights
    assert 0.2 < seen.min() < 0.3 and 0.4 < seen.max() < 0.53 and len(set(seen.tolist())) > 30
    stretch = (widths / heights).log()
    assert stretch.abs().max() < math.log(4 / 3) + 0.1 and stretch.min() < -0.1 < 0.1 < stretch.max()
    mirrored = random_mirror(ramp)
    turned = mirrored[:, 0, 0, 0, 0] == 1.0
    assert 16 < turned.sum() < 48
    assert torch.equal(mirrored[turned], ramp[turned].flip(-1)) and torch.equal(mirrored[~turned], ramp[~turned])


def test_only_training_draws() -> None:
    settings = {"backbone": "resnet18", "feature_size": [3, 32, 32]}
    plain = {"video": {**settings, "backbone_config": TINY_RESNET}}
    drawn = {"video": {**settings, "backbone_config": {**TINY_RESNET, "crop": [0.3, 1.0], "mirror": True}}}
    model = other_model(("video",), drawn)
    same = other_model(("video",), plain)
    same.load_state_dict(model.state_dict())
    inputs = {"video_features": torch.randn(4, 2, 3, 32, 32)}
    assert torch.equal(run(model, inputs).logits, run(same, inputs).logits)
    backbone = model.model.hierarchy.backbones["video"].train()
    item = ModalityInput(inputs["video_features"], torch.ones(4, 2, dtype=torch.bool))
    torch.manual_seed(3)
    first = backbone(item)[0][0]
    assert not torch.allclose(first, backbone(item)[0][0], atol=1e-3)
    torch.manual_seed(3)
    backbone.network.load_state_dict(same.model.hierarchy.backbones["video"].network.state_dict())
    assert torch.equal(first, backbone(item)[0][0])
    sound = {"audio": {"backbone": "resnet18", "feature_size": 40, "backbone_config": {**TINY_RESNET, "mirror": True}}}
    with pytest.raises(ValueError, match="`mirror` is True but `feature_size` is 40"):
        other_model(("audio",), sound)
    drawn["video"]["backbone_config"]["crop"] = [0.0, 1.0]
    with pytest.raises(ValueError, match="`crop` is"):
        other_model(("video",), drawn)
