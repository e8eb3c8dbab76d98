"""The index of cgroups, the walk through hierarchies of every kind, and the kernel's records."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.records import make_layout, make_loaded, pack
from helpers.running_agent import wait_for

from tapio.config import Config
from tapio.enrich.cgroup_events import CgroupObserver
from tapio.enrich.cgroup_paths import PodCgroup
from tapio.enrich.cgroups import CgroupIndex, Rescan, find_all
from tapio.enrich.hierarchies import Hierarchy, find_hierarchies

UID = "5f0c4a1e-9d3b-4a6c-8e21-0b9f6d1c2a34"
ID = "ab" * 32
PATH = f"/kubepods/burstable/pod{UID}/{ID}"
S = 1_000_000_000

_V2 = "29 23 0:26 / {cgroup} ro,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
_V1 = "".join(
    f"{number} 23 0:{number} {{root}} {{cgroup}}/{name} ro shared:{number} - cgroup cgroup rw,{name}\n"
    for number, name in ((33, "cpu,cpuacct"), (34, "memory"), (35, "blkio"), (36, "name=systemd"))
)
_HYBRID = _V1 + "40 23 0:40 / {cgroup}/unified rw - cgroup2 cgroup2 rw\n"
_HEADER = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"
_ON_V1 = _HEADER + "cpu\t2\t9\t1\nmemory\t4\t9\t1\nblkio\t7\t9\t1\n"
_ON_V2 = _HEADER + "cpu\t0\t9\t1\nmemory\t0\t9\t1\nblkio\t0\t9\t1\n"
_MIXED = _HEADER + "memory\t0\t9\t1\nblkio\t7\t9\t1\n"


def make_host(tmp_path: Path, mounts: str, controllers: str, root: str = "/") -> tuple[Path, Path]:
    """A fixture of the host's /proc and /sys/fs/cgroup, with a space in its name."""
    proc, cgroup = tmp_path / "host" / "proc", tmp_path / "the host" / "sys/fs/cgroup"
    (proc / "self").mkdir(parents=True)
    cgroup.mkdir(parents=True)
    escaped = str(cgroup).replace(" ", r"\040")
    elsewhere = "50 23 0:50 / /elsewhere/cgroup rw - cgroup2 cgroup2 rw\n51 23 0:51 / / rw - ext4 /dev/sda rw\n"
    (proc / "self/mountinfo").write_text(elsewhere + mounts.format(cgroup=escaped, root=root))
    (proc / "cgroups").write_text(controllers)
    return proc, cgroup


@pytest.mark.parametrize(
    ("mounts", "controllers", "expected"),
    [
        (_V2, _ON_V2, {0: ""}),
        (_V1, _ON_V1, {4: "memory", 7: "blkio"}),
        (_HYBRID, _ON_V1, {0: "unified", 4: "memory", 7: "blkio"}),
        (_HYBRID, _MIXED, {0: "unified", 7: "blkio"}),
    ],
)
def test_the_hierarchies_of_a_host(tmp_path: Path, mounts: str, controllers: str, expected: dict[int, str]) -> None:
    """v2, v1, both, and v1 for one controller alone: those whose ids records carry, with the kernel's numbers."""
    proc, cgroup = make_host(tmp_path, mounts, controllers)
    found = {hierarchy.number: hierarchy.folder for hierarchy in find_hierarchies(proc, cgroup)}
    assert found == {number: cgroup / name for number, name in expected.items()}


def test_this_machine_without_a_folder_of_the_host() -> None:
    """Then the agent's own is taken."""
    found = find_hierarchies(Path("/nowhere/proc"), Path("/nowhere/cgroup"))
    assert found
    index = CgroupIndex(hierarchy.number for hierarchy in found)
    index.merge(find_all(found))
    for hierarchy in found:
        assert index.find((hierarchy.number, hierarchy.folder.stat().st_ino), 0) is not None


@pytest.mark.parametrize("layout", [PATH, f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/crio-{ID}.scope"])
@pytest.mark.parametrize("mounts", [_V2, _V1, _HYBRID])
def test_the_walk_finds_what_is_there(tmp_path: Path, mounts: str, layout: str) -> None:
    proc, cgroup = make_host(tmp_path, mounts, _ON_V1)
    hierarchies = find_hierarchies(proc, cgroup)
    for hierarchy in hierarchies:
        (hierarchy.folder / layout.lstrip("/") / "inner").mkdir(parents=True)
        (hierarchy.folder / "cgroup.procs").write_text("")
        (hierarchy.folder / "link").symlink_to(hierarchy.folder)
    found = find_all(hierarchies)
    for hierarchy in hierarchies:
        for place, pods in ((layout, True), (f"{layout}/inner", True), ("", False)):
            number = (hierarchy.folder / place.lstrip("/")).stat().st_ino
            cgroup_found = found[hierarchy.number, number]
            assert cgroup_found.pods == ((PodCgroup(UID, ID),) if pods else ())


def test_a_mount_of_a_part_keeps_the_part_above(tmp_path: Path) -> None:
    """The path begins at the root of the hierarchy, whatever of it is mounted."""
    proc, cgroup = make_host(tmp_path, _V1, _ON_V1, root=f"/kubepods/pod{UID}")
    (cgroup / "memory" / ID).mkdir(parents=True)
    found = find_all(find_hierarchies(proc, cgroup))
    assert found[4, (cgroup / "memory" / ID).stat().st_ino].pods == (PodCgroup(UID, ID),)


def test_an_id_that_is_used_again_is_never_mistaken() -> None:
    """An event of before belongs to what is forgotten: nobody, instead of the wrong one."""
    index = CgroupIndex([0])
    index.add((0, 7), PATH, 10 * S)
    index.remove((0, 7), 20 * S)
    found = index.find((0, 7), 15 * S)
    assert found is not None
    index.add((0, 7), "/system.slice", 30 * S)
    assert index.find((0, 7), 15 * S) is None
    found = index.find((0, 7), 31 * S)
    assert found is not None
    assert found.pods == ()
    index.remove((0, 8), 31 * S)  # one that was never known
    index.remove((0, 9), 300 * S)
    assert index.find((0, 7), 31 * S) is not None, "it was not removed"


def test_the_same_id_in_another_hierarchy_is_another_cgroup() -> None:
    index = CgroupIndex([0, 4])
    index.add((4, 7), PATH, 0)
    assert index.find((0, 7), S) is None


def test_entries_outlive_their_cgroups_for_a_while() -> None:
    index = CgroupIndex([0])
    for number in range(20_000):
        index.add((0, number), PATH, 0)
        index.remove((0, number), S)
    assert len(index) == 16_384
    assert index.find((0, 19_999), S) is not None
    index.add((0, 1 << 40), PATH, 200 * S)
    index.remove((0, 1 << 40), 200 * S)
    assert len(index) == 1


def test_the_index_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapio.enrich.cgroups._MAX_KNOWN", 3)
    index = CgroupIndex([0])
    for number in range(5):
        index.add((0, number), "/", 0)
    index.merge(find_all([Hierarchy(0, Path("/sys/fs/cgroup"), "")]))
    assert len(index) == 3
    assert index.evicted["refused_cgroups"] > 2


def test_a_rescan_adds_what_is_missing_and_changes_nothing_else(tmp_path: Path) -> None:
    (tmp_path / PATH.lstrip("/")).mkdir(parents=True)
    number = (tmp_path / PATH.lstrip("/")).stat().st_ino
    index = CgroupIndex([0])
    index.add((0, tmp_path.stat().st_ino), PATH, 5)
    rescan = Rescan([Hierarchy(0, tmp_path, ""), Hierarchy(4, tmp_path / "gone", "")])
    assert rescan.take() is None
    rescan.ask()
    wait_for(lambda: rescan._found is not None)
    index.merge(rescan.take() or {})
    assert rescan.take() is None
    missing, known = index.find((0, number), 0), index.find((0, tmp_path.stat().st_ino), 5)
    assert missing is not None
    assert known is not None
    assert missing.pods == known.pods == (PodCgroup(UID, ID),)


def test_the_kernels_records() -> None:
    layout = make_layout("cgroup_record", ("kind", "hierarchy", "boot_ns", "cgroup_id", "path_comm"))
    fields = tuple(
        type(field)(field.name.removesuffix("_comm"), field.offset, field.kind, field.size, field.count)
        for field in layout.fields
    )
    layout = type(layout)(layout.name, layout.size, fields)
    enums = {"RECORD_CGROUP_MADE": 40, "RECORD_CGROUP_REMOVED": 41}
    index = CgroupIndex([0, 4])
    loaded = make_loaded("enrichment", {"cgroup_record": layout}, enums, {})
    observer = CgroupObserver(loaded, index, [Hierarchy(0, Path("/"), ""), Hierarchy(4, Path("/"), "")])
    assert observer.configure(Config()) == {"hierarchies": 0b10001}
    made = pack(layout, kind=40, hierarchy=4, boot_ns=5, cgroup_id=9, path=b"/a\0rest")
    assert observer.decode([made, b"short", pack(layout, kind=7)]) == []
    assert index.find((4, 9), 5) is not None
    assert observer.suppressed == {"undecodable": 2}
    observer.decode([pack(layout, kind=41, hierarchy=4, boot_ns=6, cgroup_id=9)])
    assert index._gone == {(4, 9): 6}
    assert observer.due(None) == []
