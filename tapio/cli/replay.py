"""Replaying stored occurrences under other thresholds, as `tapio tune --set` asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from tapio.cli.filters import count_of
from tapio.cli.thresholds import THRESHOLDS, Threshold, in_force
from tapio.config import Config
from tapio.errors import UsageError
from tapio.occurrence import Occurrence


class Setting(msgspec.Struct, frozen=True):
    """A value to try for a threshold, what was in force `before`, and the configuration that was."""

    threshold: Threshold
    value: Any
    before: Any
    config: Config

    @property
    def is_stricter(self) -> bool:
        """Whether it lets nothing through that was held back: the stored occurrences are all that there could be."""
        return self.threshold.severity != "" or self.threshold.is_stricter(self.value, self.before)

    @property
    def is_laxer(self) -> bool:
        """Whether it holds nothing back that was let through: every stored occurrence stays, with all it stands for."""
        return self.threshold.is_stricter(self.before, self.value)

    def verdict(self, occurrence: Occurrence) -> bool | None:
        """Whether a stored occurrence stays; None where the facts do not say."""
        severity = self.threshold.severity
        if self.is_laxer and (not severity or severity == occurrence.severity):
            return True
        return self.threshold.passes(occurrence.data, self.value, self.config)

    def keeps_all(self, occurrence: Occurrence) -> bool:
        """Whether with the worst of the anomalies that it stands for all of them stay."""
        severity = self.threshold.severity
        if self.is_laxer and (not severity or severity == occurrence.severity):
            return True
        return isinstance(self.threshold.default, list)  # folded ones are equal in this


def parse_settings(texts: Sequence[str], config: Config, load: Callable[[dict[str, Any]], Config]) -> list[Setting]:
    """What KEY=VALUE asks for; UsageError for what the configuration would refuse. `load` makes one with such keys."""
    wanted: dict[str, Any] = {}
    for text in texts:
        key, equals, written = text.partition("=")
        if not equals or key not in THRESHOLDS:
            what = "expected KEY=VALUE" if not equals else f"there is no threshold {key}"
            raise UsageError(f"--set {text}: {what}: 'tapio tune' lists them")
        if key in wanted:
            raise UsageError(f"--set {text}: {key} is set twice: choose one value a run")
        try:
            wanted[key] = json.loads(written)
        except (ValueError, RecursionError):  # a word
            wanted[key] = written
    _check(dict(zip(wanted, texts, strict=True)), wanted, load)
    thresholds = [THRESHOLDS[key] for key in wanted]
    return [Setting(t, wanted[t.key], in_force(t, config), config) for t in thresholds]


def _check(texts: dict[str, str], wanted: dict[str, Any], load: Callable[[dict[str, Any]], Config]) -> None:
    """UsageError where the configuration would refuse the values, which together may make sense where one does not."""
    try:
        load(wanted)
    except UsageError as error:
        for key, value in wanted.items():
            try:
                load({key: value})
            except UsageError as own:
                raise UsageError(f"--set {texts[key]}: {_reason(own)}") from own
        raise UsageError(f"--set {' --set '.join(texts.values())}: {_reason(error)}") from error


def _reason(error: UsageError) -> str:
    return str(error).removeprefix("reading the command line: ")


class Replay(msgspec.Struct):
    """Alerts (occurrences) and anomalies before and after. Folded ones keep only their worst value: hence a range."""

    alerts_before: int = 0
    anomalies_before: int = 0
    alerts: int = 0
    least: int = 0
    most: int = 0
    untold: int = 0  # alerts whose facts do not say; counted as staying
    folded: int = 0  # alerts of which only the worst anomaly is known to stay

    def add(self, occurrence: Occurrence, settings: Iterable[Setting]) -> None:
        """Replay a stored occurrence under settings that all concern its type; it stays if it passes every one."""
        settings, count = list(settings), count_of(occurrence)
        if all(setting.threshold.severity in ("", occurrence.severity) for setting in settings):
            self.alerts_before += 1
            self.anomalies_before += count
        verdicts = [setting.verdict(occurrence) for setting in settings]
        if False in verdicts:
            return
        self.alerts += 1
        self.most += count
        if None in verdicts:
            self.untold += 1  # perhaps none of them stays
        elif all(setting.keeps_all(occurrence) for setting in settings):
            self.least += count
        else:
            self.least += min(count, 1)  # the worst one surely
            self.folded += count > 1
