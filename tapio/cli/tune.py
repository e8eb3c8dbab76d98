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
from tapio.cli.replay import Replay, Setting, parse_settings
from tapio.cli.screen import Column, Screen, warn
from tapio.cli.thresholds import THRESHOLDS, Threshold, in_force
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
    """A setting and its replay."""

    setting: Setting
    replay: Replay

    @property
    def is_complete(self) -> bool:
        """Whether everything that the setting lets through was stored, with the facts that decide."""
        return self.setting.is_stricter and not self.replay.untold


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Replay every setting on its own; those that decide whether there is an alert also all together."""
    since_s, now_s = parse_duration(arguments.since), time.time()
    path = Path(arguments.config) if arguments.config is not None else None
    config = configuration.load(path, {}, {})
    settings = parse_settings(arguments.set or (), config, lambda wanted: configuration.load(path, wanted, {}))
    if not settings:
        _list(screen, config, json=arguments.json)
        return 0
    directory = DataDirectory(find_directory(arguments.data_dir))
    trials = [_Trial(setting, Replay()) for setting in settings]
    deciding = [setting for setting in settings if not setting.threshold.severity]
    together = Replay()
    for occurrence in directory.occurrences(int((now_s - since_s) * 1000)):
        for trial in trials:
            if occurrence.type in trial.setting.threshold.types:
                trial.replay.add(occurrence, [trial.setting])
        concerned = [setting for setting in deciding if occurrence.type in setting.threshold.types]
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
                screen.line(f"{trial.setting.threshold.key}: {remark}")
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
    setting, replay = trial.setting, trial.replay
    threshold = setting.threshold
    if threshold.cannot:
        yield f"the stored facts cannot tell: {threshold.cannot}"
        return
    if threshold.severity:
        yield f"the {threshold.severity} ones alone"
    if not setting.is_stricter:
        yield (
            f"laxer than {setting.before}, which is in force: what that held back was never stored, "
            "so there may have been more than this"
        )
    if replay.folded:
        yield "of folded anomalies only the worst value is stored, hence a range"
    if replay.untold:
        yield f"the facts of {replay.untold} alerts do not say; they are counted as staying"
    if threshold.note:
        yield threshold.note


def _row(trial: _Trial) -> list[str]:
    threshold = trial.setting.threshold
    figures = ["?"] * 4 if threshold.cannot else _numbers(trial.replay)
    return [threshold.key, str(trial.setting.value), _types(threshold), *figures]


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
    setting, threshold = trial.setting, trial.setting.threshold
    document: dict[str, Any] = {"kind": "tune", "key": threshold.key, "value": setting.value, "types": threshold.types}
    if not threshold.cannot:
        document |= {**_figures(trial.replay), "in_force": setting.before, "complete": trial.is_complete}
    return {**document, "remark": "; ".join(_remarks(trial))}
