"""`tapio recent`: the latest occurrences, newest first."""

from __future__ import annotations

import argparse
import itertools
import time

from tapio.cli.directory import DataDirectory, find_directory
from tapio.cli.filters import from_arguments
from tapio.cli.lines import Rows
from tapio.cli.notes import skipped_note
from tapio.cli.parser import parse_limit
from tapio.cli.screen import Screen, warn
from tapio.cli.times import parse_duration

DEFAULT_LIMIT = 20


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Show what passes the filters, at most `--limit`, as far back as `--since`."""
    now_s = time.time()
    wanted = from_arguments(arguments)
    limit = parse_limit(arguments.limit) or DEFAULT_LIMIT
    since_ms = int((now_s - parse_duration(arguments.since)) * 1000) if arguments.since is not None else 0
    directory = DataDirectory(find_directory(arguments.data_dir))
    passing = (found for found in directory.occurrences(since_ms, wanted.byte_test()) if wanted.passes(found))
    shown = itertools.islice(passing, limit)
    if arguments.json:
        for occurrence in shown:
            screen.json(occurrence)
    else:
        rows = list(shown)
        if rows:
            Rows(screen, utc=arguments.utc).draw(rows)
        else:
            screen.line(f"nothing{' of that kind' if wanted != type(wanted)() else ''} in {directory.shown}"
                        + (f" within the last {arguments.since}" if arguments.since else ""))  # fmt: skip
            screen.line("'tapio status' tells whether the agent would see it")
    if note := skipped_note(directory):
        warn(note)
    return 0
