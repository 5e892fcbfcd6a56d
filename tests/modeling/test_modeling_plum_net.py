"""PLUM-Net: refinement and heads, ablations, missing modalities, stages, saving."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoProcessor

from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.modeling.configuration_plum_net import PlumNetConfig
from hf_mmintent.modeling.modeling_plum_net import PlumNetForSequenceClassification
from hf_mmintent.modeling.plum_net_branches import BranchStates, LabelAttention, PrivateRefinement
from hf_mmintent.modeling.processing_multimodal import MultimodalProcessor
from hf_mmintent.modeling.recorder import Recorder

from .plum_net_cases import REGRESSION, TESTER, batch, make, still_bert
from .testers import run

SUBSETS = [s for n in (1, 2, 3) for s in itertools.combinations(("text", "audio", "video"), n)]
TABLE_3 = [
    {"use_msa": False, "use_psl_tfb": False, "use_prm": False},
    {"use_msa": True, "use_psl_tfb": False, "use_prm": False},
    {"use_msa": True, "use_psl_tfb": True, "use_prm": False},
    {"use_msa": True, "use_psl_tfb": True, "use_prm": True},
    {"use_msa": False, "use_psl_tfb": True, "use_prm": True},  # Figures 5c and 6
]


# ---- refinement and heads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 3])
def test_label_attention_depends_on_the_query_unless_there_is_one_class(classes: int) -> None:
    config = TESTER.config()
    module = LabelAttention(config, 16, 2).eval()
    soft = torch.softmax(torch.randn(1, classes), -1).expand(2, -1)
    vectors = torch.randn(classes, 16)
    with torch.no_grad():
        found = module(torch.randn(2, 16), soft, vectors, Recorder(False, False))
    assert torch.allclose(found[0], found[1], atol=1e-6) == (classes == 1)


def test_eq_9_equals_a_loop_over_label_tokens() -> None:
    config = TESTER.config(attn_implementation="eager")
    module = LabelAttention(config, 4, 1).eval()
    fused, soft, vectors = torch.randn(1, 4), torch.tensor([[0.2, 0.5, 0.3]]), torch.randn(3, 4)
    part = module.attention
    with torch.no_grad():
        query = part.q_proj(fused)[0]
        keys = [part.k_proj(soft[0, k] * vectors[k]) for k in range(3)]
        values = [part.v_proj(soft[0, k] * vectors[k]) for k in range(3)]
        weights = torch.softmax(torch.stack([query @ key / 2.0 for key in keys]), 0)  # sqrt(4) = 2
        expected = part.o_proj(sum(w * v for w, v in zip(weights, values, strict=True)))
        found = module(fused, soft, vectors, Recorder(False, False))
    torch.testing.assert_close(found[0], expected)


def attended(part: Any, queries: Tensor, keys: Tensor) -> Tensor:
    """Attention with one head written out, (T_q, d) on (T_k, d)."""
    scores = part.q_proj(queries) @ part.k_proj(keys).T / keys.shape[1] ** 0.5
    return part.o_proj(scores.softmax(-1) @ part.v_proj(keys))


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_eq_9_as_a_whole(combine: str) -> None:
    """Both directions, their mean over the valid steps, the norm, and the attention to the labels added to it."""
    config = TESTER.config(fusion_combine=combine, prm_heads=1, attn_implementation="eager")
    module = PrivateRefinement(config).eval()
    common, private, soft, vectors = torch.randn(2, 5, 16), torch.randn(2, 5, 16), torch.rand(2, 3), torch.randn(3, 16)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    with torch.no_grad():
        found = module(BranchStates(common, private, mask), soft, vectors, Recorder(False, False))
        for row, steps in enumerate((5, 3)):
            c, p = common[row, :steps], private[row, :steps]
            forth = attended(module.common_to_private, c, p).mean(0)
            back = attended(module.private_to_common, p, c).mean(0)
            fused = forth + back if combine == "sum" else module.combine(torch.cat([forth, back]))
            fused = module.norm(fused)
            refined = attended(module.labels.attention, fused[None], soft[row, :, None] * vectors)[0]
            torch.testing.assert_close(found[row], fused + refined, atol=1e-5, rtol=1e-5)


def test_private_branches_read_the_modality_and_common_ones_the_shared_projection() -> None:
    model, inputs = make(), batch()
    before = run(model, inputs)
    with torch.no_grad():
        model.model.common_projection.weight.add_(torch.randn(16, 16))
    after = run(model, inputs)
    assert torch.equal(after.private_embeddings, before.private_embeddings)
    for m in range(3):  # one W_com for all
        assert not torch.allclose(after.common_embeddings[:, m], before.common_embeddings[:, m], atol=1e-3)


def test_prototypes_have_no_gradient_but_change_the_prediction() -> None:
    model, inputs = make(), batch()
    before = run(model, inputs).logits
    model.model.labeller.prototypes.mul_(-1)
    assert not torch.allclose(run(model, inputs).logits, before)
    assert not model.model.labeller.prototypes.requires_grad


def test_first_stage_logits_average_the_common_branches() -> None:
    model, inputs = make(), batch()
    model.set_stage("alignment")
    inputs["audio_attention_mask"][1] = 0
    out = run(model, inputs)
    logs = out.common_logits.log_softmax(-1)
    torch.testing.assert_close(out.logits[0], logs[0].mean(0))
    torch.testing.assert_close(out.logits[1], logs[1, [0, 2]].mean(0))


def test_first_stage_regression_is_the_expected_class_mean() -> None:
    model = make(**REGRESSION)
    model.set_stage("alignment")
    assert model.model.labeller.bin_values.tolist() == [-1.5, 0.0, 1.25]  # means of the targets below, at, above 0
    out = run(model, batch(True))
    share = out.common_logits.log_softmax(-1).mean(1).softmax(-1)
    torch.testing.assert_close(out.logits[:, 0], share @ torch.tensor([-1.5, 0.0, 1.25]))
    assert out.common_logits.shape == (4, 3, 3) and out.soft_labels.shape == (4, 3, 3)


@pytest.mark.parametrize(("bins", "classes"), [("sign", 3), ("round7", 7), ([-1.0, 1.0, 2.0], 4)])
def test_structure_bins_set_the_number_of_classes(bins: Any, classes: int) -> None:
    model = make(structure_bins=bins, **REGRESSION)
    assert run(model, batch(True)).soft_labels.shape == (4, 3, classes)
    assert len(model.config.default_bin_values) == classes == model.model.labeller.prototypes.shape[1]


# ---- reduced models, subsets, absent modalities ------------------------------------------------------------------


@pytest.mark.parametrize("switches", TABLE_3, ids=lambda s: "-".join(k for k, v in s.items() if v) or "none")
@pytest.mark.parametrize("strategy", ["zero", "null_token"])
def test_every_row_of_table_3_trains_all_its_parameters(switches: dict[str, bool], strategy: str) -> None:
    model = make(missing_strategy=strategy, **switches).train()
    inputs = batch()
    for row, name in enumerate(("attention_mask", "audio_attention_mask", "video_attention_mask")):
        inputs[name][row] = 0  # every null token has to stand in for somebody
    model(**inputs).loss.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []
    widths = {"none": 16, "msa": 32}
    kind = "msa" if switches["use_msa"] and not switches["use_psl_tfb"] else "none"
    assert model.model.fusion.in_features == 3 * widths[kind]


@pytest.mark.parametrize("switches", TABLE_3[1:], ids=lambda s: "-".join(k for k, v in s.items() if v))
def test_the_first_stage_trains_exactly_what_its_loss_reaches(switches: dict[str, bool]) -> None:
    model = make(**switches).train()
    model.set_stage("alignment")
    model(**batch()).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == reached
    model.set_stage("refinement")
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_first_row_of_table_3_has_no_first_stage() -> None:
    model = make(**TABLE_3[0])
    assert [stage.name for stage in model.config.training_stages] == ["refinement"]
    model.set_stage("alignment")
    with pytest.raises(ValueError, match="no loss"):
        model(**batch())


@pytest.mark.parametrize("modalities", SUBSETS, ids="-".join)
def test_every_subset_of_modalities_builds_trains_and_reloads(modalities: tuple[str, ...], tmp_path: Path) -> None:
    model = make(modalities=modalities)
    inputs = TESTER.without(batch(), *({"text", "audio", "video"} - set(modalities)))
    model.train()(**inputs).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert ("text" in modalities) == (model.model.text_model is not None)
    assert not any("text" in name for name in model.state_dict()) or "text" in modalities
    model.eval().save_pretrained(tmp_path)
    loaded, info = PlumNetForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(run(loaded.eval(), inputs).logits, run(model, inputs).logits)
    assert run(model, inputs).soft_labels.shape == (4, len(modalities), 3)


def test_inputs_of_an_undeclared_modality_raise() -> None:
    with pytest.raises(ValueError, match=r"`video_features` is given but `config.modalities`"):
        run(make(modalities=("text", "audio")), batch())


def test_a_text_is_needed_for_its_embeddings_only() -> None:
    model = make(modalities=("audio",))
    assert model.model.get_input_embeddings() is None
    with pytest.raises(ValueError, match="without text"):
        model.model.set_input_embeddings(nn.Embedding(3, 3))


@pytest.mark.parametrize("missing", [("audio",), ("text",), ("audio", "video"), ("text", "video")])
@pytest.mark.parametrize("switches", TABLE_3, ids=lambda s: "-".join(k for k, v in s.items() if v) or "none")
def test_null_tokens_stand_for_absent_modalities(missing: tuple[str, ...], switches: dict[str, bool]) -> None:
    model, inputs = make(missing_strategy="null_token", **switches), batch()
    absent, masked = run(model, TESTER.without(inputs, *missing)), run(model, TESTER.masked_out(inputs, *missing))
    assert torch.isfinite(absent.logits).all()
    torch.testing.assert_close(absent.logits, masked.logits, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for name in missing:
            model.model.null_tokens[name].weight.add_(torch.linspace(-1, 1, 16))
    assert not torch.allclose(run(model, TESTER.without(inputs, *missing)).logits, absent.logits, atol=1e-5)


def test_absent_modalities_are_zero_at_the_head() -> None:
    model = make()
    out = run(model, TESTER.without(batch(), "audio"))
    assert out.raw_embeddings[:, 1].eq(0).all() and out.common_embeddings[:, 1].eq(0).all()
    assert out.presence.tolist() == [[True, False, True]] * 4 and out.hard_labels[:, 1].eq(-1).all()


@pytest.mark.parametrize(
    "settings",
    [{"fusion_combine": "sum"}, {"label_token_source": "learned"}, {"psl_target": "soft"}, {"tfb_layers": 2}],
    ids=lambda settings: next(iter(settings)),
)
def test_variants_train_all_their_parameters(settings: dict[str, Any]) -> None:
    model = make(**settings).train()
    model(**batch()).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


# ---- stages, saving, learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["alignment", "refinement", "joint"])
def test_saving_in_a_stage_keeps_everything(stage: str, tmp_path: Path) -> None:
    model = make(**REGRESSION)
    model.set_stage(stage)
    model.save_pretrained(tmp_path)
    loaded = PlumNetForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.training_stage == stage and loaded.config.stages == model.config.stages
    state, found = model.state_dict(), loaded.state_dict()
    assert state.keys() == found.keys() and all(torch.equal(value, found[name]) for name, value in state.items())
    assert {"prototypes", "prototype_counts", "bin_values"} <= {name.rsplit(".", 1)[1] for name in state}


def test_buffers_missing_from_a_checkpoint_are_empty(tmp_path: Path) -> None:
    model = make(**REGRESSION)
    state = {name: value for name, value in model.state_dict().items() if "labeller" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    labeller = PlumNetForSequenceClassification.from_pretrained(tmp_path).model.labeller
    assert labeller.prototypes.eq(0).all() and labeller.prototype_counts.eq(0).all() and labeller.epochs_started == 0
    assert labeller.bin_values.tolist() == [-1.0, 0.0, 1.0]


def test_a_stage_freezes_by_name_and_keeps_what_was_frozen_before() -> None:
    model = TESTER.model(stages=(("alignment", 1, ("branches", "encoders")), ("refinement", 2)))
    model.model.encoders.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.set_stage("alignment")
    assert all(p.requires_grad == ("branches" in name) for name, p in model.named_parameters())
    model.set_stage("refinement")
    assert all(p.requires_grad == ("model.encoders" not in name) for name, p in model.named_parameters())
    assert model.config.training_stage == "refinement"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_stages_that_do_not_exist_raise() -> None:
    with pytest.raises(ValueError, match="no stage 'tuning'"):
        TESTER.model().set_stage("tuning")
    with pytest.raises(ValueError, match="no parameter is found by 'brunches'"):
        TESTER.model(stages=(("alignment", 1, ("brunches",)),)).set_stage("alignment")


def mean_error(model: PlumNetForSequenceClassification, data: list[dict[str, Tensor]]) -> float:
    model.eval()
    return torch.cat([(run(model, inputs).logits[:, 0] - inputs["labels"]).abs() for inputs in data]).mean().item()


def test_regression_learns_sixteen_samples_through_both_stages() -> None:
    torch.manual_seed(0)
    still = {"dropout": 0.0, "encoder_dropout": 0.0, "text_config": still_bert()}
    model = PlumNetForSequenceClassification(TESTER.config(**REGRESSION, **still))
    data = [{**TESTER.random_batch(seed), "labels": torch.randn(4).clamp(-3, 3)} for seed in range(4)]
    for stage, epochs in (("alignment", 8), ("refinement", 60)):
        model.set_stage(stage)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.0)
        for epoch in range(epochs):
            if stage == "refinement" and epoch % 5 == 0 and mean_error(model, data) < 0.2:
                return
            model.on_stage_epoch_start(data)
            model.train()
            for inputs in data:
                optimizer.zero_grad()
                model(**inputs).loss.backward()
                optimizer.step()
    pytest.fail(f"16 random values are not learnt: the mean error is still {mean_error(model, data)}")


# ---- config, construction, processor -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_psl_tfb": False}, "`use_prm` is True"),
        ({"hidden_size": 18, "tfb_heads": 4}, "`hidden_size` = 18 is not divisible by `tfb_heads` = 4"),
        ({"structure_bins": [1.0, 0.0], **REGRESSION}, "strictly increasing"),
        ({"problem_type": "multi_label_classification"}, "one class per sample"),
        ({"modalities": ("text", "smell")}, "smell"),
        ({"stages": (("warmup", 3),)}, "names 'warmup'"),
        ({"stages": (("alignment",),)}, "expected"),
        ({"stages": ()}, "nothing to train"),
        ({**TABLE_3[0], "stages": (("alignment", 3),)}, "nothing to train"),
        ({"stages": (("alignment", 0),)}, "leave it out"),
        ({"stages": (("alignment", 1), ("alignment", 2))}, "twice"),
        ({"stages": (("alignment", 1, ("(",)),)}, "no regular expression"),
        ({"msa_temperature": 0.0}, "positive"),
        ({"prototype_shrinkage": -1.0}, "negative"),
    ],
)
def test_settings_that_contradict_raise(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        TESTER.config(**fields)


def test_defaults_are_those_of_the_paper() -> None:
    config = PlumNetConfig(num_labels=1)
    assert (config.hidden_size, config.dropout, config.problem_type) == (256, 0.6, "regression")
    assert [tuple(stage)[:2] for stage in config.training_stages] == [("alignment", 160), ("refinement", 140)]
    assert config.label_temperature == 4.0 and config.num_structure_classes == 3
    assert PlumNetConfig(soft_label_temperature=1.0).label_temperature == 1.0


def test_an_owned_encoder_takes_raw_sound() -> None:
    encoder = MediaEncoderConfig(num_mel_bins=6, video_front_end=None)
    torch.manual_seed(0)
    model = PlumNetForSequenceClassification(TESTER.config(encoder_config=encoder)).eval()
    inputs = TESTER.without(TESTER.inputs(), "audio")
    mask = torch.ones(4, 4000, dtype=torch.long)
    mask[2] = 0
    raw = {"input_values": torch.randn(4, 4000), "input_values_mask": mask}
    out = run(model, {**inputs, **raw})
    made = run(model.model.media_encoder, raw)
    features = {"audio_features": made.audio_features, "audio_attention_mask": made.audio_attention_mask}
    torch.testing.assert_close(out.logits, run(model, {**inputs, **features}).logits, atol=1e-5, rtol=1e-5)
    assert out.presence[:, 1].tolist() == [True, True, False, True]


def test_attentions_and_hidden_states_on_request() -> None:
    out = run(TESTER.model(attn_implementation="eager"), {**TESTER.inputs(), "output_attentions": True})
    # text 2 + audio 2 + video 2, a common and a private layer each, two directions and the labels each
    assert len(out.attentions) == 2 + 2 + 2 + 3 * 2 + 3 * 3
    assert out.attentions[-1].shape == (4, 2, 1, 3)
    assert run(TESTER.model(), TESTER.inputs()).attentions is None


@pytest.mark.parametrize("kind", [MultimodalProcessor, TESTER.processor_class])
def test_a_processor_without_text_saves_and_loads_without_a_tokenizer(kind: Any, tmp_path: Path) -> None:
    config = TESTER.config(modalities=("audio", "video"))
    processor = kind.from_config(config)
    processor.save_pretrained(tmp_path)
    assert not (tmp_path / "tokenizer_config.json").exists()
    rows = {"audio_features": [np.ones((4, 6)), None], "video_features": [None, np.ones((2, 8))]}
    for load in (kind, AutoProcessor) if kind is TESTER.processor_class else (kind,):
        loaded = load.from_pretrained(tmp_path)
        assert type(loaded) is kind and loaded.tokenizer is None
        found, expected = loaded(labels=["praise", "inform"], **rows), processor(labels=["praise", "inform"], **rows)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    with pytest.raises(ValueError, match="`tokenizer`"):
        kind.from_config(TESTER.config())


def test_the_processor_passes_sample_numbers_on(tiny_tokenizer: Any) -> None:
    processor = TESTER.processor(tiny_tokenizer)
    found = processor(text=["thank you", "please leave"], labels=[0, 1], sample_index=[7, 9])
    assert found["sample_index"].tolist() == [7, 9] and "sample_index" in processor.model_input_names
    assert "sample_index" not in processor(text="thank you")
    assert isinstance(processor("thank you", sample_index=3, return_tensors="np")["sample_index"], np.ndarray)
