"""How fast rows are read: from Arrow files to padded batches, in random order, on one core.

    python examples/benchmark_data.py
    python examples/benchmark_data.py --shape mintrec --rows 500 2000

Synthetic rows of the shape are written to a temporary folder and read once, each size in a process of its own. The last
lines are, for every size, rows per second by the wall clock and by processor time (which other users of the machine
disturb less), and the growth of the process's own memory, which must not follow the size of the dataset.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from hf_mmintent.benchmark import SHAPES
from hf_mmintent.benchmark.reading import measure_sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="mosi", choices=sorted(SHAPES))
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 16000], help="sizes of the dataset")
    parser.add_argument("--folder", help="for the files (0.75 GiB for 16000 rows of mosi); a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for reading in measure_sizes(Path(folder), given.shape, tuple(given.rows)):
            print(reading)


if __name__ == "__main__":
    main()
