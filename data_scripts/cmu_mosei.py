"""CMU-MOSEI: 22,856 utterances of monologue videos with a sentiment between −3 and 3."""

from functools import cached_property
from typing import Any

import datasets

from hf_mmintent.data.builder import MultimodalBuilder, MultimodalConfig
from hf_mmintent.data.checks import Row, find_file
from hf_mmintent.data.mmsa_files import SPLITS, MmsaFile

_SHA256 = {
    "aligned": "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791",
    "unaligned": "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f",
}


class CmuMosei(MultimodalBuilder):
    """CMU-MOSEI (Zadeh et al., ACL 2018): sentiment from −3 to 3 of utterances in monologue videos.

    Configurations and the expected folder (`data_dir`):

        aligned     aligned_50.pkl      (or Processed/…, or MOSEI/Processed/…) features per word, as MMSA publishes them
        unaligned   unaligned_50.pkl    (same places) features at their own rates

    The standard folds, 16,326 / 1,871 / 4,659 utterances. Audio is 74 wide (COVAREP), video 35 (FACET). Padding of the
    file is removed: by its lengths, or by the mask of `text_bert`. Infinite and NaN values stay in the rows and are
    counted. The files hold the sentiment only, not the six emotions of the original release.

    Columns: `id`, `text`, `label`, `dialogue_id` (video), `audio_features`, `video_features`.
    """

    CITATION = (
        "@inproceedings{zadeh2018multimodal, title={Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and "
        "Interpretable Dynamic Fusion Graph}, author={Zadeh, Amir and Liang, Paul Pu and Poria, Soujanya and Cambria, "
        "Erik and Morency, Louis-Philippe}, booktitle={Annual Meeting of the Association for Computational "
        "Linguistics}, year={2018}}"
    )
    HOMEPAGE = "https://github.com/thuiar/MMSA"
    LICENSE = "CMU's own terms, no redistribution by others; the code of MMSA is MIT"
    BUILDER_CONFIGS = [MultimodalConfig(name=name) for name in _SHA256]
    DEFAULT_CONFIG_NAME = "aligned"
    LABEL_RANGE = (-3.0, 3.0)
    COLUMNS = {"dialogue_id": datasets.Value("string")}
    COUNTS = {"train": 16326, "validation": 1871, "test": 4659}

    @cached_property
    def mmsa(self) -> MmsaFile:
        """The open file of the configuration."""
        file = f"{self.config.name}_50.pkl"
        path = find_file(self.folder, file, f"Processed/{file}", f"MOSEI/Processed/{file}")
        return MmsaFile(path, self.report, _SHA256[self.config.name], self.config.trust_pickle)

    def read_tables(self) -> dict[str, list[Row]]:
        return {split: self.mmsa.rows(split) for split in SPLITS}

    def feature_widths(self) -> dict[str, int]:
        return self.mmsa.widths if self.config.wants("features") else {}

    def features_of(self, row: Row) -> dict[str, Any]:
        return self.mmsa.features(row) if self.config.wants("features") else {}
