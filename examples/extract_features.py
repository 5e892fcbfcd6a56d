"""Clips to features, once: the rows of a dataset with `audio_features` and `video_features`, in shards of Arrow.

    python examples/extract_features.py mmintent_mini features/mini
    python examples/extract_features.py /data/clips features/clips --audio facebook/hubert-base-ls960
    accelerate launch examples/extract_features.py meld features/meld --data_dir /data/MELD --preset xmei \\
        --set frame_rate=10 compute_dtype=bfloat16

The first argument is whatever `hf_mmintent.load` takes: a builder whose rows have media, a folder of Parquet files, or a
folder of clips. The encoder is a preset, pretrained parts, or a saved one (`--path`, also of a classifier that owns one);
without any of them the front ends that need no weights. A run that was killed goes on when the same command is given again.

    python examples/extract_features.py mmintent_mini features/mini --run examples/configs/plum_net_mmintent_mini.yaml
    python examples/train.py examples/configs/plum_net_mmintent_mini.yaml --data.name features/mini

With `--run`, or `--encoder.path features/mini/encoder` in training, the trained checkpoint owns the encoder and takes clips.

Clips that cannot be decoded, and rows whose clip is null already (a builder makes absent and damaged files null), are
listed in `failures.jsonl` and have null features. The last line is the summary, and the exit code is 3 when any are listed:

    features/mini: train 192, validation 64, test 96 rows; no clip failed; 3 shards made, 0 kept, 5.0 s
"""

from __future__ import annotations

import argparse
import sys

import yaml
from datasets import DatasetDict

from hf_mmintent import load
from hf_mmintent.data.extraction import ExtractionOptions, extract_features, processes
from hf_mmintent.encoders import build_encoder
from hf_mmintent.training import RunConfig


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="builder, folder of Parquet files or of clips, or Hub id")
    parser.add_argument("folder", help="of the features")
    parser.add_argument("--data_dir", help="folder with the official files of a builder")
    parser.add_argument("--config_name", help="configuration of a builder")
    parser.add_argument("--splits", nargs="+", help="of the dataset; all of them by default")
    parser.add_argument("--preset", help="mintrec, mintrec2 or xmei")
    parser.add_argument("--audio", help="name or path of a speech encoder")
    parser.add_argument("--video", help="name or path of an image encoder")
    parser.add_argument("--run", help="YAML file of a training run, for its `encoder`")
    parser.add_argument("--path", help="saved encoder, or model that owns one")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields of MediaEncoderConfig")
    parser.add_argument("--batch_size", type=int, default=ExtractionOptions.batch_size)
    parser.add_argument("--shard_size", type=int, default=ExtractionOptions.shard_size)
    parser.add_argument("--decoders", type=int, default=ExtractionOptions.decoders, help="threads that decode clips")
    parser.add_argument("--drop_failed", action="store_true", help="leave out rows whose clip cannot be decoded")
    parser.add_argument("--retry_failed", action="store_true", help="do shards with failures again")
    parser.add_argument("--no_encoder", action="store_true", help="do not keep the encoder beside the features")
    given = parser.parse_args()
    for pair in given.set:
        if "=" not in pair:
            parser.error(f"--set {pair}: write FIELD=VALUE")
    settings = dict((RunConfig.load(given.run).encoder if given.run else None) or {})
    parts = {name: getattr(given, name) for name in ("preset", "audio", "video", "path")}
    settings |= {name: value for name, value in parts.items() if value is not None}
    settings |= {name: yaml.safe_load(value) for name, _, value in (pair.partition("=") for pair in given.set)}
    options = ExtractionOptions(
        batch_size=given.batch_size,
        shard_size=given.shard_size,
        drop_failed=given.drop_failed,
        retry_failed=given.retry_failed,
        save_encoder=not given.no_encoder,
        decoders=given.decoders,
    )
    state = processes()
    with state.main_process_first():  # the others find the rows in the cache
        rows = load(given.data, data_dir=given.data_dir, name=given.config_name)
    if given.splits is not None:
        rows = DatasetDict({name: rows[name] for name in given.splits})
    report = extract_features(rows, build_encoder(settings), given.folder, options)
    if state.is_main_process:
        print(report)
    return 3 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
