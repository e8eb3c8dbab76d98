"""Which occurrences a command is about."""

from __future__ import annotations

import argparse
import fnmatch
import re
from collections.abc import Callable, Iterable

import msgspec

from tapio.anomalies import CATALOGUE, EVENTS_LOST
from tapio.anomalies import SEVERITIES as KNOWN_SEVERITIES
from tapio.errors import UsageError
from tapio.occurrence import Entity, Occurrence

OBSERVERS = tuple(dict.fromkeys(kind.observer for kind in CATALOGUE.values() if kind is not EVENTS_LOST))
SEVERITIES: tuple[str, ...] = KNOWN_SEVERITIES  # as text: what a user writes may be none of them


_MAX_COUNT = 10**12


def observer_of(occurrence: Occurrence) -> str:
    """The observer that found it: the middle of `kernel.<observer>.<what>`; of lost events the one that lost them."""
    if occurrence.type == EVENTS_LOST.name:
        return str(occurrence.data.get("observer", ""))
    return occurrence.type.split(".")[1]


def count_of(occurrence: Occurrence) -> int:
    """How many anomalies it stands for. A number that no kernel can reach is taken for the largest that fits a sum."""
    return min(int(occurrence.data.get("count", 1)), _MAX_COUNT)


def pod_of(occurrence: Occurrence) -> Entity | None:
    """The pod it belongs to, where that is known."""
    entities = occurrence.context.entities if occurrence.context else ()
    return next((entity for entity in entities if entity.kind == "pod"), None)


class Filter(msgspec.Struct, frozen=True):
    """What passes. Empty fields let everything through; patterns may hold * and ?."""

    observers: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    least_severity: str = ""
    namespaces: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()

    def passes(self, occurrence: Occurrence) -> bool:
        """Whether the occurrence is wanted."""
        if self.observers and observer_of(occurrence) not in self.observers:
            return False
        if self.types and occurrence.type not in self.types:
            return False
        if self.least_severity and rank(occurrence.severity) < rank(self.least_severity):
            return False
        if self.namespaces:
            namespace = occurrence.context.namespace if occurrence.context else ""
            if not namespace or not _matches([namespace], self.namespaces):
                return False
        if self.pods:
            pod = pod_of(occurrence)
            return pod is not None and _matches([pod.name, pod.id], self.pods)
        return True

    def byte_test(self) -> Callable[[bytes], bool] | None:
        """A cheap test that every document passes whose occurrence passes; None when all do.

        Names of types, severities, pods stand in JSON as they are, unless something is escaped: a document with a
        backslash always passes.
        """
        every = [
            [text for name in self.observers for text in (f".{name}.", f'"{name}"')],  # of its type, or data.observer
            [f'"{name}"' for name in self.types],
            [_literal(pattern) for pattern in self.namespaces],
            [_literal(pattern) for pattern in self.pods],
        ]
        needed = [[re.escape(text.encode(errors="surrogateescape")) for text in texts] for texts in every if texts]
        if self.least_severity:  # with its key, because "error" is a key of every document
            names = "|".join(SEVERITIES[rank(self.least_severity) :])
            needed.append([rf'"severity"[ \t\r\n]*:[ \t\r\n]*"({names})"'.encode()])
        if not needed:
            return None
        searches = [re.compile(b"|".join(texts)).search for texts in needed]
        return lambda document: b"\\" in document or all(search(document) for search in searches)


def _literal(pattern: str) -> str:
    """The longest text that whatever matches the pattern must hold."""
    return "" if "[" in pattern else max(re.split(r"[*?]", pattern), key=len)


def rank(severity: str) -> int:
    """0 for debug, 4 for critical."""
    return SEVERITIES.index(severity)


def _matches(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def from_arguments(arguments: argparse.Namespace) -> Filter:
    """The filter that the flags ask for; UsageError names what there is."""
    return Filter(
        observers=frozenset(name for name in OBSERVERS if getattr(arguments, name)),
        types=frozenset(find_type(text) for text in arguments.type or ()),
        least_severity=find_severity(arguments.severity) if arguments.severity is not None else "",
        namespaces=tuple(arguments.namespace or ()),
        pods=tuple(arguments.pod or ()),
    )


def find_type(text: str) -> str:
    """The full name of a type: 'oom_kill', 'container.oom_kill' and the full name itself are known."""
    for name in CATALOGUE:
        if text in (name, name.partition(".")[2], name.split(".")[2]):
            return name
    known = ", ".join(name.split(".")[2] for name in CATALOGUE)
    raise UsageError(f"--type {text}: there is no such type: choose from {known}")


def find_severity(text: str, flag: str = "--severity") -> str:
    """A severity by its name."""
    if text in SEVERITIES:
        return text
    raise UsageError(f"{flag} {text}: there is no such severity: choose from {', '.join(SEVERITIES)}")


def find_observer(text: str) -> str:
    """An observer by its name."""
    if text in OBSERVERS:
        return text
    raise UsageError(f"observer {text}: there is no such observer: choose from {', '.join(OBSERVERS)}")
