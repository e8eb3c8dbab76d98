"""Remarks that several commands make about what they could not read."""

from __future__ import annotations

from tapio.cli.directory import SKIPPED, DataDirectory


def skipped_note(directory: DataDirectory) -> str:
    """'skipped 3 files in DIR: 2 damaged, 1 unreadable'; '' when nothing was skipped."""
    total = sum(directory.skipped.values())
    if not total:
        return ""
    reasons = ", ".join(
        f"{directory.skipped[reason]} {reason.replace('_', ' ')}" for reason in SKIPPED if directory.skipped[reason]
    )
    return f"skipped {total} file{'s' if total > 1 else ''} in {directory.path}: {reasons}"
