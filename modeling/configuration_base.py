"""The configuration every architecture of the package derives from."""

from __future__ import annotations

import difflib
import inspect
import re
from dataclasses import fields
from typing import Any, NamedTuple

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.pipelines import PIPELINE_REGISTRY

# What transformers itself hands to a config beside its declared fields: stored by other versions, read by the loader,
# or set by `from_pretrained`. Anything else is a misspelt field.
_LIBRARY_KEYS = frozenset(
    {
        "_attn_implementation",
        "_commit_hash",
        "_experts_implementation",
        "_name_or_path",
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "per_layer_config",
        "quantization_config",
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
        "use_cache",  # the trainer sets it on every model
    }
)


class Stage(NamedTuple):
    """
    One stage of a training that has several.

    Args:
        name: what `config.training_stage` becomes.
        epochs: at most so many.
        trainable: regular expressions on parameter names; a parameter that none of them is found in is frozen. `None`
            trains all.
    """

    name: str
    epochs: int
    trainable: tuple[str, ...] | None = None


def _as_tuples(value: Any) -> Any:
    """Lists, also inside lists, as tuples."""
    return tuple(_as_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


@strict
class MMIntentConfig(PreTrainedConfig):
    """
    Typed configuration that refuses fields it does not know.

    transformers stores a misspelt field silently and trains with the default; a reproduction that never happened is the
    result. Subclasses declare every hyper-parameter as an annotated field and cross-field rules as `validate_*` methods.

    Raises:
        ValueError: an unknown field was given; the message names the closest known one.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Under `from __future__ import annotations` the types are strings, which `strict` does not check.
        cls.__annotations__ = inspect.get_annotations(cls, eval_str=True)
        super().__init_subclass__(**kwargs)

    def __post_init__(self, **kwargs: Any) -> None:
        known = self.known_names()
        for name in kwargs:
            if name not in known:
                raise ValueError(self.unknown_field(name))
        # `pipeline` would ask for `trust_remote_code` although the package has registered the very same tasks.
        if set(kwargs.get("custom_pipelines") or ()) <= set(PIPELINE_REGISTRY.supported_tasks):
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)
        for field in fields(self):  # JSON has no tuples: a reloaded config must equal the one that was saved
            value = getattr(self, field.name)
            if isinstance(value, list) and "tuple" in str(field.type):
                setattr(self, field.name, _as_tuples(value))
        for name in self.sub_configs_defaults:
            sub_config = getattr(self, name)
            if isinstance(sub_config, PreTrainedConfig):
                # A part that is stored in another dtype makes the whole composite reload in that dtype.
                sub_config.dtype = self.dtype

    @property
    def training_stages(self) -> tuple[Stage, ...]:
        """The stages that training runs through, in order; empty for a model that trains in one go."""
        return tuple(Stage(*entry) for entry in getattr(self, "stages", ()))

    def validate_stages(self) -> None:
        seen: set[str] = set()
        for entry in getattr(self, "stages", ()):
            shape = f"`stages` holds {entry!r}: expected (name, epochs) or (name, epochs, regular expressions or None)."
            if not isinstance(entry, (tuple, list)) or len(entry) not in (2, 3):
                raise ValueError(shape)
            stage = Stage(*entry)
            patterns = () if stage.trainable is None else stage.trainable
            if not isinstance(stage.name, str) or not isinstance(stage.epochs, int) or isinstance(patterns, str):
                raise ValueError(shape)
            if stage.epochs < 1:
                raise ValueError(f"stage {stage.name!r} of `stages` has {stage.epochs} epochs: leave it out instead.")
            if stage.name in seen:
                raise ValueError(f"`stages` names {stage.name!r} twice: every stage needs a name of its own.")
            seen.add(stage.name)
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(
                        f"stage {stage.name!r}: {pattern!r} is no regular expression ({error})."
                    ) from error

    @classmethod
    def known_names(cls) -> set[str]:
        """Fields of this config, and what transformers itself hands to one."""
        return {field.name for field in fields(cls)} | _LIBRARY_KEYS

    @classmethod
    def unknown_field(cls, name: str) -> str:
        """What to tell somebody who gave a field that does not exist."""
        close = difflib.get_close_matches(name, sorted(cls.known_names()), n=1, cutoff=0.5)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        return f"{cls.__name__} has no field `{name}`.{hint} Known fields are the annotated ones of {cls.__name__}."
