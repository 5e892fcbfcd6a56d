"""MELD: 13,708 utterances of dialogues from one television series with an emotion and a sentiment."""

from pathlib import Path

import datasets

from hf_mmintent.data.checks import Row, find_file, read_table, resolve_inside, whole_number
from hf_mmintent.data.dialogues import CONTEXT, previous_turns
from hf_mmintent.data.media_files import MediaBuilder, MediaConfig

_COLUMNS = (
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
    "StartTime", "EndTime",
)  # fmt: skip
_LABELS = {
    "emotion": ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"),
    "sentiment": ("neutral", "positive", "negative"),
}
_FILES = {"train": "train_sent_emo.csv", "validation": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
_CLIPS = {
    "train": ("train_splits", "train"),
    "validation": ("dev_splits_complete", "dev"),
    "test": ("output_repeated_splits_test", "test"),
}


class Meld(MediaBuilder):
    """MELD (Poria et al., ACL 2019): text, audio and video of 13,708 utterances in multi-party dialogues.

    Configurations: `emotion` (7 classes, default) and `sentiment` (3 classes) over the same rows.

    Expected folder (`data_dir`), of which only the tables must be there (or in `data/MELD/`):

        train_sent_emo.csv  dev_sent_emo.csv  test_sent_emo.csv
        train_splits/dia0_utt0.mp4                  the clips of the training split, or train/…
        dev_splits_complete/dia0_utt0.mp4           or dev/…
        output_repeated_splits_test/dia0_utt0.mp4   or test/…

    Splits 9,989 / 1,109 / 2,610 in 1,038 / 114 / 280 dialogues (the readme says 1,039: id 60 is absent from the training
    table). Dialogue ids restart in every split, so ids begin with the split's name: `train_dia0_utt3`. 72 training
    dialogues have gaps in their utterance ids, so `context` can lack a turn. Text is verbatim, with typographic
    apostrophes. The times in the tables are those of the episode, not of the clip, and are left out. The main
    characters speak in all splits. Clips that are absent or do not decode become null and are counted.

    Columns: `id`, `text`, `label`, `speaker`, `dialogue_id`, `context` (earlier turns), `audio_path`, `video_path`.
    """

    CITATION = (
        "@inproceedings{poria2019meld, title={MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in "
        "Conversations}, author={Poria, Soujanya and Hazarika, Devamanyu and Majumder, Navonil and Naik, Gautam and "
        "Cambria, Erik and Mihalcea, Rada}, booktitle={Annual Meeting of the Association for Computational "
        "Linguistics}, year={2019}}"
    )
    HOMEPAGE = "https://github.com/declare-lab/MELD"
    LICENSE = "GPL-3.0 on the repository; the clips belong to their broadcaster"
    BUILDER_CONFIG_CLASS = MediaConfig
    BUILDER_CONFIGS = [MediaConfig(name=name) for name in _LABELS]
    DEFAULT_CONFIG_NAME = "emotion"
    COLUMNS = {"speaker": datasets.Value("string"), "dialogue_id": datasets.Value("string"), "context": CONTEXT}
    MEDIA = ("audio", "video")
    COUNTS = {"train": 9989, "validation": 1109, "test": 2610}

    def label_names(self) -> tuple[str, ...]:
        return _LABELS[self.config.name]

    def read_tables(self) -> dict[str, list[Row]]:
        return {split: self._rows(split, file) for split, file in _FILES.items()}

    def _rows(self, split: str, file: str) -> list[Row]:
        path = find_file(self.folder, file, f"data/MELD/{file}")
        rows = []
        for line in read_table(path, _COLUMNS):
            whole_number(line["Dialogue_ID"], f"{line['source']}: `Dialogue_ID`")
            dialogue = f"{split}_dia{line['Dialogue_ID']}"
            row = {
                "id": f"{dialogue}_utt{line['Utterance_ID']}",
                "text": line["Utterance"],
                "label": line[self.config.name.capitalize()],
                "speaker": line["Speaker"],
                "dialogue_id": dialogue,
                "turn": whole_number(line["Utterance_ID"], f"{line['source']}: `Utterance_ID`"),
                "split": split,
                "source": line["source"],
            }
            rows.append(row)
        contexts = previous_turns(rows)
        return [{**row, "context": contexts[row["id"]]} for row in rows]

    def found_media(self) -> tuple[str, ...]:
        return self.MEDIA if any((self.folder / name).is_dir() for names in _CLIPS.values() for name in names) else ()

    def media_of(self, row: Row) -> dict[str, Path]:
        official, short = _CLIPS[row["split"]]
        folder = self.folder / (official if (self.folder / official).is_dir() else short)
        clip = resolve_inside(folder, row["id"].removeprefix(f"{row['split']}_") + ".mp4")
        return {"audio": clip, "video": clip}
