"""Clips per second from files to labels, and the share of decoding, encoding and classifying.

    python examples/benchmark.py media runs/quickstart/seed_0/final
    python examples/benchmark.py media CHECKPOINT --clips folder/*.mp4 --batch_sizes 1 16 --threads 1

The same as `python examples/benchmark_media.py CHECKPOINT`. Without `--clips` the test clips of mmintent-mini are taken, with
their words. Every batch size runs with decoding ahead of the model in a thread, and in turn. `--clock cpu` takes processor
time, on a machine that others use; overlapping is seen on the wall clock only. The last line is how far scores move with
the batch size.
"""

from __future__ import annotations

from hf_mmintent.benchmark.media import main

if __name__ == "__main__":
    main(description=__doc__)
