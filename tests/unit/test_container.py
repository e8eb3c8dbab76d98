"""The container detector on made-up records: what is an anomaly, and what is only counted."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from helpers.records import make_layout, make_loaded, pack
from hypothesis import given
from hypothesis import strategies as st

from tapio.anomalies import Anomaly
from tapio.config import Config, ContainerConfig
from tapio.errors import ObjectError
from tapio.kernel.channel import Hook
from tapio.observers.base import own_process
from tapio.observers.container import _EXIT_FIELDS, ContainerObserver
from tapio.observers.container_oom import _OOM_FIELDS

EXIT, OOM = make_layout("exit_record", _EXIT_FIELDS), make_layout("oom_record", _OOM_FIELDS)
ENUMS = {"RECORD_EXIT": 1, "RECORD_OOM": 2, "LIMIT_HIT": 1, "LIMIT_NONE": 2, "LIMIT_UNKNOWN": 0}
SECOND = 1_000_000_000


def make_observer(*, modern: bool = True, **config: Any) -> ContainerObserver:
    features = {"process_exit_passes_group_dead": modern, "mark_victim_passes_task": modern}
    observer = ContainerObserver(make_loaded("container", {"exit_record": EXIT, "oom_record": OOM}, ENUMS, features))
    observer.configure(Config(container=ContainerConfig(**config)))
    return observer


def exit_of(pid: int, status: int, **more: Any) -> bytes:
    values = {"task_start_boot_ns": pid * 10, "task_cgroup_id": 77, "task_comm": b"app", "kills": -1, **more}
    return pack(EXIT, kind=1, task_pid=pid, status=status, **values)


def mark_of(pid: int, **more: Any) -> bytes:
    values = {
        "victim_start_boot_ns": pid * 10,
        "victim_cgroup_id": 77,
        "victim_memory_cgroup_id": 78,
        "victim_memory_hierarchy": 4,
        "status": 9,
        "tid": pid,
        "kills": -1,
        **more,
    }
    return pack(OOM, kind=2, victim_pid=pid, **values)


def names(anomalies: list[Anomaly]) -> list[str]:
    return [anomaly.type.name.rsplit(".", 1)[1] for anomaly in anomalies]


def test_a_child_of_the_agent_is_a_canary_and_no_anomaly() -> None:
    """Only the one that is expected comes back; how another child ends is as with any process."""
    observer = make_observer()
    observer.canary.expected = (7, 0x7100)
    assert observer.decode([exit_of(900, 0x7100, own_child=1, task_ns_pid=8), exit_of(901, 0x7100, own_child=1)]) == []
    assert observer.canary.expected == (7, 0x7100)
    assert observer.decode([exit_of(907, 0x7100, own_child=1, task_ns_pid=7, ignored=1)]) == []
    assert observer.canary.expected is None
    assert observer.suppressed["own_process"] == 3
    assert observer.decode([exit_of(908, 0x300, own_child=1, ignored=1)]) == []
    others = [exit_of(907, 0x7100, task_ns_pid=7), exit_of(909, 0x300, own_child=1)]
    assert names(observer.decode(others)) == ["abnormal_exit", "abnormal_exit"]


def test_what_a_kernel_lacks_is_said() -> None:
    """A hook that is missing and marks that carry only a pid cost facts, not reports."""
    assert make_observer().reason == ""
    assert "by pid alone" in make_observer(modern=False).reason
    features = {"process_exit_passes_group_dead": True, "mark_victim_passes_task": True}
    loaded = make_loaded("container", {"exit_record": EXIT, "oom_record": OOM}, ENUMS, features)
    refused = Hook("out_of_memory", "watching out_of_memory(): operation not permitted")
    reason = ContainerObserver(msgspec.structs.replace(loaded, missing=(refused,))).reason
    assert reason.startswith("watching out_of_memory(): operation not permitted: whose memory limit")


def test_codes_signals_and_cores() -> None:
    observer = make_observer()
    found = observer.decode([exit_of(1, 0x300), exit_of(2, 15), exit_of(3, 0x8B), exit_of(4, 40)])
    assert [(a.data["exit_code"], a.data["signal"], a.severity) for a in found] == [
        (3, 0, "warning"),
        (143, 15, "error"),
        (139, 11, "error"),
        (168, 40, "error"),
    ]
    assert [a.data.get("core_dumped") for a in found] == [None, None, True, None]
    assert [a.message for a in found] == [
        "Abnormal exit pid=1 (exit_code=3)",
        "Abnormal exit pid=2 (exit_code=143, signal=SIGTERM)",
        "Abnormal exit pid=3 (exit_code=139, signal=SIGSEGV)",
        "Abnormal exit pid=4 (exit_code=168, signal=signal 40)",
    ]


def test_unknown_cgroups_are_left_out() -> None:
    (anomaly,) = make_observer().decode([exit_of(1, 0x100, task_cgroup_id=0)])
    assert "cgroup_id" not in anomaly.data
    assert "cgroup_v1_id" not in anomaly.data
    assert anomaly.data["attribution"] == "none"


def test_a_name_that_is_not_text() -> None:
    (anomaly,) = make_observer().decode([exit_of(1, 0x100, task_comm=b"a\x1b\xff\0junk")])
    assert anomaly.data["comm"] == "a\x1b�"


def test_older_kernels_report_an_exit_twice() -> None:
    records = [exit_of(1, 0x100), exit_of(1, 0x100), exit_of(1, 0x100, task_start_boot_ns=99)]
    old, new = make_observer(modern=False), make_observer()
    assert len(old.decode(records)) == 2
    assert old.suppressed["duplicate"] == 1
    assert len(new.decode(records)) == 3


def test_an_oom_victim_is_reported_once() -> None:
    observer = make_observer()
    found = observer.decode([mark_of(5), mark_of(5, tid=6), mark_of(5, tid=7), exit_of(5, 9, oom_victim=1)])
    assert names(found) == ["oom_kill"]
    assert (observer.suppressed["duplicate"], observer.suppressed["oom_victim"]) == (2, 1)


def test_a_victim_whose_mark_was_lost_is_an_abnormal_exit() -> None:
    (anomaly,) = make_observer().decode([exit_of(5, 9, oom_victim=1)])
    assert names([anomaly]) == ["abnormal_exit"]
    assert anomaly.data["oom_victim"] is True


def test_a_kernel_whose_marks_are_only_pids_reports_the_kill_at_the_exit() -> None:
    observer = make_observer(modern=False)
    (anomaly,) = observer.decode([exit_of(5, 9, oom_victim=1), exit_of(5, 9, oom_victim=1)])
    assert names([anomaly]) == ["oom_kill"]
    assert anomaly.data["memory_limit_bytes"] == 0
    assert (anomaly.data["attribution"], anomaly.data["cgroup_id"]) == ("victim", 77)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([mark_of(5, kills=0), exit_of(5, 9, oom_victim=1)], "abnormal_exit"),
        ([mark_of(5, kills=0, status=0x100), exit_of(5, 0x100, oom_victim=1)], "abnormal_exit"),
        ([exit_of(5, 0x8B, oom_victim=1)], "abnormal_exit"),
        ([exit_of(5, 9, oom_victim=1, kills=0)], "abnormal_exit"),
        ([exit_of(5, 9, oom_victim=1, kills=1, ignored=1)], "oom_kill"),
        ([mark_of(5, kills=1), exit_of(5, 9, oom_victim=1, kills=1)], "oom_kill"),
    ],
)
def test_what_a_kernel_of_pids_can_tell(records: list[bytes], expected: str) -> None:
    assert names(make_observer(modern=False).decode(records)) == [expected]


def test_kills_from_before_the_agent_do_not_make_a_mark_a_kill() -> None:
    features = {"process_exit_passes_group_dead": True, "mark_victim_passes_task": True}
    loaded = make_loaded("container", {"exit_record": EXIT, "oom_record": OOM}, ENUMS, features)
    observer = ContainerObserver(msgspec.structs.replace(loaded, oom_kills={78: 7}))
    assert observer.decode([mark_of(5, kills=7)]) == []
    assert names(observer.decode([mark_of(6, kills=8)])) == ["oom_kill"]


def test_an_ignored_code_that_is_here_only_for_its_mark() -> None:
    observer = make_observer()
    assert observer.decode([exit_of(5, 9, oom_victim=1, ignored=1)]) == []
    assert observer.suppressed["ignored_code"] == 1


@pytest.mark.parametrize("mark", [{"kills": 0}, {"status": 0x100}, {"status": 0}])
def test_a_mark_of_a_task_that_was_exiting_is_counted(mark: dict[str, int]) -> None:
    """No kill was counted in its cgroup, or it had another end already: its exit tells the truth."""
    observer = make_observer()
    found = observer.decode([mark_of(5, **mark), exit_of(5, 0x100, oom_victim=1)])
    assert names(found) == ["abnormal_exit"]
    assert observer.suppressed["already_exiting"] == 1


def test_the_kill_count_of_the_cgroup_tells_kills_from_marks() -> None:
    observer = make_observer()
    marks = [mark_of(1, kills=3), mark_of(2, kills=3), mark_of(3, kills=4), mark_of(4, kills=4)]
    assert [a.data["pid"] for a in observer.decode(marks)] == [1, 3]
    assert observer.suppressed["already_exiting"] == 2


def test_limits() -> None:
    pages = {"rss_pages": 256 * 512, "limit_pages": 256 * 600, "limit_usage_pages": 256 * 599, "limit_cgroup_id": 9}
    own, above, node, unknown = make_observer().decode(
        [
            mark_of(1, limit_evidence=1, **pages),
            mark_of(2, limit_evidence=1, limit_level=2, **pages),
            mark_of(3, limit_evidence=2, rss_pages=1),
            mark_of(4, limit_evidence=0, rss_pages=1),
        ]
    )
    assert [a.data.get("oom_scope") for a in (own, above, node, unknown)] == ["container", "ancestor", "node", None]
    assert own.message == "OOM kill pid=1 (usage=512MB, limit=600MB)"
    assert own.data["limit_usage_bytes"] == 599 << 20
    assert node.data["memory_limit_bytes"] == unknown.data["memory_limit_bytes"] == 0
    assert (own.data["cgroup_id"], own.data["cgroup_v1_id"]) == (77, 78)


def test_a_group_kill_is_two_anomalies() -> None:
    """The first victim at once, the others as one with their number, when no more came for a second."""
    observer = make_observer()
    marks = [mark_of(pid, group_cgroup_id=50, boot_ns=pid, rss_pages=pid) for pid in (1, 2, 3, 4, 5)]
    assert [a.data["pid"] for a in observer.decode(marks)] == [1]
    assert observer.due(SECOND) == []
    (rest,) = observer.due(SECOND + 5)
    assert rest.data["count"] == 4
    assert [victim["pid"] for victim in rest.data["victims"]] == [2, 3, 4, 5]
    assert "pid" not in rest.data
    assert rest.data["memory_usage_bytes"] == 5 * 4096
    assert observer.due(None) == []


def test_a_group_of_one_and_of_two() -> None:
    observer = make_observer()
    observer.decode([mark_of(1, group_cgroup_id=50)])
    assert observer.due(None) == []
    observer.decode([mark_of(2, group_cgroup_id=51), mark_of(3, group_cgroup_id=51)])
    (second,) = observer.due(None)
    assert second.data["pid"] == 3
    assert "count" not in second.data


def test_ignored_names_hide_exits_and_no_oom_kill() -> None:
    observer = make_observer(ignore_comm=("a*",))
    assert names(observer.decode([exit_of(1, 0x100), mark_of(2, victim_comm=b"app")])) == ["oom_kill"]
    assert observer.suppressed["ignored_comm"] == 1


def test_settings_for_the_kernel() -> None:
    observer = make_observer()
    settings = observer.configure(Config(container=ContainerConfig("main", (0, 1, 64, 143, 255))))
    assert settings == {
        **own_process(),
        "ignored_exit_codes": (3, 1, 1 << 15, 1 << 63),
        "main_process_only": 1,
    }


def test_memory_stays_bounded() -> None:
    observer = make_observer(modern=False)
    observer.decode(exit_of(pid, 0x100) for pid in range(1, 20_000))
    observer.decode(mark_of(pid, victim_memory_cgroup_id=pid) for pid in range(1, 20_000))
    assert len(observer._exited._entries) <= 4096
    assert len(observer._oom._reported._entries) <= 4096
    assert observer.evicted["exits"] == 19_999 - 4096


def test_too_many_group_kills_at_once_are_told_early() -> None:
    """1,025 groups of two, all within a second: the first makes room, and no victim is missing."""
    observer = make_observer()
    marks = [mark_of(pid, group_cgroup_id=50 + pid // 2) for pid in range(2, 2052)]
    told = observer.decode(marks)
    assert len(told) == 1025 + 1
    assert len(observer._oom._groups) == 1024
    assert observer.evicted["oom_groups"] == 1
    assert {one.data["pid"] for one in told + observer.due(None)} == set(range(2, 2052))


@given(st.lists(st.binary(max_size=400), max_size=20))
def test_garbage_is_counted(records: list[bytes]) -> None:
    """Whatever comes out of the ring, nothing is raised and nothing is lost without a count."""
    observer = make_observer()
    framed = [
        bytes([kind, 0, 0, 0]) + record for kind, record in zip(itertools.cycle((0, 1, 2, 3)), records, strict=False)
    ]
    found = observer.decode(framed)
    assert len(found) + sum(observer.suppressed.values()) >= len(framed) - len(observer._oom._groups)


@pytest.mark.parametrize("field", _EXIT_FIELDS)
def test_an_object_without_a_needed_field_is_refused(field: str) -> None:
    lacking = make_layout("exit_record", [name for name in _EXIT_FIELDS if name != field])
    features = {"process_exit_passes_group_dead": True, "mark_victim_passes_task": True}
    loaded = make_loaded("container", {"exit_record": lacking, "oom_record": OOM}, ENUMS, features)
    with pytest.raises(ObjectError, match=f"no field {field}"):
        ContainerObserver(loaded)


@pytest.mark.parametrize("change", [{"records": {}}, {"enums": {}}, {"features": {}}])
def test_an_object_without_a_needed_part_is_refused(change: dict[str, Any]) -> None:
    features = {"process_exit_passes_group_dead": True, "mark_victim_passes_task": True}
    loaded = make_loaded("container", {"exit_record": EXIT, "oom_record": OOM}, ENUMS, features)
    with pytest.raises(ObjectError, match="rebuild it"):
        ContainerObserver(msgspec.structs.replace(loaded, **change))
