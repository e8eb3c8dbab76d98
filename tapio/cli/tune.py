"""`tapio tune`: how many alerts other thresholds would have given, by the facts that are stored."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tapio import config as configuration
from tapio.cli.directory import DataDirectory, find_directory
from tapio.cli.lines import short_type
from tapio.cli.notes import reach_note, skipped_note
from tapio.cli.screen import Column, Screen, warn
from tapio.cli.thresholds import THRESHOLDS, Replay, Threshold, in_force, parse_setting
from tapio.cli.times import parse_duration

_COLUMNS = (
    Column("THRESHOLD"),
    Column("VALUE", shrinks=True, least=6),
    Column("TYPE"),
    Column("ALERTS", right=True),
    Column("THEN", right=True),
    Column("ANOMALIES", right=True),
    Column("THEN", right=True),
)
_LIST_COLUMNS = (Column("THRESHOLD"), Column("IN FORCE"), Column("WHAT THE STORED FACTS TELL", wraps=True))


class _Trial(msgspec.Struct, frozen=True):
    """A setting, what was in force, and its replay."""

    threshold: Threshold
    value: Any
    before: Any
    replay: Replay

    @property
    def is_complete(self) -> bool:
        """Whether everything that the setting lets through was stored, with the facts that decide."""
        return self.threshold.is_stricter(self.value, self.before) and not self.replay.untold


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Replay every setting on its own; those that decide whether there is an alert also all together."""
    since_s, now_s = parse_duration(arguments.since), time.time()
    settings = [parse_setting(text) for text in arguments.set or ()]
    config = configuration.load(Path(arguments.config) if arguments.config else None, {}, {})
    if not settings:
        _list(screen, config, json=arguments.json)
        return 0
    directory = DataDirectory(find_directory(arguments.data_dir))
    trials = [_Trial(threshold, value, in_force(threshold, config), Replay()) for threshold, value in settings]
    deciding = [(trial.threshold, trial.value) for trial in trials if not trial.threshold.severity]
    together = Replay()
    for occurrence in directory.occurrences(int((now_s - since_s) * 1000)):
        for trial in trials:
            if occurrence.type in trial.threshold.types:
                trial.replay.add(occurrence, [(trial.threshold, trial.value)])
        concerned = [setting for setting in deciding if occurrence.type in setting[0].types]
        if concerned:
            together.add(occurrence, concerned)
    if arguments.json:
        for trial in trials:
            screen.json(_document(trial))
        screen.json({"kind": "tune", "key": "all", **_figures(together)})
    else:
        rows = [_row(trial) for trial in trials]
        if len(deciding) > 1:
            rows.append(["all together", "", "", *_numbers(together)])
        screen.table(_COLUMNS, rows)
        for trial in trials:
            for remark in _remarks(trial):
                screen.line(f"{trial.threshold.key}: {remark}")
    screen.flush()
    for note in (skipped_note(directory), reach_note(directory, now_s, since_s)):
        if note:
            warn(note)
    return 0


def _list(screen: Screen, config: object, *, json: bool) -> None:
    """Every threshold, without --set."""
    rows = []
    for threshold in THRESHOLDS.values():
        value = in_force(threshold, config)
        told = f"nothing: {threshold.cannot}" if threshold.cannot else f"{_types(threshold)} at stricter values"
        if threshold.severity:
            told = f"which {_types(threshold)} are {threshold.severity}"
        if json:
            screen.json({"kind": "threshold", "key": threshold.key, "in_force": value,
                         "types": threshold.types, "cannot": threshold.cannot})  # fmt: skip
        rows.append([threshold.key, "" if value is None else str(value), told])
    if not json:
        screen.table(_LIST_COLUMNS, rows)


def _types(threshold: Threshold) -> str:
    return ", ".join(short_type(name) for name in threshold.types) or "-"


def _remarks(trial: _Trial) -> Iterator[str]:
    threshold, replay = trial.threshold, trial.replay
    if threshold.cannot:
        yield f"the stored facts cannot tell: {threshold.cannot}"
        return
    if threshold.severity:
        yield f"the {threshold.severity} ones alone"
    if not threshold.is_stricter(trial.value, trial.before):
        yield (
            f"laxer than {trial.before}, which is in force: what that held back was never stored, "
            "so there may have been more than this"
        )
    if replay.least != replay.most:
        yield "of folded anomalies only the worst value is stored, hence a range"
    if replay.untold:
        yield f"the facts of {replay.untold} alerts do not say; they are counted as staying"
    if threshold.note:
        yield threshold.note


def _row(trial: _Trial) -> list[str]:
    figures = ["?"] * 4 if trial.threshold.cannot else _numbers(trial.replay)
    return [trial.threshold.key, str(trial.value), _types(trial.threshold), *figures]


def _numbers(replay: Replay) -> list[str]:
    then = str(replay.most) if replay.least == replay.most else f"{replay.least}-{replay.most}"
    return [str(replay.alerts_before), str(replay.alerts), str(replay.anomalies_before), then]


def _figures(replay: Replay) -> dict[str, Any]:
    return {
        "alerts": {"before": replay.alerts_before, "after": replay.alerts},
        "anomalies": {"before": replay.anomalies_before, "after": [replay.least, replay.most]},
    }


def _document(trial: _Trial) -> dict[str, Any]:
    """What --json prints; tapio/cli/README.md documents it."""
    threshold = trial.threshold
    document: dict[str, Any] = {"kind": "tune", "key": threshold.key, "value": trial.value, "types": threshold.types}
    if not threshold.cannot:
        document |= {**_figures(trial.replay), "in_force": trial.before, "complete": trial.is_complete}
    return {**document, "remark": "; ".join(_remarks(trial))}
