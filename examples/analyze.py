"""Every analysis of a trained model, those of the papers and more: pictures and their numbers.

    python examples/analyze.py robustness runs/mvcl_daf_mmintent_mini --split test
    python examples/analyze.py levels runs/clcr_cmu_mosi --split test
    python examples/analyze.py NAME --help

The last line names the files that were written.
"""

from __future__ import annotations

import argparse

from hf_mmintent.analysis import ANALYSES, analysis


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="name", required=True)
    for name in ANALYSES:
        module = analysis(name)
        help_text = (module.__doc__ or "").split("\n")[0]
        command = commands.add_parser(
            name, help=help_text, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
    arguments = parser.parse_args()
    print(analysis(arguments.name).run(arguments))


if __name__ == "__main__":
    main()
