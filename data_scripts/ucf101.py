"""UCF101: 13,320 clips of 101 actions, with optical flow where it was computed."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets

from hf_mmintent.data.checks import DataError, Row, check_counts, find_file, read_text, resolve_inside
from hf_mmintent.data.flow_files import find_flow, flow_frames
from hf_mmintent.data.holdout import HoldOutConfig, hold_out
from hf_mmintent.data.media_files import MediaBuilder, MediaConfig

# Order of classInd.txt, which is not that of Python's `sorted`: Hammering is before HammerThrow there.
_CLASSES = (
    "ApplyEyeMakeup", "ApplyLipstick", "Archery", "BabyCrawling", "BalanceBeam", "BandMarching", "BaseballPitch",
    "Basketball", "BasketballDunk", "BenchPress", "Biking", "Billiards", "BlowDryHair", "BlowingCandles",
    "BodyWeightSquats", "Bowling", "BoxingPunchingBag", "BoxingSpeedBag", "BreastStroke", "BrushingTeeth",
    "CleanAndJerk", "CliffDiving", "CricketBowling", "CricketShot", "CuttingInKitchen", "Diving", "Drumming", "Fencing",
    "FieldHockeyPenalty", "FloorGymnastics", "FrisbeeCatch", "FrontCrawl", "GolfSwing", "Haircut", "Hammering",
    "HammerThrow", "HandstandPushups", "HandstandWalking", "HeadMassage", "HighJump", "HorseRace", "HorseRiding",
    "HulaHoop", "IceDancing", "JavelinThrow", "JugglingBalls", "JumpingJack", "JumpRope", "Kayaking", "Knitting",
    "LongJump", "Lunges", "MilitaryParade", "Mixing", "MoppingFloor", "Nunchucks", "ParallelBars", "PizzaTossing",
    "PlayingCello", "PlayingDaf", "PlayingDhol", "PlayingFlute", "PlayingGuitar", "PlayingPiano", "PlayingSitar",
    "PlayingTabla", "PlayingViolin", "PoleVault", "PommelHorse", "PullUps", "Punch", "PushUps", "Rafting",
    "RockClimbingIndoor", "RopeClimbing", "Rowing", "SalsaSpin", "ShavingBeard", "Shotput", "SkateBoarding", "Skiing",
    "Skijet", "SkyDiving", "SoccerJuggling", "SoccerPenalty", "StillRings", "SumoWrestling", "Surfing", "Swing",
    "TableTennisShot", "TaiChi", "TennisSwing", "ThrowDiscus", "TrampolineJumping", "Typing", "UnevenBars",
    "VolleyballSpiking", "WalkingWithDog", "WallPushups", "WritingOnBoard", "YoYo",
)  # fmt: skip
_LISTS = "ucfTrainTestlist"
_CLIPS = "UCF-101"
_COUNTS = {"split1": (9537, 3783)}
_REMEMBERED = {"split2": (9586, 3734), "split3": (9624, 3696)}
_NAME = re.compile(r"v_\w+_g(\d+)_c\d+")


@dataclass
class Ucf101Config(HoldOutConfig, MediaConfig):
    """Options of UCF101: those of every builder, of the held-out validation split, and of clips."""


class Ucf101(MediaBuilder):
    """UCF101 (Soomro et al., CRCV-TR-12-01, 2012): 101 actions in 13,320 clips; modalities video and optical flow.

    Configurations: the official `split1` (9,537 / 3,783, default), `split2`, `split3`.

    Expected folder (`data_dir`), of which only the lists of the split must be there:

        ucfTrainTestlist/
            classInd.txt                            1 ApplyEyeMakeup … compared with the order of the package
            trainlist01.txt  testlist01.txt         Class/v_Class_g08_c01.avi 1, and the same without the number
        UCF-101/
            ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi
        flow/                                       or tvl1_flow/; optional, one folder per clip (also below its class)
            v_ApplyEyeMakeup_g08_c01/
                flow_x_00001.jpg  flow_y_00001.jpg  or u/00001.jpg and v/00001.jpg
            u/v_ApplyEyeMakeup_g08_c01/00001.jpg    or so, with the vertical part in v/

    Clips of one group (`g08`) are cut from one video, `dialogue_id` names it, and the official lists keep groups
    together. They hold no validation split: a tenth of the training groups of each class is held out, chosen with a seed
    (`validation_share`, `validation_seed`). The class is that of the folder; the clips of HandstandPushups are named
    v_HandStandPushups.

    `flow_path` is a folder, to be read with `hf_mmintent.data.flow_files.flow_frames`. Clips that are absent or do not
    decode, and flow whose two parts do not belong together, become null and are counted. There is no text, and the
    sound that half of the clips have is not used.

    Columns: `id`, `label`, `dialogue_id` (class and group), `video_path`, `flow_path`.
    """

    CITATION = (
        "@techreport{soomro2012ucf101, title={UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild}, "
        "author={Soomro, Khurram and Zamir, Amir Roshan and Shah, Mubarak}, institution={CRCV, University of Central "
        "Florida}, number={CRCV-TR-12-01}, year={2012}}"
    )
    HOMEPAGE = "https://www.crcv.ucf.edu/data/UCF101.php"
    LICENSE = "none stated; the clips come from YouTube"
    BUILDER_CONFIG_CLASS = Ucf101Config
    BUILDER_CONFIGS = [Ucf101Config(name=name) for name in (*_COUNTS, *_REMEMBERED)]
    DEFAULT_CONFIG_NAME = "split1"
    LABELS = _CLASSES
    TEXT = False
    COLUMNS = {"dialogue_id": datasets.Value("string")}
    MEDIA = ("video", "flow")

    def row_counts(self) -> dict[str, int]:
        return {"test": _COUNTS[self.config.name][1]} if self.config.name in _COUNTS else {}

    def read_tables(self) -> dict[str, list[Row]]:
        self._check_classes()
        number = self.config.name[-1]
        training, test = (self._rows(f"{kind}list0{number}.txt") for kind in ("train", "test"))
        found = {"train + validation": len(training)}
        if self.config.name in _REMEMBERED:
            found["test"] = len(test)
        strict = self.config.strict_counts and self.config.name in _COUNTS
        check_counts(found, dict(zip(found, {**_COUNTS, **_REMEMBERED}[self.config.name])), strict, self.name)
        return {**hold_out(training, self.config, group="dialogue_id"), "test": test}

    def _check_classes(self) -> None:
        path = self.folder / _LISTS / "classInd.txt"
        if not path.is_file():
            return
        lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
        expected = [[str(number), name] for number, name in enumerate(_CLASSES, 1)]
        for place, (line, official) in enumerate(zip(lines, expected), 1):
            if line != official:
                raise DataError(f"{path} line {place} has the class {line}, not {official}: not the official file.")
        if len(lines) != len(expected):
            raise DataError(f"{path} has {len(lines)} classes, not {len(expected)}: not the official file.")

    def _rows(self, file: str) -> list[Row]:
        path = find_file(self.folder, f"{_LISTS}/{file}", file)
        lines = enumerate(read_text(path).splitlines(), 1)
        rows = [_row(line.split(), f"{path} line {number}") for number, line in lines if line.strip()]
        if not rows:
            raise DataError(f"{path} has no rows: it is truncated, or not the official file.")
        return rows

    def found_media(self) -> tuple[str, ...]:
        there = {"video": (self.folder / _CLIPS).is_dir(), "flow": bool(self.flow)}
        return tuple(modality for modality in self.MEDIA if there[modality])

    @cached_property
    def flow(self) -> dict[str, Path]:
        """Flow folders by lower-case name of the clip."""
        return find_flow(self.folder)

    def media_of(self, row: Row) -> dict[str, Path]:
        clip = resolve_inside(self.folder / _CLIPS, f"{row['label']}/{row['id']}.avi")
        flow = self.flow.get(row["id"].lower())
        return {"video": clip} if flow is None else {"video": clip, "flow": flow}

    def media_is_there(self, modality: str, path: Path) -> bool:
        return path.is_dir() if modality == "flow" else super().media_is_there(modality, path)

    def media_problem(self, modality: str, path: Path) -> str | None:
        if modality != "flow":
            return super().media_problem(modality, path)
        if self.config.check_clips:
            try:
                flow_frames(path)
            except DataError:
                return "frames absent or unpaired"
        return None


def _row(fields: list[str], where: str) -> Row:
    label, _, file = fields[0].partition("/")
    name = file.removesuffix(".avi")
    group = _NAME.fullmatch(name)
    if group is None or name == file:
        raise DataError(f"{where} names {fields[0]!r}, not Class/v_Class_g01_c01.avi: this is not the official file.")
    if label not in _CLASSES:
        raise DataError(f"{where} has the class {label!r}, which is none of the 101 of UCF101.")
    if len(fields) > 2 or (len(fields) == 2 and fields[1] != str(_CLASSES.index(label) + 1)):
        raise DataError(f"{where} gives {label!r} the number {fields[1:]}, not {_CLASSES.index(label) + 1}.")
    return {"id": name, "label": label, "dialogue_id": f"{label}_g{group[1]}", "source": where}
