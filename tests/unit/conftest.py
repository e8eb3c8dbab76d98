"""An empty data directory for tests of the CLI."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.data_dirs import DataDir


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data")
