"""Starts that must fail."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from helpers.kernel_state import held_programs, loaded_programs
from helpers.running_agent import wait_for


def refuse(command: Sequence[object], code: int, env: Mapping[bytes, bytes] | None = None) -> str:
    """Run a command that must fail with `code` and one line of error, and leave nothing attached; the line."""
    before = set(loaded_programs())
    words = [word if isinstance(word, bytes) else str(word) for word in command]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False, env=env)
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    lines = [line for line in ended.stderr.splitlines() if " INFO: " not in line and " WARNING: " not in line]
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("tapio-agent: ")
    # An agent of somebody else may have started meanwhile.
    wait_for(lambda: not (left := set(loaded_programs()) - before) or left <= held_programs())
    return lines[0]
