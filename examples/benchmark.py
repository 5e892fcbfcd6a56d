"""What a model costs: parameters, FLOPs, training and inference time, memory, batch invariance.

    python examples/benchmark.py mvcl_daf --shapes mintrec --threads 2 --lengths mintrec
    python examples/benchmark.py plum_net --shapes mosi --set hidden_size=128 --json plum_net.json
    python examples/benchmark.py mvcl_daf --threads 1 --clock cpu        # on a machine that others use
    python examples/benchmark.py clcr --shapes mosi --growth --parts intra summaries inter identifiability
    python examples/benchmark.py cat_mod --shapes clip_grid --set share_cross_kv=true prune_scope=ca+ffn
    python examples/benchmark.py media runs/quickstart/seed_0/final         # from clips to labels; see `media --help`
    python examples/benchmark.py xmei_qwen --shapes mini --language_model 135m --threads 1 --clock cpu

The model is built with random weights at the widths of the shape; its batches are synthetic rows through its own
processor. A training step, the text encoder's share of it alone (every text view that the step encodes, forward and
backward) and, with `--lengths`, steps on batches with the text lengths of a real dataset take turns, so that all meet the
same machine; sound and video keep their full length. FLOPs are those of matrix products and convolutions. A step is forward
and backward; shares of parts, the children of the base model, are those of its time under torch's profiler.

The last line is the batch invariance: `logits move by 1e-07 at most, ...`, or `tokens move by`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import yaml

from hf_mmintent.benchmark import LENGTHS, SHAPES, TEXT_SIZES, BenchmarkConfig, format_report, media, run_benchmark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_type", help="architecture, e.g. mvcl_daf; or `media`, with arguments of its own")
    parser.add_argument("--shapes", default="mintrec", choices=sorted(SHAPES))
    parser.add_argument("--batch_size", type=int, help="in place of that of the shape")
    parser.add_argument("--text", default="minilm", choices=sorted(TEXT_SIZES), help="size of a random text encoder")
    parser.add_argument("--text_backbone", help="name or path of a pretrained text encoder, in place of --text")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields of the architecture's config"
    )
    parser.add_argument("--auto_class", default="AutoModelForSequenceClassification", help="which head")
    parser.add_argument("--language_model", default="tiny", help="of a model that writes: tiny, 135m, a name or a path")
    parser.add_argument("--new_tokens", type=int, default=32, help="of a model that writes: generated after the first")
    parser.add_argument("--lengths", choices=sorted(LENGTHS), help="also time batches with these real text lengths")
    parser.add_argument("--threads", type=int, help="threads of torch on CPU")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="cpu: processor time of this process")
    parser.add_argument(
        "--return_memory", action="store_true", help="leave it to the C library to return freed memory between steps"
    )
    parser.add_argument("--repeats", type=int, default=10, help="timed rounds")
    parser.add_argument(
        "--parts",
        nargs="*",
        metavar="NAME",
        help="profile which part takes how much of a step; the joint share of these",
    )
    parser.add_argument("--growth", action="store_true", help="time steps at parts of the batch and of the lengths")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="also write the figures to this file")
    settings = vars(parser.parse_args())
    path, pairs = settings.pop("json"), settings.pop("set")
    settings["keep_memory"] = not settings.pop("return_memory")
    settings["parts"] = None if settings["parts"] is None else tuple(settings["parts"])
    for pair in pairs:
        if "=" not in pair:
            parser.error(f"--set {pair}: write FIELD=VALUE")
    overrides = {name: yaml.safe_load(value) for name, _, value in (pair.partition("=") for pair in pairs)}
    report = run_benchmark(BenchmarkConfig(overrides=overrides, **settings))
    if path is not None:
        Path(path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(format_report(report))


if __name__ == "__main__":
    if sys.argv[1:2] == ["media"]:
        media.main(sys.argv[2:])
    else:
        main()
