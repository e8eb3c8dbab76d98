"""Kills from before the agent, from trees that look like either hierarchy."""

from __future__ import annotations

from pathlib import Path

from tapio.kernel.oom_counts import oom_kill_counts


def make_tree(tmp_path: Path, kind: str, options: str, files: dict[str, str]) -> Path:
    proc, root = tmp_path / "proc", tmp_path / "a cgroup"
    (proc / "self").mkdir(parents=True)
    escaped = str(root).replace(" ", "\\040")
    (proc / "self/mounts").write_text(f"x {escaped} {kind} {options} 0 0\nproc /proc proc rw 0 0\n")
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return proc


def test_version_2(tmp_path: Path) -> None:
    event = "low 0\nhigh 0\nmax 4\noom 2\noom_kill {}\noom_group_kill 0\n"
    files = {"pod/memory.events.local": event.format(0), "pod/app/memory.events.local": event.format(3)}
    proc = make_tree(tmp_path, "cgroup2", "rw", files)
    assert oom_kill_counts(proc) == {(tmp_path / "a cgroup/pod/app").stat().st_ino: 3}


def test_version_1(tmp_path: Path) -> None:
    files = {"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "x/memory.oom_control": "garbage"}
    proc = make_tree(tmp_path, "cgroup", "rw,memory", files)
    assert oom_kill_counts(proc) == {(tmp_path / "a cgroup").stat().st_ino: 2}


def test_nothing_mounted(tmp_path: Path) -> None:
    assert oom_kill_counts(make_tree(tmp_path, "tmpfs", "rw", {})) == {}
