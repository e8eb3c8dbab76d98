"""Episodes: one incident is one story. Folds bursts of equal anomalies and caps the rate of the node.

The first anomalies of a key leave one by one, as they happen. Further ones are folded: every interval one stands
for those since the last, with their number. After a silence the episode closes, and says so if it folded any.
Nothing is dropped: over any time the sum of all counts is the number of anomalies that came in.

What may leave the node is limited (`rate_per_s`, `burst`). A flood of one type must silence neither the stories that
fold it nor the other types. So the last of what is left is kept for stories, and each type has a share of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from tapio.anomalies import CATALOGUE, OOM_KILL, SEVERITIES, Anomaly
from tapio.config import EpisodesConfig

_S = 1_000_000_000
_SCAN_NS = _S // 2
_OVERFLOW = 2  # so much of a key is that of the type's overflow: the type, and whether it was expected

# Of these the worst of all folded anomalies is kept; other fields stay if they are equal in all.
_LARGEST = frozenset({"latency_ms", "current_ms", "stall_pct", "retransmits", "rst_count"})
_SMALLEST = frozenset({"ipc"})

State = Literal["open", "ongoing", "closed"]


class Emitted(msgspec.Struct, frozen=True):
    """An anomaly that leaves: how many it stands for, and its episode's state. Times on the boot clock."""

    anomaly: Anomaly
    count: int
    episode_id: str = ""  # none for what is never folded
    total: int = 0
    first_ns: int = 0
    last_ns: int = 0
    state: State = "open"


class Episodes:
    """All open episodes. The time is passed in (boot clock, nanoseconds)."""

    def __init__(self, config: EpisodesConfig, new_id: Callable[[], str]) -> None:
        self.config = config  # replaced as a whole on reload
        self.folded: Counter[str] = Counter()  # anomalies that did not leave on their own, by type
        self.overflowed = {"rate": 0, "keys": 0}
        self._new_id = new_id
        self._open: dict[tuple[Any, ...], _Episode] = {}
        self._tokens = float(config.burst)
        self._shares = dict.fromkeys(CATALOGUE, config.burst / len(CATALOGUE))  # of the tokens, by type
        self._refilled_ns = self._scanned_ns = 0

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, anomalies: Iterable[Anomaly], now_ns: int) -> list[Emitted]:
        """What of these leaves at once; the others are folded."""
        self._refill(now_ns)
        found = []
        for anomaly in anomalies:
            if anomaly.type is OOM_KILL:
                found.append(Emitted(anomaly, anomaly.count))
                continue
            episode, alone = self._place(anomaly)
            if alone:
                found.append(episode.pass_on(anomaly))
            else:
                self.folded[anomaly.type.name] += anomaly.count
                episode.fold(anomaly, now_ns)
        return found

    def due(self, now_ns: int) -> list[Emitted]:
        """What was folded for an interval, and the ends of episodes that fell silent."""
        if now_ns - self._scanned_ns < _SCAN_NS:
            return []
        self._scanned_ns = now_ns
        self._refill(now_ns)
        found = []
        for key, episode in list(self._open.items()):
            silent = now_ns - episode.last_ns >= self.config.close_after_s * _S
            if silent and not episode.has_folded:
                del self._open[key]
                continue
            if not silent and not episode.is_due(now_ns, self.config.interval_s * _S):
                continue
            if not self._may_leave(key[0], folded=True):
                continue
            found.append(episode.take("closed" if silent else "ongoing"))
            del self._open[key]
            if not silent:
                self._open[key] = episode  # behind all others, so that each gets its turn when tokens are scarce
        return found

    def flush(self) -> list[Emitted]:
        """Everything that is folded, at the end of the agent: a burst of stories, those beyond it as one a type."""
        pending = [(key, episode) for key, episode in self._open.items() if episode.has_pending]
        for key, episode in pending[self.config.burst :]:
            if len(key) > _OVERFLOW:
                self._episode(key[:_OVERFLOW]).absorb(episode)
        found = [episode.take("closed") for episode in self._open.values() if episode.has_pending]
        self._open.clear()
        return found

    def _place(self, anomaly: Anomaly) -> tuple[_Episode, bool]:
        """The episode of an anomaly, and whether the anomaly leaves on its own."""
        overflow = anomaly.type.name, "expected" in anomaly.data
        key = (*overflow, anomaly.data.get("cgroup_id"), *anomaly.key)
        episode = self._open.get(key)
        if episode is None and len(self._open) >= self.config.max_keys:
            self.overflowed["keys"] += anomaly.count
            return self._episode(overflow), False
        if episode is not None and episode.passed >= self.config.individual:
            return episode, False
        if not self._may_leave(anomaly.type.name, folded=False):
            self.overflowed["rate"] += anomaly.count
            return episode or self._episode(overflow), False
        return self._episode(key), True

    def _may_leave(self, kind: str, *, folded: bool) -> bool:
        """Take a token for an occurrence of this type, if there is one for it."""
        needed = 1.0
        if self._shares[kind] < 1:
            reserve = min(self.config.rate_per_s, (self.config.burst - 1) / 10)
            needed += reserve if folded else 2 * reserve
        if self._tokens < needed:
            return False
        self._tokens -= 1
        self._shares[kind] = max(0.0, self._shares[kind] - 1)
        return True

    def _episode(self, key: tuple[Any, ...]) -> _Episode:
        episode = self._open.get(key)
        if episode is None:
            episode = self._open[key] = _Episode(self._new_id(), is_mixed=len(key) == _OVERFLOW)
        return episode

    def _refill(self, now_ns: int) -> None:
        earned, burst = max(0, now_ns - self._refilled_ns) / _S * self.config.rate_per_s, float(self.config.burst)
        self._tokens = min(burst, self._tokens + earned)
        for kind, share in self._shares.items():
            self._shares[kind] = min(burst, share * len(CATALOGUE) + earned) / len(CATALOGUE)
        self._refilled_ns = now_ns


class _Episode:
    """The anomalies of one key since the first; `is_mixed`: of all keys of a type that had to do without their own."""

    __slots__ = ("_folded", "_id", "_is_mixed", "_pending", "_since_ns", "_total", "first_ns", "has_folded", "last_ns",
                 "passed")  # fmt: skip

    def __init__(self, identity: str, *, is_mixed: bool) -> None:
        self._is_mixed = is_mixed
        self.passed = 0
        self.has_folded = False
        self.first_ns = self.last_ns = 0
        self._id = identity
        self._total = 0
        self._pending = 0
        self._since_ns = 0
        self._folded: Anomaly | None = None

    @property
    def has_pending(self) -> bool:
        """Whether anomalies are folded that nothing stood for yet."""
        return self._pending > 0

    def is_due(self, now_ns: int, interval_ns: int) -> bool:
        """Whether the oldest of them waits for the interval."""
        return self.has_pending and now_ns - self._since_ns >= interval_ns

    def pass_on(self, anomaly: Anomaly) -> Emitted:
        """The anomaly as it leaves on its own."""
        self._note(anomaly)
        self.passed += 1
        return self._emit(anomaly, anomaly.count, "open")

    def fold(self, anomaly: Anomaly, now_ns: int) -> None:
        """Keep what the anomaly has in common with the others of this interval."""
        self._note(anomaly)
        self.has_folded = True
        if not self._pending:
            self._since_ns = now_ns
            self._folded = anomaly
        elif self._folded is not None:
            self._folded = _merge(self._folded, anomaly)
        self._pending += anomaly.count

    def absorb(self, other: _Episode) -> None:
        """Take over what another one has folded."""
        assert other._folded is not None  # noqa: S101  # the caller asked has_pending
        folded = self._folded if self._pending else None
        self._folded = _merge(folded, other._folded) if folded is not None else other._folded
        self.has_folded = True
        self._pending += other._pending
        self._total += other._pending
        self.first_ns = min(self.first_ns or other.first_ns, other.first_ns)
        self.last_ns = max(self.last_ns, other.last_ns)
        other._pending = 0

    def take(self, state: State) -> Emitted:
        """One anomaly for all that are folded; for none it only says that the episode is over."""
        assert self._folded is not None  # noqa: S101  # the caller asked has_folded
        count, self._pending = self._pending, 0
        anomaly = self._folded
        if count != 1:
            what = f"{count} more" if count else f"over after {self._total}"
            message = f"{what}, among them: {anomaly.message}" if self._is_mixed else f"{anomaly.message} ({what})"
            anomaly = msgspec.structs.replace(anomaly, message=message, boot_ns=self.last_ns)
        return self._emit(anomaly, count, state)

    def _note(self, anomaly: Anomaly) -> None:
        self._total += anomaly.count
        self.first_ns = self.first_ns or anomaly.boot_ns
        self.last_ns = max(self.last_ns, anomaly.boot_ns)

    def _emit(self, anomaly: Anomaly, count: int, state: State) -> Emitted:
        return Emitted(anomaly, count, self._id, self._total, self.first_ns, self.last_ns, state)


def _merge(folded: Anomaly, anomaly: Anomaly) -> Anomaly:
    """Both as one: equal fields stay, of figures and of the severity the worse."""
    data = {name: value for name, value in folded.data.items() if anomaly.data.get(name) == value}
    for names, worst in ((_LARGEST, max), (_SMALLEST, min)):
        for name in names & folded.data.keys() & anomaly.data.keys():
            data[name] = worst(folded.data[name], anomaly.data[name])
    severity = max(folded.severity, anomaly.severity, key=SEVERITIES.index)
    return msgspec.structs.replace(folded, data=data, severity=severity)
