"""Publish a dataset as Parquet with a card that `datasets.load_dataset` opens without any code; media go inside.

    python examples/publish_dataset.py mintrec --data_dir /data/MIntRec --output_dir /data/mintrec_parquet
    python examples/publish_dataset.py mintrec --data_dir /data/MIntRec --repo_id me/mintrec --private
    python examples/publish_dataset.py meld --data_dir /MELD --columns text --config_name emotion sentiment --repo_id me/meld

The last line is the folder or the commit. Where the licence does not permit a public copy, `--repo_id` is refused without
`--private`.
"""

from __future__ import annotations

import argparse

import yaml

from hf_mmintent.hub.publish_dataset import DatasetSource, publish_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="name of a builder, or a Parquet folder")
    parser.add_argument("--data_dir", help="folder with the dataset's own files")
    parser.add_argument("--config_name", nargs="+", default=[], help="configurations, the default one first")
    parser.add_argument(
        "--columns", nargs="+", default=["auto"], help="text, features, media; what is there by default"
    )
    parser.add_argument("--options", type=yaml.safe_load, default={}, help="further options of the builder, as YAML")
    parser.add_argument("--repo_id", help="owner/name on the Hub")
    parser.add_argument("--output_dir", help="folder to write to, and to keep")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--allow_redistribution", action="store_true", help="you hold the right to publish these data")
    parser.add_argument("--shard_megabytes", type=int, default=500, help="size of a Parquet file, uncompressed")
    arguments = parser.parse_args()
    columns = arguments.columns[0] if len(arguments.columns) == 1 else arguments.columns
    source = DatasetSource(arguments.dataset, arguments.data_dir, arguments.config_name, columns, arguments.options)
    print(
        publish_dataset(
            source,
            arguments.repo_id,
            arguments.output_dir,
            arguments.private,
            arguments.allow_redistribution,
            arguments.shard_megabytes << 20,
        )
    )


if __name__ == "__main__":
    main()
