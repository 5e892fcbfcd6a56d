"""Runs of a model that writes: stages, adapters, reloading, scoring, explaining."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from hf_mmintent.data.loading import load
from hf_mmintent.evaluation import adapter_base, open_checkpoint
from hf_mmintent.explanations import WrittenAnswer, answer_scores, explain_one, write_answers
from hf_mmintent.modeling.answer_format import EMOTIONS as EMOTION_NAMES
from hf_mmintent.modeling.configuration_media_encoder import MediaEncoderConfig
from hf_mmintent.scoring import score_checkpoints
from hf_mmintent.training import RunConfig, TrainedRun, train_run
from hf_mmintent.training.peft_runs import adapt, load_weights
from tests.modeling.media_files import write_media
from tests.modeling.xmei_cases import AUDIO, tiny_model, tiny_processor
from tests.processes import run_in_two_processes

from .answer_cases import EMOTIONS, INTENTS, settings

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder = tmp_path_factory.mktemp("answers")
    return train_run(RunConfig.from_dict(settings(folder)), 0, folder / "run" / "seed_0")


@pytest.fixture(scope="module")
def run_folder(trained: TrainedRun) -> Path:
    return trained.checkpoint.parent


@pytest.fixture(scope="module")
def scored_rows(run_folder: Path) -> Dataset:
    return load(str(run_folder.parents[1] / "data"))["test"]


def batch_of(processor: Any, rows: Dataset) -> Any:
    columns = ("text", "audio_features", "video_features")
    return processor(**{name: list(rows[name]) for name in columns})


@torch.no_grad()
def logits_of(model: Any, batch: Any) -> torch.Tensor:
    return model(**batch).logits


# ---- what a run leaves behind -----------------------------------------------------------------------------------


def test_a_run_goes_through_both_stages(trained: TrainedRun, run_folder: Path) -> None:
    assert [stage["name"] for stage in trained.facts["stages"]] == ["align", "joint"]
    assert all(stage["metric"] == "selection" for stage in trained.facts["stages"])
    assert {"joint_accuracy", "parse_rate", "rouge_l", "emotion_f1_weighted", "intent_recall_macro"} <= set(
        trained.validation
    )
    for place in ("base", "adapter", "final"):
        assert (run_folder / place).is_dir()
    assert "xmei" in (run_folder / "final" / "README.md").read_text().lower()


def test_adapter_holds_queries_heads_and_lora_but_no_base(run_folder: Path) -> None:
    names = set(load_file(run_folder / "adapter" / "adapter_model.safetensors"))
    parts = {name.removeprefix("base_model.model.").split(".")[0] for name in names}
    assert {"video_connector", "audio_connector", "audio_tokens", "emotion_head", "intent_head"} <= parts
    assert {"video_projector", "audio_projector", "language_model"} <= parts
    assert any("queries.weight" in name for name in names)
    assert all("lora_" in name for name in names if "language_model" in name)


def test_alignment_leaves_the_language_model_and_joint_training_moves_it(run_folder: Path) -> None:
    align = load_file(run_folder / "stage_1_align" / "best" / "adapter_model.safetensors")
    joint = load_file(run_folder / "stage_2_joint" / "best" / "adapter_model.safetensors")
    assert align.keys() == joint.keys()
    lora = [name for name in align if "lora_B" in name]
    assert lora and all(align[name].abs().max() == 0 for name in lora)
    assert any(joint[name].abs().max() > 0 for name in lora)
    heads = [name for name in align if "_head" in name]
    base = load_file(run_folder / "base" / "model.safetensors")
    for name in heads:
        plain = name.removeprefix("base_model.model.")
        assert torch.equal(align[name], base[plain]) and not torch.equal(joint[name], base[plain])
    queries = [name for name in align if "queries" in name]
    assert queries and all(not torch.equal(align[n], base[n.removeprefix("base_model.model.")]) for n in queries)


def test_merged_model_keeps_what_was_frozen(run_folder: Path) -> None:
    base, final = (load_file(run_folder / name / "model.safetensors") for name in ("base", "final"))
    assert base.keys() == final.keys()
    frozen = [name for name in base if "language_model" in name and ("norm" in name or "embed" in name)]
    assert frozen and all(torch.equal(base[name], final[name]) for name in frozen)
    moved = [name for name in base if name.endswith("q_proj.weight")]
    assert moved and all(not torch.equal(base[name], final[name]) for name in moved)


def test_adapter_equals_merged_model(run_folder: Path, scored_rows: Dataset) -> None:
    merged, processor = open_checkpoint(run_folder / "final")
    adapted, _ = open_checkpoint(run_folder / "adapter")
    assert (
        adapter_base(run_folder / "adapter") == str(run_folder / "base") and adapter_base(run_folder / "final") is None
    )
    batch = batch_of(processor, scored_rows)
    torch.testing.assert_close(logits_of(adapted, batch), logits_of(merged, batch), atol=1e-4, rtol=1e-4)
    base = AutoModelForImageTextToText.from_pretrained(run_folder / "base").eval()
    assert (logits_of(base, batch) - logits_of(merged, batch)).abs().max() > 1e-3
    answers = merged.generate(**batch, max_new_tokens=5)
    assert torch.equal(adapted.generate(**batch, max_new_tokens=5), answers)


def test_finished_run_is_not_repeated(trained: TrainedRun, run_folder: Path) -> None:
    stored = json.loads((run_folder / "settings.json").read_text())
    stored["seeds"] = [0]
    again = train_run(RunConfig.from_dict(stored), 0, run_folder)
    assert again.validation == trained.validation


# ---- scores -------------------------------------------------------------------------------------------------------


def test_scoring_a_run(trained: TrainedRun, run_folder: Path) -> None:
    table = score_checkpoints(trained.checkpoint, drop=True, batch_size=4, max_new_tokens=6)
    assert "joint_accuracy" in table and "| without audio and video |" in table and "| joint, stripped |" in table
    stored = json.loads((run_folder / "final" / "scores" / "test_all.json").read_text())
    assert stored["n"] == 6 and stored["system"] == "XmeiQwenForConditionalGeneration"
    assert {"parse_rate", "scored_joint_accuracy", "joint_bleu4_stripped", "intent_cider_d_raw"} <= set(
        stored["scores"]
    )
    lines = (run_folder / "final" / "scores" / "test_all.answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"test_{index}" for index in range(6)]


def test_batch_size_does_not_change_answers(trained: TrainedRun, scored_rows: Dataset) -> None:
    model, processor = open_checkpoint(trained.checkpoint)
    first = write_answers(model, processor, scored_rows, batch_size=1, max_new_tokens=5)
    assert first == write_answers(model, processor, scored_rows, batch_size=4, max_new_tokens=5)


def test_targets_are_not_read(trained: TrainedRun, scored_rows: Dataset) -> None:
    model, processor = open_checkpoint(trained.checkpoint)
    blind = scored_rows.remove_columns(
        ["emotion", "intent", "emotion_reason", "intent_reason", "joint_reason", "label"]
    )
    assert write_answers(model, processor, blind, max_new_tokens=5) == write_answers(
        model, processor, scored_rows, max_new_tokens=5
    )


def test_scores_of_answers(trained: TrainedRun, scored_rows: Dataset) -> None:
    """Perfect answers, and ones that cannot be read: they are wrong, not left out."""
    _, processor = open_checkpoint(trained.checkpoint)

    def answer(row: dict[str, Any], readable: bool) -> WrittenAnswer:
        labels = (row["emotion"], row["intent"]) if readable else (None, None)
        reasons = [row[name] or "" for name in ("emotion_reason", "intent_reason", "joint_reason")]
        return WrittenAnswer(row["id"], "", *labels, *(reasons if readable else ["", "", ""]))

    right = answer_scores([answer(row, True) for row in scored_rows], scored_rows, processor)
    assert right["joint_accuracy"] == right["parse_rate"] == right["emotion_recall_macro"] == 1.0
    assert right["emotion_rouge_l_stripped"] == pytest.approx(1.0) and right["intent_n"] == 5
    half = answer_scores([answer(row, i % 2 == 0) for i, row in enumerate(scored_rows)], scored_rows, processor)
    assert half["joint_accuracy"] == half["parse_rate"] == 0.5 and half["emotion_rouge_l_stripped"] == pytest.approx(
        0.5
    )
    assert "scored_joint_accuracy" not in half


def test_explaining_one_sentence(trained: TrainedRun) -> None:
    model, processor = open_checkpoint(trained.checkpoint)
    answer = explain_one(model, processor, text="so it is", max_new_tokens=4)
    assert answer.scored_emotion in EMOTIONS and answer.scored_intent in INTENTS
    with pytest.raises(ValueError, match="nothing to explain"):
        explain_one(model, processor)
    with pytest.raises(ValueError, match=r"captions of \['video'\] are given but this checkpoint reads none"):
        explain_one(model, processor, text="so it is", captions={"audio": None, "video": "a smile"})


def test_captions_of_one_clip_are_read(tiny_tokenizer: Any, tmp_path: Path) -> None:
    encoder = MediaEncoderConfig(num_mel_bins=AUDIO, video_front_end=None)
    model = tiny_model(modalities=("text", "audio"), encoder_config=encoder)
    processor = tiny_processor(tiny_tokenizer, config=model.config)
    clip = write_media(tmp_path / "clip.wav", seconds=0.5, video=None, audio="pcm_s16le")
    seen: list[Any] = []
    generate = model.generate
    model.generate = lambda **batch: seen.append(batch) or generate(**batch)
    for caption in ("great", "thank you", None):
        answer = explain_one(model, processor, clip, max_new_tokens=2, captions={"audio": caption})
        assert answer.scored_emotion in EMOTION_NAMES
    first, second, none = seen
    assert not torch.equal(first["audio_caption_ids"], second["audio_caption_ids"]) and "audio_caption_ids" not in none


def test_explain_script(trained: TrainedRun, root: Path) -> None:
    command = [
        sys.executable,
        "examples/explain.py",
        str(trained.checkpoint),
        "--text",
        "well",
        "--max_new_tokens",
        "3",
    ]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("Emotion: ") and "most likely label words" in done.stdout


# ---- adapters -------------------------------------------------------------------------------------------------------


def fresh(folder: Path, **overrides: Any) -> Any:
    from hf_mmintent.training import runs

    run = RunConfig.from_dict(settings(folder, **overrides))
    train = runs.read_splits(run)["train"]
    return (run, *runs.build(run, train))


@pytest.mark.parametrize("connector", ["lq_former", "cat_mod"])
def test_what_trains_is_lora_connectors_projectors_and_heads(tmp_path: Path, connector: str) -> None:
    run, model, _ = fresh(tmp_path, connector=connector)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    adapted = adapt(model, run.peft, tmp_path)
    trains = {name.removeprefix("base_model.model.") for name, p in adapted.named_parameters() if p.requires_grad}
    allowed = ("video_", "audio_", "emotion_head.", "intent_head.")
    assert all("lora_" in name or name.startswith(allowed) for name in trains)
    assert all("lora_" in name for name in trains if name.startswith("language_model."))
    assert not {name.replace(".modules_to_save.default.", ".") for name in trains} & frozen
    assert not any("original_module" in name for name in trains)
    projections = {name.split(".")[-4] for name in trains if "lora_A" in name}
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} == {
        name.split(".lora_A")[0].split(".")[-1] for name in trains if "lora_A" in name
    }, projections


def test_quantized_runs_train_the_same_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing quantized weights freezes everything: what trains in full beside the adapter has to train all the same."""
    run, model, _ = fresh(tmp_path)
    kind, given = type(model), {}
    from_pretrained = kind.from_pretrained

    def open_base(folder: Path, quantization_config: Any) -> Any:
        given["skipped"] = quantization_config.llm_int8_skip_modules
        real = importlib.util.find_spec("bitsandbytes") is not None
        return from_pretrained(folder, **({"quantization_config": quantization_config} if real else {}))

    monkeypatch.setattr(kind, "from_pretrained", open_base)
    settings = {**run.peft, "quantization": {"load_in_8bit": True}, "merge": False}
    quantized = adapt(model, settings, tmp_path / "quantized")
    plain = adapt(fresh(tmp_path / "again")[1], run.peft, tmp_path / "plain")
    trains, expected = ({n for n, p in m.named_parameters() if p.requires_grad} for m in (quantized, plain))
    assert trains == expected and any("video_connector" in name for name in trains)
    assert {"video_connector", "audio_projector", "emotion_head", "lm_head"} <= set(given["skipped"])
    assert "language_model" not in given["skipped"]


def test_adapter_weights_come_back_into_a_model_that_is_there(tmp_path: Path) -> None:
    run, model, _ = fresh(tmp_path)
    adapted = adapt(model, run.peft, tmp_path)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    adapted.save_pretrained(tmp_path / "saved")
    expected = {name: p.clone() for name, p in adapted.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    load_weights(adapted, tmp_path / "saved")
    for name, value in adapted.named_parameters():
        if name in expected:
            assert torch.equal(value, expected[name]), name


def test_unknown_and_contradicting_settings(tmp_path: Path) -> None:
    _, model, _ = fresh(tmp_path)
    with pytest.raises(ValueError, match=r"unknown peft setting `lora_alfa`.*`lora_alpha`"):
        adapt(model, {"lora_alfa": 3}, tmp_path)
    with pytest.raises(ValueError, match="quantized weights are not merged"):
        adapt(model, {"quantization": {"load_in_4bit": True}}, tmp_path)


def test_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    """Stopped in the middle of a stage: the frozen language model stays frozen after resuming."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    values = settings(tmp_path)
    values["config"]["stages"] = [["align", 2], ["joint", 1]]
    run = RunConfig.from_dict(values)
    whole = train_run(run, 0, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_run(run, 0, tmp_path / "cut", callbacks=[Stop()])
    cut = train_run(run, 0, tmp_path / "cut")
    first, second = (load_file(r.checkpoint / "model.safetensors") for r in (whole, cut))
    for name in first:
        torch.testing.assert_close(second[name], first[name], msg=name, atol=1e-6, rtol=1e-5)


# ---- a stage without the language model --------------------------------------------------------------------------------


def connect_settings(folder: Path) -> dict[str, Any]:
    values = settings(folder)
    values["config"] |= {"stages": [["connect", 2], ["joint", 1]], "label_word_loss_weight": 1.0}
    values["stage_training"] = {"connect": {"per_device_train_batch_size": 4}}
    values["stage_losses"] = {"connect": {"label_word_loss_weight": 0.7}, "joint": {"emotion_loss_weight": 0.25}}
    return values


def test_connecting_first_survives_an_interruption(tmp_path: Path) -> None:
    """Stopped in the middle of the stage and resumed: the same weights. It selects by loss and has its own batch size."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    seen: list[tuple[float, float]] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            seen.append((model.config.label_word_loss_weight, model.config.emotion_loss_weight))

    run = RunConfig.from_dict(connect_settings(tmp_path))
    whole = train_run(run, 0, tmp_path / "whole", callbacks=[Watch()])
    assert seen == [(0.7, 0.5), (1.0, 0.25)]  # each stage its own weights, others as in `config`
    connect, joint = whole.facts["stages"]
    assert (connect["name"], connect["metric"], joint["metric"]) == ("connect", "loss", "selection")
    state = json.loads(
        next((tmp_path / "whole" / "stage_1_connect").glob("checkpoint-8/trainer_state.json")).read_text()
    )
    assert state["global_step"] == 8 and state["train_batch_size"] == 4  # 16 rows, two epochs
    scored = [entry for entry in state["log_history"] if "eval_loss" in entry]
    assert len(scored) == 2 and {"eval_joint_accuracy", "eval_intent_f1_weighted"} <= set(scored[0])
    base = load_file(tmp_path / "whole" / "base" / "model.safetensors")
    best = load_file(tmp_path / "whole" / "stage_1_connect" / "best" / "adapter_model.safetensors")
    for name, value in best.items():
        plain = name.removeprefix("base_model.model.")
        if "lora_" not in name:
            assert torch.equal(value, base[plain]) == ("_head." in name), name
    with pytest.raises(KeyboardInterrupt):
        train_run(run, 0, tmp_path / "cut", callbacks=[Stop()])
    cut = train_run(run, 0, tmp_path / "cut")
    first, second = (load_file(r.checkpoint / "model.safetensors") for r in (whole, cut))
    for name in first:
        torch.testing.assert_close(second[name], first[name], msg=name, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        (
            "stage_training",
            {"conect": {}},
            r"`stage_training` names \['conect'\] but the stages are \['connect', 'joint'\]",
        ),
        ("stage_training", {"joint": {"num_train_epochs": 3}}, "set the epochs in `config.stages`"),
        ("stage_losses", {"jont": {}}, r"`stage_losses` names \['jont'\]"),
        (
            "stage_losses",
            {"joint": {"emotion_weight": 1.0}},
            r"`emotion_weight`: the loss weights are .*emotion_loss_weight",
        ),
        ("stage_losses", {"joint": {"tca_dim": 4}}, "has `tca_dim`"),
    ],
)
def test_wrong_stage_settings(tmp_path: Path, name: str, wrong: dict[str, Any], message: str) -> None:
    values = {**connect_settings(tmp_path), name: wrong}
    with pytest.raises(ValueError, match=message):
        train_run(RunConfig.from_dict(values), 0, tmp_path / "run")


# ---- two processes --------------------------------------------------------------------------------------------------


def two_process_run(settings_file: str, folder: str) -> None:
    """What each of the two processes does."""
    from accelerate import PartialState

    run = RunConfig.from_dict(json.loads(Path(settings_file).read_text()))
    trained = train_run(run, 0, Path(folder))
    assert trained.facts["processes"] == 2
    if PartialState().is_main_process:
        print(json.dumps(trained.validation))
    PartialState().wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)  # the interpreter may abort while it winds up a process group


@pytest.mark.distributed
def test_two_processes_train_what_one_trains(tmp_path: Path, root: Path) -> None:
    """The same batches, halved: the same weights and the same validation scores."""
    values = settings(tmp_path)
    # What halves of a batch share: no dropout, means over samples rather than tokens, steps in proportion to gradients.
    values["config"] |= {"lm_loss_weight": 0.0, "label_word_loss_weight": 1.0}
    values["config"]["stages"] = [["connect", 1], ["align", 1], ["joint", 1]]
    for name in ("video_connector_config", "audio_connector_config"):
        values["config"][name] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    values["training"] |= {"optim": "sgd", "learning_rate": 0.1}
    whole = train_run(RunConfig.from_dict(values), 0, tmp_path / "one")
    halved = {
        **values,
        "training": {**values["training"], "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4},
    }
    (tmp_path / "settings.json").write_text(json.dumps(halved))
    module = ("-m", "tests.hf_mmintent.test_answer_runs")
    run_in_two_processes(root, *module, tmp_path / "settings.json", tmp_path / "two", timeout=540)
    one, two = (load_file(folder / "final" / "model.safetensors") for folder in (tmp_path / "one", tmp_path / "two"))
    start = load_file(tmp_path / "one" / "base" / "model.safetensors")
    moved = [(one[name] - start[name]).abs().max().item() for name in one if name in start]
    assert max(moved) > 2e-3  # else equal weights would say nothing
    for name in one:
        torch.testing.assert_close(two[name], one[name], msg=name, atol=1e-4, rtol=1e-3)
    scores = json.loads((tmp_path / "two" / "final" / "run.json").read_text())["validation"]
    assert scores["n"] == whole.validation["n"] == 6


if __name__ == "__main__":
    two_process_run(*sys.argv[1:])
