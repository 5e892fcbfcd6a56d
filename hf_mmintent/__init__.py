"""Multimodal intent, sentiment and emotion recognition as Hugging Face models.

Importing the package registers every architecture with the Auto classes, so that
`AutoModelForSequenceClassification.from_pretrained(...)` opens its checkpoints.
"""

from pathlib import Path as _Path

_root = _Path(__file__).resolve().parent.parent  # in a checkout the sub-packages are siblings of this folder
if not (_root / "hf_mmintent" / "modeling").is_dir() and (_root / "modeling" / "__init__.py").is_file():
    __path__.append(str(_root))

__version__ = "0.1.0"

from hf_mmintent.registration import register as _register  # noqa: E402 - needs the path above

_register()


def __getattr__(name: str) -> object:
    # `datasets` takes seconds to import and a model alone does not need it.
    if name == "load":
        from hf_mmintent.data.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
