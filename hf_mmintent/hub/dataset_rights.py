"""Who may publish what: licences of the datasets as seen in public places. Not legal advice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetRights:
    """
    What the licence of a dataset says about passing it on.

    Args:
        license: Identifier of the Hub for what its authors license; "unknown" when nothing was found.
        rows: Whether text, labels and features may be passed on.
        media: Whether the sounds and clips may be passed on too.
        reason: Why not, or under which condition; a sentence without its full stop.
    """

    license: str
    rows: bool
    media: bool
    reason: str

    def refusal(self, has_media: bool) -> str | None:
        """Why these rows may not be made public; `None` when they may."""
        if self.rows and (self.media or not has_media):
            return None
        return self.reason


UNKNOWN = DatasetRights("unknown", False, False, "no licence that permits passing the data on is known")

_BROADCASTER = "the clips belong to their broadcaster, whatever the licence of the annotations"
_CMU = "CMU does not allow third parties to redistribute the dataset"

_RIGHTS = {
    "mmintent_mini": DatasetRights("apache-2.0", True, True, "the clips are synthetic and come with this package"),
    "mintrec": DatasetRights("cc-by-sa-4.0", True, False, _BROADCASTER),
    "mintrec2": DatasetRights("cc-by-nc-sa-4.0", True, False, _BROADCASTER),
    "meld": DatasetRights("gpl-3.0", True, False, _BROADCASTER),
    "mustard": DatasetRights("mit", True, False, _BROADCASTER),
    "cmu_mosi": DatasetRights("other", False, False, _CMU),
    "cmu_mosei": DatasetRights("other", False, False, _CMU),
    "crema_d": DatasetRights("odbl", True, True, "attribution and the same licence are required"),
    "grid": DatasetRights("cc-by-4.0", True, True, "attribution is required"),
    "mc_eiu": DatasetRights(
        "cc-by-nc-4.0", True, False, "only the features are licensed, not the series they come from"
    ),
    "ict_mmmo": DatasetRights(
        "unknown",
        False,
        False,
        "the repository with the features is MIT, but the terms of ICT-MMMO itself are not known",
    ),
    "kinetics_sounds": DatasetRights("other", False, False, "every video belongs to whoever uploaded it"),
    "ave": DatasetRights(
        "unknown", False, False, "no licence was found, and every video belongs to whoever uploaded it"
    ),
    "ucf101": DatasetRights("unknown", False, False, "no licence was found, and the clips come from videos of others"),
}


def dataset_rights(name: str) -> DatasetRights:
    """Of a builder; of data that no builder of the package made, nothing is known."""
    return _RIGHTS.get(name, UNKNOWN)
