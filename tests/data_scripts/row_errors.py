"""Errors that are raised while rows are written: `datasets` wraps them in one of its own."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hf_mmintent.data.checks import DataError


@contextmanager
def raises_data_error(message: str) -> Iterator[None]:
    """The block raises a `DataError` whose text matches `message`, itself or as the cause."""
    with pytest.raises(Exception) as error:
        yield
    cause = error.value if isinstance(error.value, DataError) else error.value.__cause__
    assert isinstance(cause, DataError)
    assert re.search(message, str(cause)), str(cause)
