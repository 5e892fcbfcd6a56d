"""CMU-MOSI: 2,199 utterances of 93 video reviews with a sentiment between −3 and 3."""

from dataclasses import dataclass

import numpy as np

from hf_mmintent.data.checks import DataError, Row, check_counts, find_file, number, read_table, whole_number
from hf_mmintent.data.feature_files import FeatureFile, open_npz
from hf_mmintent.data.media_files import MediaConfig
from hf_mmintent.data.mmsa_builder import MmsaBuilder

_SHA256 = {
    "aligned": "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9",
    "unaligned": "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524",
}
_FOLDS = {"train": 1284, "validation": 229, "test": 686}
_INDEX = ("id", "vid", "seg", "text", "sentiment", "std_fold_LEAKS", "bc_split")


@dataclass
class CmuMosiConfig(MediaConfig):
    """
    Options of CMU-MOSI beside those of every builder and of clips.

    Args:
        split_column (`str`, defaults to `"bc_split"`): Column with the split, `bc_split` configuration only.
        validation_videos (`int`, defaults to 11): Videos of its 62 training videos held out for validation, 0 for none.
        validation_seed (`int`, defaults to 0): Of the choice of these videos.
    """

    split_column: str = "bc_split"
    validation_videos: int = 11
    validation_seed: int = 0


class CmuMosi(MmsaBuilder):
    """CMU-MOSI (Zadeh et al., IEEE Intelligent Systems 2016): sentiment from −3 to 3 of utterances in video reviews.

    Configurations and the expected folder (`data_dir`):

        aligned     aligned_50.pkl      (or Processed/…, or MOSI/Processed/…) features per word, as MMSA publishes them
        unaligned   unaligned_50.pkl    (same places) features at their own rates
        raw         label.csv           (or MOSI/…) video_id, clip_id, text, label, …, mode; no features
                    Raw/03bSnISJMiM/1.mp4   (or MOSI/Raw/…) the clips; rows of the two above have their paths as well
        bc_split    mosi_index.csv      id, vid, seg, text, sentiment, std_fold_LEAKS, bc_split
                    mosi_utt.npz        id, audio (2199, 73), video (2199, 100): one vector per utterance

    `aligned`, `unaligned` and `raw`: the standard folds, 1,284 / 229 / 686 utterances of 52 / 10 / 31 videos, with ids
    `<video>$_$<clip>`. Padding of a feature file is removed: by its lengths, or by the mask of `text_bert`. Clips that are
    absent or do not decode become null and are counted.

    `bc_split`: 1,447 training utterances of 62 videos and 752 test utterances of 31 others, in the order of each
    video. The release names no validation split: by default 11 whole training videos are held out, chosen with a seed
    (`validation_videos`, `validation_seed`). **These features leak.** `video` was evidently fitted with the labels
    of the 62 training videos: a linear model reaches 0.93 accuracy on them and less than the majority on the others.
    So validation scores with `video` are far too good, and the standard folds, which put training videos into the
    test, are refused. Good for code paths and text; not for claims about fusion, nor for comparison with published
    results. The vectors become features of one step.

    Columns: `id`, `text` (upper case), `label`, `dialogue_id` (video), `audio_features`, `video_features`, `audio_path`,
    `video_path`.
    """

    CITATION = (
        "@article{zadeh2016multimodal, title={Multimodal Sentiment Intensity Analysis in Videos: Facial Gestures and "
        "Verbal Messages}, author={Zadeh, Amir and Zellers, Rowan and Pincus, Eli and Morency, Louis-Philippe}, "
        "journal={IEEE Intelligent Systems}, volume={31}, number={6}, year={2016}}"
    )
    HOMEPAGE = "https://github.com/thuiar/MMSA"
    LICENSE = "CMU's own terms, no redistribution by others; the code of MMSA is MIT"
    BUILDER_CONFIG_CLASS = CmuMosiConfig
    BUILDER_CONFIGS = [CmuMosiConfig(name=name) for name in ("aligned", "unaligned", "raw", "bc_split")]
    DEFAULT_CONFIG_NAME = "aligned"
    RELEASE = "MOSI"
    SHA256 = _SHA256

    @property
    def per_utterance(self) -> bool:
        """Whether this is the release with one vector per utterance."""
        return self.config.name == "bc_split"

    def row_counts(self) -> dict[str, int]:
        return {"test": 752} if self.per_utterance else _FOLDS

    def read_tables(self) -> dict[str, list[Row]]:
        return self._utterances() if self.per_utterance else super().read_tables()

    def found_media(self) -> tuple[str, ...]:
        return () if self.per_utterance else super().found_media()

    # ---- one vector per utterance

    def open_features(self) -> dict[str, FeatureFile]:
        if not self.per_utterance or not (path := self.folder / "mosi_utt.npz").is_file():
            return {}
        archive = open_npz(path)
        ids = archive.array("id", "U", 1).tolist()
        if len(set(ids)) != len(ids):
            raise DataError(f"{path} holds an id twice.")
        arrays = {name: archive.array(name, "biuf", 2, len(ids)) for name in ("audio", "video")}
        return {
            name: FeatureFile(dict(zip(ids, values)), name, self.report, vectors=True, source=str(path))
            for name, values in arrays.items()
        }

    def _utterances(self) -> dict[str, list[Row]]:
        if self.config.split_column != "bc_split":
            raise ValueError(
                f"`split_column` is {self.config.split_column!r}: only 'bc_split' is offered, because these features were "
                "fitted on videos that other folds put into the test."
            )
        lines = read_table(find_file(self.folder, "mosi_index.csv"), _INDEX)
        training = sum(line["bc_split"] == "train" for line in lines)
        check_counts(
            {"train + validation": training}, {"train + validation": 1447}, self.config.strict_counts, self.name
        )
        rows: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
        held_out = self._validation_videos({line["vid"] for line in lines if line["bc_split"] == "train"})
        for line in sorted(
            lines, key=lambda line: (line["vid"], whole_number(line["seg"], f"{line['source']}: `seg`"))
        ):
            if line["bc_split"] not in ("train", "test"):
                raise DataError(f"{line['source']}: `bc_split` is {line['bc_split']!r}, not 'train' or 'test'.")
            split = "validation" if line["vid"] in held_out else line["bc_split"]
            row = {
                "id": line["id"],
                "text": line["text"],
                "label": number(line["sentiment"], f"{line['source']}: `sentiment`"),
                "dialogue_id": line["vid"],
                "source": line["source"],
            }
            rows[split].append(row)
        return {split: part for split, part in rows.items() if part or split != "validation"}

    def _validation_videos(self, videos: set[str]) -> set[str]:
        count = self.config.validation_videos
        if not 0 <= count < len(videos):
            raise ValueError(f"`validation_videos` is {count} but there are {len(videos)} training videos.")
        order = np.random.default_rng(self.config.validation_seed).permutation(sorted(videos))
        return set(order[:count].tolist())
