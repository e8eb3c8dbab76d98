"""What the agent says of itself."""

from __future__ import annotations

import time

import pytest
from helpers.occurrences import make_occurrence
from prometheus_client.parser import text_string_to_metric_families

from tapio.errors import NoCounterError
from tapio.prometheus import exposition
from tapio.telemetry import Hook, ObserverTelemetry, Telemetry


class FixedSink:
    name = "stdout"
    results = {"accepted": 3, "rejected": 1, "dropped": 0}  # noqa: RUF012  # read only
    backlog = 2
    last_error = ""


def make_telemetry(*hooks: Hook, reason: str = "") -> Telemetry:
    observer = ObserverTelemetry("container", reason, lambda: list(hooks))
    observer.suppressed = {"duplicate": 4}
    return Telemetry([observer], [FixedSink()])  # type: ignore[list-item]


def test_ready_and_not() -> None:
    """Blind is no hook or a stalled loop; off with a reason is no trouble."""
    attached, detached = Hook("mark_victim", attached=True), Hook("mark_victim", attached=False, reason="refused")
    assert make_telemetry(attached).trouble() == ""
    assert (
        make_telemetry(attached, detached).trouble() == "observer container is blind: mark_victim is detached refused"
    )
    assert make_telemetry(reason="no PMU").trouble() == ""
    stalled = make_telemetry(attached)
    stalled.drained_at = time.monotonic() - 6
    assert "not drained" in stalled.trouble()


def test_no_heartbeat_is_not_ready_though_the_agent_observes() -> None:
    """A write that failed, and one that never ends."""
    telemetry = make_telemetry(Hook("mark_victim", attached=True))
    assert telemetry.unready() == ""
    telemetry.heartbeat_error = "writing the heartbeat: no space left on device"
    assert telemetry.unready() == telemetry.heartbeat_error
    assert telemetry.trouble() == ""
    telemetry.heartbeat_error = ""
    telemetry.heartbeat_at -= 11
    assert telemetry.unready() == "the heartbeat was not written for 11 s"


def test_missing_canaries_are_blindness() -> None:
    telemetry = make_telemetry(Hook("mark_victim", attached=True))
    telemetry.observers["container"].blind = "2 canaries in a row did not come back"
    assert telemetry.trouble() == "observer container is blind: 2 canaries in a row did not come back"


def test_why_an_observer_is_off_is_one_of_few_words_on_metrics() -> None:
    """One series for each that is not up, none for those that are; the whole reason is in the heartbeat."""
    attached, detached = Hook("a", attached=True), Hook("b", attached=False, reason="refused")
    telemetries = {
        "network": ObserverTelemetry("network", "", lambda: [attached]),
        "container": ObserverTelemetry("container", "", lambda: [attached, detached]),
        "storage": ObserverTelemetry("storage", "", lambda: [attached]),
        "node": ObserverTelemetry("node", "counting CPU cycles: no", off=NoCounterError.reason),
    }
    telemetries["storage"].blind = "2 canaries in a row did not come back"
    text = exposition(Telemetry(telemetries.values(), [])).decode()
    assert sorted(line for line in text.splitlines() if line.startswith("tapio_observer_off_info{")) == [
        'tapio_observer_off_info{observer="container",reason="detached"} 1.0',
        'tapio_observer_off_info{observer="node",reason="no_counters"} 1.0',
        'tapio_observer_off_info{observer="storage",reason="blind"} 1.0',
    ]


@pytest.mark.parametrize("hooks", [(), (Hook("mark_victim", attached=True, hits=7, lost=2, filtered=1, run_ns=3_000),)])
def test_the_exposition_can_be_read(hooks: tuple[Hook, ...]) -> None:
    telemetry = make_telemetry(*hooks)
    telemetry.count_occurrence(make_occurrence())
    families = {family.name: family for family in text_string_to_metric_families(exposition(telemetry).decode())}
    samples = {sample.name: sample.value for family in families.values() for sample in family.samples}
    assert samples["tapio_observer_up"] == len(hooks)
    assert samples["tapio_lost_events_total"] == 2 * len(hooks)
    assert samples["tapio_occurrences_total"] == 1
    assert samples["tapio_sink_queue"] == 2
    assert all(family.documentation for family in families.values())
