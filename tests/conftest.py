"""What all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tapio.errors import PrivilegeError
from tapio.kernel import privileges

# A run in the background of a script inherits an ignored SIGINT, and so would every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

DESCRIPTORS = Path("/proc/self/fd")

# A shared, noisy machine: slow generation and slow examples are no failures.
settings.register_profile("tapio", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tapio")


@pytest.fixture(scope="module", autouse=True)
def _gives_back_descriptors() -> Iterator[None]:
    """A module that keeps open what it opened breaks those after it: select() knows no descriptor above 1,023."""
    before = len(list(DESCRIPTORS.iterdir()))
    yield
    left = [str(each.readlink()) for each in DESCRIPTORS.iterdir() if each.is_symlink()]
    assert len(left) < before + 32, left


def _cannot_attach() -> str:
    try:
        privileges.check(will_drop=True)
    except PrivilegeError as error:
        return str(error)
    if not os.path.exists("/sys/kernel/btf/vmlinux"):  # noqa: PTH110
        return "this kernel has no BTF"
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip kernel tests where they cannot run; with TAPIO_REQUIRE_KERNEL=1 that is a failure."""
    if item.get_closest_marker("kernel") is None:
        return
    reason = _cannot_attach()
    if reason and os.environ.get("TAPIO_REQUIRE_KERNEL") == "1":
        pytest.fail(f"TAPIO_REQUIRE_KERNEL=1, but {reason}")
    if reason:
        pytest.skip(reason)
