"""Clips per second from files to labels, and the share of decoding, encoding and classifying.

    python examples/benchmark_media.py runs/quickstart/seed_0/final --limit 48
    python examples/benchmark_media.py CHECKPOINT --clips folder/*.mp4 --batch_sizes 1 16 --clock cpu

Without `--clips` the test clips of mmintent-mini are taken, with their words. The last line is how far scores move with
the batch size.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import pipeline

import hf_mmintent
from hf_mmintent.benchmark.media import benchmark_media, format_media_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id of a checkpoint with a media encoder")
    parser.add_argument("--clips", nargs="+", help="media files")
    parser.add_argument("--limit", type=int, help="take only so many")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--threads", type=int, help="threads of torch on CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.clips:
        inputs: list = [Path(clip) for clip in arguments.clips]
    else:
        rows = hf_mmintent.load("mmintent_mini")["test"]
        inputs = [{"clip": row["video_path"], "text": row["text"]} for row in rows]
    pipe = pipeline("multimodal-intent-recognition", model=arguments.checkpoint, device=arguments.device)
    report = benchmark_media(pipe, inputs[: arguments.limit], arguments.batch_sizes, arguments.clock)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    print(format_media_report(report))


if __name__ == "__main__":
    main()
