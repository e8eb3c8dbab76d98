"""`tapio watch`: occurrences as they happen, each exactly once."""

from __future__ import annotations

import argparse
import time

from tapio.cli.agent_state import read_agent
from tapio.cli.directory import DataDirectory, find_directory
from tapio.cli.filters import Filter, from_arguments
from tapio.cli.follow import Follower
from tapio.cli.lines import Rows
from tapio.cli.notes import skipped_note
from tapio.cli.parser import parse_limit
from tapio.cli.screen import Screen, warn
from tapio.cli.times import parse_duration
from tapio.occurrence import Occurrence
from tapio.store import name_at

_LOOK_AT_AGENT_EVERY_S = 2.0


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Show new occurrences until Ctrl-C, or until `--limit` of them."""
    wanted, limit = from_arguments(arguments), parse_limit(arguments.limit)
    since_ms = None
    if arguments.since is not None:
        since_ms = int((time.time() - parse_duration(arguments.since)) * 1000)
    directory = DataDirectory(find_directory(arguments.data_dir))
    watch = _Watch(directory, screen, wanted, json=arguments.json, utc=arguments.utc)
    try:
        watch.run(limit, since_ms)
    except KeyboardInterrupt:
        pass
    finally:
        watch.close()
    return 0


class _Watch:
    """A running watch."""

    def __init__(self, directory: DataDirectory, screen: Screen, wanted: Filter, *, json: bool, utc: bool) -> None:
        self._directory, self._screen, self._wanted = directory, screen, wanted
        self._json = json
        self._follower: Follower | None = None
        self._rows = Rows(screen, utc=utc, stream=True)
        self._trouble = ""

    def run(self, limit: int | None, since_ms: int | None) -> None:
        """Show occurrences until there are `limit`."""
        self._follower = Follower(self._directory, None if since_ms is None else name_at(since_ms))
        if not self._json:
            self._rows.titles()
        self._screen.flush()
        self._look_at_agent()
        looked, shown = time.monotonic(), 0
        while True:
            for occurrence in self._follower.next(_LOOK_AT_AGENT_EVERY_S):
                if self._wanted.passes(occurrence):
                    self._show(occurrence)
                    shown += 1
                    if shown == limit:
                        return
            self._screen.flush()
            if time.monotonic() - looked >= _LOOK_AT_AGENT_EVERY_S:
                self._follower.check()
                self._look_at_agent()
                looked = time.monotonic()

    def _show(self, occurrence: Occurrence) -> None:
        if self._json:
            self._screen.json(occurrence)
        else:
            self._rows.row(occurrence)

    def _look_at_agent(self) -> None:
        """Silence means something only while the agent sees: say when that changes."""
        agent = read_agent(self._directory, time.time())
        blind = [view for view in agent.parts if view.condition == "blind"]
        trouble = agent.explanation
        if not trouble and not agent.writes_files:
            trouble = "the agent writes no files: start it with --sink=file"
        if not trouble and blind:
            trouble = "; ".join(f"observer {view.name} is blind: {view.reason}" for view in blind)
        # Ages grow with each look; only another kind of trouble is news.
        kind = agent.condition + trouble if agent.condition == "running" else agent.condition
        if kind != self._trouble and (trouble or self._trouble):
            warn(trouble or "the agent is there again")
        self._trouble = kind if trouble else ""

    def close(self) -> None:
        """Stop following and say what could not be shown."""
        if self._follower is not None:
            self._follower.close()
        self._screen.flush()
        note = skipped_note(self._directory)
        if note:
            warn(note)
        if self._directory.gone:
            warn(f"{self._directory.gone} occurrences were removed by retention before they could be read")
