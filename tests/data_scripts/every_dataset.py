"""A small folder in the official layout of every builder and configuration, with the features and clips that it may have."""

import csv
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from tests.data_scripts import (
    test_ave,
    test_cmu_mosi,
    test_crema_d,
    test_grid,
    test_ict_mmmo,
    test_kinetics_sounds,
    test_mc_eiu,
    test_meld,
    test_mintrec2,
    test_mustard,
    test_ucf101,
    test_ur_funny,
    test_xmei,
)
from tests.data_scripts.hkt_files import hkt_examples
from tests.data_scripts.official_files import mmsa_parts, write_mintrec, write_mintrec_features, write_mmsa
from tests.data_scripts.tiny_media import write_media


def mintrec(folder: Path) -> None:
    write_mintrec_features(write_mintrec(folder))
    write_media(folder / "raw_data" / "S04" / "E01" / "1.mp4")


def mintrec2(folder: Path) -> None:
    test_mintrec2.write(folder)
    for value, part in enumerate(test_mintrec2.PARTS):
        test_mintrec2.write_features(folder, part, test_mintrec2.FEATURES, value)
    write_media(folder / "raw_data" / "dia0_utt10.mp4")


def mmsa(name: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        parts = mmsa_parts(name == "aligned")
        write_mmsa(folder, f"{name}_50", parts)
        video, clip = str(parts["train"]["id"][0]).split("$_$")
        write_media(folder / "Raw" / video / f"{clip}.mp4")

    return write


def mmsa_clips(folder: Path) -> None:
    """`label.csv`, and the clips of all rows but the last."""
    columns = ("video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "annotation", "mode")
    rows = [
        ("-3g5yACwYnA", "2", "A, B", "-1.4", "", "", "", "Negative", "train"),
        ("-3g5yACwYnA", "10", 'SHE SAID "NO"', "0", "", "", "", "Neutral", "train"),
        ("03bSnISJMiM", "1", "C", "2.6", "", "", "", "Positive", "valid"),
        ("0015", "0007", "D", "3.0", "", "", "", "Positive", "test"),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "label.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    for video, clip, *_ in rows[:-1]:
        write_media(folder / "Raw" / video / f"{clip}.mp4")


def mosi_vectors(folder: Path) -> None:
    lines = [*test_cmu_mosi.LINES, *((f"v{i}", 1, "X", 0.5, "train") for i in range(10))]
    test_cmu_mosi.write_utterances(folder, lines)


def meld(folder: Path) -> None:
    write_media(test_meld.write_meld(folder) / "train_splits" / "dia0_utt10.mp4")


def mustard(folder: Path) -> None:
    test_mustard.write_folds(test_mustard.write(folder))
    audio = {f"1_{k}": np.ones((7, k + 1)) for k in range(20)}
    (folder / "audio_features.p").write_bytes(pickle.dumps(audio))
    path = folder / "features" / "utterances_final" / "resnet_pool5.hdf5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for k in range(20):
            file[f"1_{k}"] = np.full((k + 2, 5), k, np.float32)


def grid_raw(folder: Path) -> None:
    test_grid.write_clips(folder)
    test_grid.write_archive(folder)


def ave(folder: Path) -> None:
    test_ave.write_features(test_ave.write(folder))
    write_media(folder / "AVE" / "RUhOCu3LNXM.mp4")


def ave_by_order(folder: Path) -> None:
    test_ave.write(folder, order=True)


def crema_d(folder: Path) -> None:
    write_media(test_crema_d.write(folder) / "AudioWAV" / f"{test_crema_d.TEST[0]}.wav")


def mc_eiu(folder: Path) -> None:
    test_mc_eiu.write_features(test_mc_eiu.write(folder), A={"s1_d1_0": ...})
    test_mc_eiu.write_speakers(folder)


def ucf101(folder: Path) -> None:
    test_ucf101.write_flow(test_ucf101.write(folder), "u and v", "v_YoYo_g01_c01")
    write_media(folder / "UCF-101" / "YoYo" / "v_YoYo_g01_c01.avi")


def ur_funny(folder: Path) -> None:
    write_media(test_ur_funny.write(folder) / "urfunny2_videos" / "10.mp4")


def xmei(folder: Path) -> None:
    write_media(test_xmei.write(folder) / "videos" / "a_1.mp4")


def hkt(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / f"{name}.pkl").write_bytes(pickle.dumps(hkt_examples([1, 2, 3, 4, 5, 6])))


WRITERS: dict[tuple[str, str], Callable[[Path], object]] = {
    ("ave", "ave"): ave,
    ("cmu_mosi", "aligned"): mmsa("aligned"),
    ("cmu_mosi", "unaligned"): mmsa("unaligned"),
    ("cmu_mosi", "raw"): mmsa_clips,
    ("cmu_mosi", "bc_split"): mosi_vectors,
    ("cmu_mosei", "aligned"): mmsa("aligned"),
    ("cmu_mosei", "unaligned"): mmsa("unaligned"),
    ("cmu_mosei", "raw"): mmsa_clips,
    ("crema_d", "paper"): crema_d,
    ("crema_d", "actor_fold1"): crema_d,
    ("grid", "features"): test_grid.write_archive,
    ("grid", "raw"): grid_raw,
    ("ict_mmmo", "sentiment"): test_ict_mmmo.write_archive,
    ("ict_mmmo", "binary"): test_ict_mmmo.write_archive,
    ("kinetics_sounds", "folders"): test_kinetics_sounds.write,
    ("kinetics_sounds", "lists"): test_kinetics_sounds.write_lists,
    ("mc_eiu", "emotion_fold1"): mc_eiu,
    ("meld", "emotion"): meld,
    ("meld", "sentiment"): meld,
    ("mintrec", "mintrec"): mintrec,
    ("mintrec2", "in_scope"): mintrec2,
    ("mintrec2", "oos"): mintrec2,
    ("mintrec2", "total31"): mintrec2,
    ("mustard", "fold0"): mustard,
    ("mustard", "hkt"): hkt("mustard"),
    ("mustard", "own_fold1"): mustard,
    ("ucf101", "split1"): ucf101,
    ("ur_funny", "v2"): ur_funny,
    ("ur_funny", "hkt"): hkt("ur_funny"),
    ("xmei", "intent"): xmei,
    ("xmei", "emotion"): xmei,
}
OPTIONS = {("cmu_mosi", "bc_split"): {"validation_videos": 1}}  # beside `strict_counts=False`
