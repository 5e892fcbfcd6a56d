"""Run a published table again: our mean ± std beside the paper's numbers, with a test against the best baseline.

    python examples/reproduce.py --list
    python examples/reproduce.py --table mmintent_mini.all --devices cpu cpu
    python examples/reproduce.py --table mvcl_daf.table1 --data /data --seeds 0..9
    python examples/reproduce.py --table clcr.table2 --data cmu_mosi=/data/MOSI cmu_mosei=/data/MOSEI --devices 0 1

The data folder holds one folder per dataset, named as in `--list`; what is not there is named in the report and left out. The
same command given again goes on where it was interrupted. The last lines name the report: Markdown, CSV and JSON.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from hf_mmintent.reproduce import list_tables, load_table, reproduce, with_settings, work
from hf_mmintent.reproduce.command_line import list_text, parse_data, parse_seeds, parse_settings
from hf_mmintent.reproduce.jobs import CHECKPOINT_SECONDS

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", help=f"one of {', '.join(list_tables(FOLDER / 'tables'))}, or a file of your own")
    parser.add_argument("--list", action="store_true", help="tables, their datasets and the files these need")
    parser.add_argument("--data", nargs="+", default=[], metavar="PATH", help="folder of all data, or NAME=PATH each")
    parser.add_argument("--seeds", nargs="+", metavar="N", help="such as 0 1 2, or 0..9; those of the table by default")
    parser.add_argument("--output_dir", default="runs/tables")
    parser.add_argument("--devices", nargs="+", default=[], help="run one job at a time on each: GPU numbers, or cpu")
    parser.add_argument("--keep", choices=("final", "none", "all"), default="final", help="which weights stay")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="JOB", help="names of single jobs, BLOCK/SYSTEM/seed_N"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE",
                        help="a setting of every run, such as backbones.text=/models/minilm")  # fmt: skip
    parser.add_argument("--checkpoint_minutes", type=float, default=CHECKPOINT_SECONDS / 60, metavar="N",
                        help="a running job writes a checkpoint when its last one is that old; 0: every epoch")  # fmt: skip
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)  # jobs come by standard input
    arguments = parser.parse_args()
    if arguments.list or not arguments.table:
        print(list_text(FOLDER))
        return
    words = sys.argv[1:]
    table = with_settings(load_table(arguments.table, FOLDER), parse_settings(arguments.set))
    what = (table, arguments.output_dir, parse_data(arguments.data), parse_seeds(arguments.seeds))
    how = {"keep": arguments.keep, "checkpoint_seconds": 60 * arguments.checkpoint_minutes}
    if arguments.worker:
        sys.argv.remove("--worker")  # a run notes the command that somebody would give
        work(*what, **how)
        return
    failed = reproduce(
        *what,
        arguments.devices,
        only=arguments.only,
        worker_command=[*_without_devices(words), "--worker"],
        commands=[shlex.join(["python", "examples/reproduce.py", *words])],
        **how,
    )
    if not arguments.only:
        report = Path(arguments.output_dir) / table.name / table.name
        print(report.with_name(f"{table.name}.md").read_text(encoding="utf-8"))
        print(f"report: {report}.md, .csv, .json")
    if failed:
        sys.exit(f"{len(failed)} runs failed: {', '.join(failed)}")


def _without_devices(words: list[str]) -> list[str]:
    """The command of a worker: this one, without `--devices` and what follows it."""
    kept, skipping = [sys.executable, str(Path(__file__).resolve())], False
    for word in words:
        skipping = word == "--devices" or (skipping and not word.startswith("--"))
        if not skipping:
            kept.append(word)
    return kept


if __name__ == "__main__":
    main()
