"""A storm of refused connects is counted by its bytes: nothing may change but the speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from itertools import count

from helpers.network_records import REFUSED, TIMED_OUT, failed, make_observer, record
from hypothesis import given
from hypothesis import strategies as st

from tapio.anomalies import Anomaly
from tapio.config import Config
from tapio.episodes import Emitted, Episodes

Kinds = list[tuple[int, int, int]]


def raw_records(kinds: Kinds) -> list[bytes]:
    return [
        failed(
            boot_ns=1_000 + number, socket_local_port=2_000 + number, socket_peer_port=port, socket_pid=pid, error=error
        )
        for number, (port, pid, error) in enumerate(kinds)
    ]


def emitted(batches: list[list[Anomaly]]) -> list[Emitted]:
    numbers = count()
    episodes = Episodes(Config().episodes, lambda: str(next(numbers)))
    found = [one for batch in batches for one in episodes.admit(batch, 10_000_000)]
    return found + episodes.flush()


@given(
    st.lists(st.tuples(st.sampled_from((80, 81)), st.sampled_from((0, 7, 8)), st.sampled_from((REFUSED, TIMED_OUT))))
)
def test_the_same_leaves_as_if_each_were_decoded(kinds: Kinds) -> None:
    raw = raw_records(kinds)
    together = emitted([make_observer().decode(raw)])
    one_by_one = emitted([make_observer().decode([one]) for one in raw])

    def described(items: list[Emitted]) -> Counter[Hashable]:
        return Counter(
            (item.count, item.total, item.first_ns, item.last_ns, item.state, item.anomaly.message, known(item))
            for item in items
        )

    def known(item: Emitted) -> frozenset[tuple[str, object]]:
        return frozenset(pair for pair in item.anomaly.data.items() if pair[0] != "count")

    assert described(together) == described(one_by_one)


def test_a_storm_is_one_anomaly_beside_the_first() -> None:
    *first, rest = make_observer().decode(raw_records([(80, 7, REFUSED)] * 1009))
    assert [anomaly.data["src_port"] for anomaly in first] == [2000, 2001, 2002, 2003, 2004]
    assert (rest.count, rest.boot_ns, rest.data["pid"]) == (1004, 2008, 7)
    assert "src_port" not in rest.data


def test_one_that_is_left_over_keeps_its_port() -> None:
    assert make_observer().decode(raw_records([(80, 7, REFUSED)] * 6))[5].data["src_port"] == 2005


def test_ignored_connections_stay_ignored() -> None:
    observer = make_observer(ignore_ports=(80,))
    assert observer.decode(raw_records([(80, 7, REFUSED)] * 11)) == []
    assert observer.suppressed["ignored"] == 11


def test_other_kinds_are_not_taken() -> None:
    storm = raw_records([(80, 7, REFUSED)] * 7)
    observer = make_observer(rst_storm_count=3)
    observer.decode(storm + [record("reset", boot_ns=3_000 + number) for number in range(3)])
    (window,) = observer.due(None)
    assert window.data["rst_count"] == 3
