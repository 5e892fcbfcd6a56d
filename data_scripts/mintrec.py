"""MIntRec: 2,224 utterances of one television series with one of 20 intents."""

from pathlib import Path

import datasets

from hf_mmintent.data.checks import Row, find_file, read_table, resolve_inside
from hf_mmintent.data.feature_files import FeatureFile
from hf_mmintent.data.media_files import MediaBuilder, MediaConfig

_LABELS = (
    "Complain", "Praise", "Apologise", "Thank", "Criticize", "Agree", "Taunt", "Flaunt", "Joke", "Oppose",
    "Comfort", "Care", "Inform", "Advise", "Arrange", "Introduce", "Leave", "Prevent", "Greet", "Ask for help",
)  # fmt: skip


class MIntRec(MediaBuilder):
    """MIntRec (Zhang et al., ACM Multimedia 2022): text, audio and video of 2,224 utterances, 20 intents.

    Expected folder (`data_dir`), of which only the tables must be there:

        train.tsv  dev.tsv  test.tsv        season, episode, clip, text, label; never quoted
        audio_data/audio_feats.pkl          key S05_E16_329 -> frames of 768 numbers (wav2vec 2.0)
        video_data/video_feats.pkl          key -> frames of 256 numbers (Faster R-CNN, region of the speaker)
        raw_data/S05/E16/329.mp4            the clips

    Splits 1,334 / 445 / 445. Labels keep the official order; other code bases order them differently, so compare
    names, not ids. The width of the features is read from the files, since other extractions exist. All clips come
    from one series and no table names the speakers: whether a speaker is in two splits cannot be checked. 15 test rows
    repeat the text of a training row. Clips that are absent or do not decode become null and are counted.

    Columns: `id`, `text`, `label`, `dialogue_id` (season and episode), `audio_features`, `video_features`,
    `audio_path`, `video_path`.
    """

    CITATION = (
        "@inproceedings{zhang2022mintrec, title={MIntRec: A New Dataset for Multimodal Intent Recognition}, "
        "author={Zhang, Hanlei and Xu, Hua and Wang, Xin and Zhou, Qianrui and Zhao, Shaojie and Teng, Jiayan}, "
        "booktitle={ACM International Conference on Multimedia}, year={2022}}"
    )
    HOMEPAGE = "https://github.com/thuiar/MIntRec"
    LICENSE = "MIT on the repository, CC BY-SA 4.0 on its dataset card; the clips belong to their broadcaster"
    BUILDER_CONFIG_CLASS = MediaConfig
    BUILDER_CONFIGS = [MediaConfig(name="mintrec")]
    LABELS = _LABELS
    COLUMNS = {"dialogue_id": datasets.Value("string")}
    MEDIA = ("audio", "video")
    COUNTS = {"train": 1334, "validation": 445, "test": 445}

    def read_tables(self) -> dict[str, list[Row]]:
        files = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
        return {split: [_row(line) for line in self._lines(file)] for split, file in files.items()}

    def _lines(self, file: str) -> list[Row]:
        columns = ("season", "episode", "clip", "text", "label")
        return read_table(find_file(self.folder, file), columns, delimiter="\t", quoted=False)

    def open_features(self) -> dict[str, FeatureFile]:
        paths = {name: self.folder / f"{name}_data" / f"{name}_feats.pkl" for name in ("audio", "video")}
        return {
            name: FeatureFile(path, name, self.report, trust_pickle=self.config.trust_pickle)
            for name, path in paths.items()
            if path.is_file()
        }

    def found_media(self) -> tuple[str, ...]:
        return self.MEDIA if (self.folder / "raw_data").is_dir() else ()

    def media_of(self, row: Row) -> dict[str, Path]:
        clip = resolve_inside(self.folder / "raw_data", row["id"].replace("_", "/") + ".mp4")
        return {"audio": clip, "video": clip}


def _row(line: Row) -> Row:
    group = f"{line['season']}_{line['episode']}"
    return {
        "id": f"{group}_{line['clip']}",
        "text": line["text"],
        "label": line["label"],
        "dialogue_id": group,
        "source": line["source"],
    }
