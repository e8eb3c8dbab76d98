"""Remarks that several commands make about what they could not read."""

from __future__ import annotations

from tapio.cli.agent_state import Agent, read_agent
from tapio.cli.directory import SKIPPED, DataDirectory
from tapio.cli.tally import covers_s
from tapio.cli.times import format_duration


def skipped_note(directory: DataDirectory) -> str:
    """'skipped 3 files in DIR: 2 damaged, 1 unreadable'; '' when nothing was skipped."""
    total = sum(directory.skipped.values())
    if not total:
        return ""
    reasons = ", ".join(
        f"{directory.skipped[reason]} {reason.replace('_', ' ')}" for reason in SKIPPED if directory.skipped[reason]
    )
    return f"skipped {total} file{'s' if total > 1 else ''} in {directory.path}: {reasons}"


def reach_note(directory: DataDirectory, now_s: float, window_s: float, agent: Agent | None = None) -> str:
    """That retention removed files of the window; '' when it did not."""
    reach_s = covers_s(directory, agent or read_agent(directory, now_s), now_s, window_s)
    if reach_s is None:
        return ""
    return f"the files reach back only {format_duration(reach_s)}: older ones were removed by retention"
