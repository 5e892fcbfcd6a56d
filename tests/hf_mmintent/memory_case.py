"""Child process of the memory tests: build MIntRec-like features, read every row, print what it took.

    python -m tests.hf_mmintent.memory_case ROWS[,ROWS…] VIDEO_STEPS AUDIO_STEPS FOLDER

Lengths are uniform up to the given steps, widths 1024 (video) and 768 (audio). The rows are built from the pickles, then read
in random order in batches of 32 as training reads them. Prints for every number of rows, in MiB: the peak of the process's own
(anonymous) memory above what the imports took; the peak of its resident set above the same, which also counts the pages of
mapped files; the size of the feature files. Then the seconds.
"""

import pickle
import sys
import threading
import time
from pathlib import Path

import numpy as np

LABELS = ("Complain", "Praise", "Thank")


def write_folder(folder: Path, rows: int, steps: dict[str, tuple[int, int]]) -> int:
    """Tables and feature pickles; each pickle is written entry by entry, so that writing takes no memory either."""
    keys = [f"S04_E01_{i}" for i in range(rows)]
    random = np.random.default_rng(0)
    for split, part in (("train", keys[:-2]), ("dev", keys[-2:-1]), ("test", keys[-1:])):
        lines = [(*key.split("_"), "hello", LABELS[i % 3]) for i, key in enumerate(part)]
        text = "\n".join("\t".join(line) for line in [("season", "episode", "clip", "text", "label"), *lines])
        (folder / f"{split}.tsv").write_text(text + "\n")
    size = 0
    for modality, (most, width) in steps.items():
        path = folder / f"{modality}_data" / f"{modality}_feats.pkl"
        path.parent.mkdir()
        with path.open("wb") as file:
            file.write(b"\x80\x03}")
            for key in keys:
                values = np.full((int(random.integers(1, most + 1)), 1, width), 0.5, np.float32)
                for item in (key, values):  # without the first two bytes (protocol) and the last (stop)
                    file.write(pickle.dumps(item, protocol=3)[2:-1])
                file.write(b"s")
            file.write(b".")
        size += path.stat().st_size
    return size


def memory() -> np.ndarray:
    """MiB of anonymous memory of this process, and of its whole resident set."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return np.array([int(status[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS")])


def measure(rows: int, video: int, audio: int, folder: Path) -> None:
    """Build, read and print for one number of rows."""
    folder.mkdir()
    size = write_folder(folder, rows, {"video": (video, 1024), "audio": (audio, 768)})
    from hf_mmintent.data.loading import load
    from hf_mmintent.data.reading import direct

    load("mintrec", data_dir=folder, strict_counts=False, columns="text")  # imports and one-time costs
    before, peak, done = memory(), np.zeros(2), threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            np.maximum(peak, memory(), out=peak)

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.time()
    splits = load("mintrec", data_dir=folder, strict_counts=False)
    total = 0.0
    for part in splits.values():
        reader, order = direct(part), np.random.default_rng(0).permutation(len(part)).tolist()
        for first in range(0, len(order), 32):
            for row in reader.__getitems__(order[first : first + 32]):
                total += float(row["video_features"].sum() + row["audio_features"].sum())
    assert total > 0
    assert sum(len(part) for part in splits.values()) == rows
    done.set()
    thread.join()
    own, resident = np.maximum(peak - before, 0)
    print(f"RESULT {own:.0f} {resident:.0f} {size / 2**20:.0f} {time.time() - start:.1f}")


def main() -> None:
    for rows in map(int, sys.argv[1].split(",")):
        measure(rows, int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]) / str(rows))


if __name__ == "__main__":
    main()
