"""The short form of `make soak`: 75 s, in which the weather of the collector turns once."""

from __future__ import annotations

import pytest
from helpers.soak import soak

pytestmark = pytest.mark.kernel


def test_75_seconds_of_mixed_faults_reloads_and_outages() -> None:
    """Counts are exact, nothing is lost, descriptors and threads stay; memory settles within a few MiB."""
    figures = soak(75)
    figures.check()
    middle, last = figures.samples[len(figures.samples) // 2], figures.samples[-1]
    assert last.resident_mib - middle.resident_mib < 3, figures.report()
