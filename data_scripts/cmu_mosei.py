"""CMU-MOSEI: 22,856 utterances of monologue videos with a sentiment between −3 and 3."""

from hf_mmintent.data.media_files import MediaConfig
from hf_mmintent.data.mmsa_builder import MmsaBuilder

_SHA256 = {
    "aligned": "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791",
    "unaligned": "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f",
}


class CmuMosei(MmsaBuilder):
    """CMU-MOSEI (Zadeh et al., ACL 2018): sentiment from −3 to 3 of utterances in monologue videos.

    Configurations and the expected folder (`data_dir`):

        aligned     aligned_50.pkl      (or Processed/…, or MOSEI/Processed/…) features per word, as MMSA publishes them
        unaligned   unaligned_50.pkl    (same places) features at their own rates
        raw         label.csv           (or MOSEI/…) video_id, clip_id, text, label, …, mode; no features
                    Raw/-3g5yACwYnA/1.mp4   (or MOSEI/Raw/…) the clips; rows of the other two have their paths as well

    The standard folds, 16,326 / 1,871 / 4,659 utterances. Audio is 74 wide (COVAREP), video 35 (FACET). Padding of the
    file is removed: by its lengths, or by the mask of `text_bert`. Infinite and NaN values stay in the rows and are
    counted. The files hold the sentiment only, not the six emotions of the original release. Ids are `<video>$_$<clip>` in
    all configurations. Clips that are absent or do not decode become null and are counted.

    Columns: `id`, `text`, `label`, `dialogue_id` (video), `audio_features`, `video_features`, `audio_path`, `video_path`.
    """

    CITATION = (
        "@inproceedings{zadeh2018multimodal, title={Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and "
        "Interpretable Dynamic Fusion Graph}, author={Zadeh, Amir and Liang, Paul Pu and Poria, Soujanya and Cambria, "
        "Erik and Morency, Louis-Philippe}, booktitle={Annual Meeting of the Association for Computational "
        "Linguistics}, year={2018}}"
    )
    HOMEPAGE = "https://github.com/thuiar/MMSA"
    LICENSE = "CMU's own terms, no redistribution by others; the code of MMSA is MIT"
    BUILDER_CONFIG_CLASS = MediaConfig
    BUILDER_CONFIGS = [MediaConfig(name=name) for name in (*_SHA256, "raw")]
    DEFAULT_CONFIG_NAME = "aligned"
    RELEASE = "MOSEI"
    SHA256 = _SHA256
    COUNTS = {"train": 16326, "validation": 1871, "test": 4659}
