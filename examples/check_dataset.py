"""Check the files of a dataset before training on them: counts, missing media, widths, lengths, overlaps of splits.

    python examples/check_dataset.py mintrec --data_dir /data/MIntRec --figure runs/mintrec.png
    python examples/check_dataset.py meld --data_dir /data/MELD --config_name sentiment

Counts are compared with the published ones where they are known. Exit code 1 when something is wrong; what is merely to be
known (missing clips, speakers in several splits) is a warning. Takes builders, Parquet folders and Hub ids alike.
"""

from __future__ import annotations

import argparse
import sys

import yaml

from hf_mmintent.data.histograms import save_histograms
from hf_mmintent.data.validation import validate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="name of a builder, Parquet folder, or id on the Hub")
    parser.add_argument("--data_dir", help="folder with the dataset's own files")
    parser.add_argument("--config_name", help="configuration of the dataset")
    parser.add_argument("--options", type=yaml.safe_load, default={}, help="further options of the builder, as YAML")
    parser.add_argument("--subset", action="store_true", help="the files are a part: other counts are only warnings")
    parser.add_argument("--decode", nargs="?", const=True, default=False, choices=[True, "whole"], metavar="whole",
                        help="also decode the start of every sound and clip, or the whole of it")  # fmt: skip
    parser.add_argument("--figure", help="write histograms of labels and lengths to this PNG")
    arguments = parser.parse_args()
    report = validate(
        arguments.dataset,
        arguments.data_dir,
        arguments.config_name,
        is_subset=arguments.subset,
        decode=arguments.decode,
        **arguments.options,
    )
    print(report)
    if arguments.figure and report.facts is not None:
        print(save_histograms(report.facts, arguments.figure, report.name))
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
