"""A data directory, and receivers that misbehave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.receiver import Receiver, receiver


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """The descriptor of a data directory."""
    path = tmp_path / "data"
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiver() as running:
        yield running
