"""Fixture `hub_stub`: a Hub on the loopback interface, empty at the start of every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_stub import HubStub


@pytest.fixture
def hub_stub(tmp_path: Path) -> Iterator[HubStub]:
    """A running `HubStub`; its processes work in sub-folders of the test's own temporary folder."""
    with HubStub(tmp_path / "hub") as stub:
        yield stub
