"""What media cost a model that writes: generation beside the bare language model with as many prompt tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from hf_mmintent.benchmark.measures import autocast, interleaved, make_clock, summary
from hf_mmintent.benchmark.shapes import Shape

# Language models with random weights, for where no pretrained one is at hand.
LANGUAGE_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
    "135m": {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
    },
}
_VOCABULARY = 49152


def writes(kind: Any) -> bool:
    """Whether models of this class generate texts."""
    return bool(kind.can_generate())


def build_writer(kind: Any, shape: Shape, language_model: str, overrides: Mapping[str, Any], seed: int) -> Any:
    """
    A model with the features of `shape`.

    Args:
        kind: its class.
        shape: widths of the features.
        language_model: a key of `LANGUAGE_SIZES`, or name or path of a pretrained one.
        overrides: fields of the config.
        seed: of random weights.
    """
    torch.manual_seed(seed)
    widths = {name: width for name, (_, width) in shape.features.items()}
    if language_model not in LANGUAGE_SIZES:
        return kind.from_backbones(language_model=language_model, **widths, **overrides)
    size = LANGUAGE_SIZES[language_model]
    fields = {"vocab_size": _VOCABULARY, "num_key_value_heads": 1, "tie_word_embeddings": True, **size}
    decoder: PreTrainedConfig = AutoConfig.for_model("qwen2", **fields)
    tokens = {f"{name}_token_id": _VOCABULARY - 1 - index for index, name in enumerate(widths)}
    sizes = {f"{name}_feature_size": width for name, width in widths.items()}
    return kind(kind.config_class(language_model_config=decoder, **sizes, **tokens, **overrides)).eval()


def prompts(model: Any, shape: Shape, seed: int, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs with media, and as many random words for the language model alone."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    ids = torch.randint(5, 1000, (shape.batch_size, shape.text), generator=generator)
    batch: dict[str, Tensor] = {}
    for name, (steps, width) in shape.features.items():
        places = torch.full((shape.batch_size, config.num_tokens(name)), getattr(config, f"{name}_token_id"))
        ids = torch.cat([places, ids], 1)
        batch[f"{name}_features"] = torch.randn(shape.batch_size, steps, width, generator=generator)
    words = torch.randint(5, 1000, ids.shape, generator=generator)
    batch |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    bare = {"input_ids": words, "attention_mask": torch.ones_like(ids)}
    return tuple({name: value.to(device) for name, value in part.items()} for part in (batch, bare))  # type: ignore[return-value]


def generation_cost(
    kind: Any,
    shape: Shape,
    language_model: str,
    new_tokens: int,
    overrides: Mapping[str, Any],
    device: torch.device,
    repeats: int,
    clock: str = "wall",
    dtype: str = "fp32",
    seed: int = 0,
) -> dict[str, Any]:
    """
    Time the first token, and those after it, with media and without.

    Args:
        kind, shape, language_model, overrides, seed: see [`build_writer`].
        new_tokens: after the first one.
        device: where it is timed.
        repeats: timed rounds; in each all variants take turns.
        clock: "wall" or "cpu".
        dtype: "fp32" or "bf16" for mixed precision.

    Returns:
        `generation`: milliseconds to the first token and per further token of both, their ratios, prompt tokens, parameters.
    """
    model = build_writer(kind, shape, language_model, overrides, seed).to(device)
    batch, bare = prompts(model, shape, seed, device)

    def work(of: Any, inputs: dict[str, Tensor], count: int) -> Any:
        def run() -> None:
            with torch.inference_mode(), autocast(device, dtype):
                of.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False)

        return run

    works = {
        f"{name}, {count}": [work(of, inputs, count)]
        for name, of, inputs in (("media", model, batch), ("bare", model.language_model, bare))
        for count in (1, 1 + new_tokens)
    }
    times = interleaved(works, repeats, make_clock(clock, device))
    found: dict[str, Any] = {"prompt_tokens": batch["input_ids"].shape[1], "new_tokens": new_tokens}
    later = {}
    for name in ("media", "bare"):
        pairs = zip(times[f"{name}, {1 + new_tokens}"], times[f"{name}, 1"], strict=True)
        later[name] = [(whole - first) / new_tokens for whole, first in pairs]
        found[name] = {"first_token": summary(times[f"{name}, 1"]), "per_further_token": summary(later[name])}
    for part in ("first_token", "per_further_token"):
        above, below = found["media"][part], found["bare"][part]
        found[f"{part}_ratio"] = {key: above[f"{key}_ms"] / below[f"{key}_ms"] for key in ("median", "min")}
    counts = {"total": model, "language_model": model.language_model}
    found["parameters"] = {name: sum(p.numel() for p in part.parameters()) for name, part in counts.items()}
    return {"generation": found}


def format_generation(report: Mapping[str, Any]) -> list[str]:
    """Lines below the headline."""
    found = report["generation"]
    size = found["parameters"]

    def line(name: str, part: str) -> str:
        media, bare, ratio = (found[key] for key in ("media", "bare", f"{part}_ratio"))
        return (
            f"{name:<26}{media[part]['median_ms']:>9.2f} ms with media {bare[part]['median_ms']:>9.2f} ms bare, ratio "
            f"{ratio['median']:.3f} of medians, {ratio['min']:.3f} of minima"
        )

    return [
        f"parameters                {size['total'] / 1e6:.2f} M, language model {size['language_model'] / 1e6:.2f} M",
        f"prompt                    {found['prompt_tokens']} tokens, {found['new_tokens']} generated after the first",
        line("first token", "first_token"),
        line("every further token", "per_further_token"),
    ]
