"""A classifier as ONNX: any batch, any lengths, any subset of its modalities; checked against torch.

    python examples/export_onnx.py CHECKPOINT --output onnx_model

Needs `pip install "hf_mmintent[onnx]"`. The graph takes words and features (those that a checkpoint's own media encoder makes,
or that were extracted), and lies beside config and processor. `hf_mmintent.export.OnnxClassifier("onnx_model")` runs it. Of a
checkpoint with a rule for "none of these" (`config.out_of_scope`) it also gives the rule's margins; logits are those before
the rule. The last line is the largest difference of a logit.
"""

from __future__ import annotations

import argparse

from hf_mmintent.evaluation import open_checkpoint
from hf_mmintent.export import OnnxClassifier, compare_logits, example_inputs, export_onnx

TOLERANCE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("--output", default="onnx_model", help="folder to write")
    arguments = parser.parse_args()
    model, processor = open_checkpoint(arguments.checkpoint)
    path = export_onnx(model, processor, arguments.output)
    classifier = OnnxClassifier(arguments.output)
    if classifier.none_of_these is not None:
        print(f"with the rule for {classifier.none_of_these!r}: `in_scope` and `margins` beside the logits before it")
    largest = 0.0
    for settings in ({}, {"batch_size": 1, "seed": 1}, {"batch_size": 5, "longer": 6, "seed": 2}):
        found = compare_logits(model.float(), classifier, example_inputs(model, **settings))
        print(", ".join(f"{subset} {difference:.1e}" for subset, difference in found.items()))
        largest = max(largest, *found.values())
    if largest > TOLERANCE:
        raise SystemExit(f"torch and ONNX differ by {largest:.1e}, more than {TOLERANCE:.0e}: do not use {path}.")
    print(f"{path}: logits differ by {largest:.1e} at most")


if __name__ == "__main__":
    main()
