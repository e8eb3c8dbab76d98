"""How `tapio watch` follows a data directory: half-written files, storms, retention, what it remembers."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest
from helpers.data_dirs import DataDir

from tapio.cli.directory import DataDirectory
from tapio.cli.follow import Follower
from tapio.cli.seen import Seen
from tapio.store import name_at


@pytest.mark.parametrize("polling", [False, True])
def test_a_file_that_is_written_in_two_steps_is_shown_when_it_is_whole(data: DataDir, polling: bool) -> None:
    directory = DataDirectory(data.path)
    follower = Follower(directory, polling=polling)
    assert list(follower.next(0)) == []
    document = data.document("oom_kill")
    path, whole = data.path / f"{document['id']}.json", msgspec.json.encode(document)
    path.write_bytes(whole[:50])
    for _ in range(2):
        assert list(follower.next(0.1)) == []
    assert directory.skipped["damaged"] == 1
    path.write_bytes(whole)
    assert [found.id for found in [*follower.next(0.3), *follower.next(0.3)]] == [document["id"]]
    assert directory.skipped["damaged"] == 0
    path.write_bytes(whole)
    assert [*follower.next(0.1), *follower.next(0.1)] == []
    follower.close()


@pytest.mark.parametrize("polling", [False, True])
def test_a_storm_with_retention_deleting_files(data: DataDir, polling: bool) -> None:
    """Every file is shown once, or counted as gone."""
    total = 5003
    directory = DataDirectory(data.path)
    follower = Follower(directory, polling=polling)
    assert follower.polls is polling
    list(follower.next(0))
    written = [0]

    def storm() -> None:
        kept: list[str] = []
        for _ in range(total):
            kept.append(data.add("connection_refused"))
            written[0] += 1
            if len(kept) > 200:
                (data.path / f"{kept.pop(0)}.json").unlink()

    thread = threading.Thread(target=storm)
    thread.start()
    ids: list[str] = []
    while thread.is_alive():
        ids += [found.id for found in follower.next(0.05)]
    for _ in range(20):
        ids += [found.id for found in follower.next(0.05)]
    thread.join()
    follower.close()
    assert len(ids) == len(set(ids))
    assert not directory.skipped
    if polling:
        assert 200 <= len(ids) <= total
    else:
        assert len(ids) + directory.gone == total


def test_what_retention_removed_is_forgotten(tmp_path: Path) -> None:
    """However many files pass, only those that are there are remembered, and nothing is shown twice."""
    data = DataDir(tmp_path)
    stays = data.add("oom_kill", 500)
    directory = DataDirectory(tmp_path)
    follower = Follower(directory)
    shown, kept = [found.id for found in follower.next(0)], []
    for _ in range(130):
        kept += [data.add("io_error") for _ in range(97)]
        while len(kept) > 200:
            (tmp_path / f"{kept.pop(0)}.json").unlink()
        shown += [found.id for found in follower.next(0)]
    late = data.add("oom_kill", 100_000)
    shown += [found.id for found in follower.next(0)]
    data.write(f"{stays}.json", (tmp_path / f"{stays}.json").read_bytes())
    data.write(f"{kept[0]}.json", (tmp_path / f"{kept[0]}.json").read_bytes())
    assert list(follower.next(0.1)) == []
    follower.close()
    assert len(shown) == len(set(shown))
    assert stays not in shown
    assert late in shown
    assert len(shown) + directory.gone == 130 * 97 + 1
    assert len(follower._seen) < 10_000


def test_names_that_were_seen_take_little() -> None:
    seen, names = Seen(), [f"{name_at(index)}{index % 7:016d}.json" for index in range(20_011)]
    for name in names[::2] * 2:
        seen.add(name)
    assert len(seen) == 10_006
    assert all(name in seen for name in names[::2])
    assert not any(name in seen for name in names[1::2])
    assert seen._slots.itemsize * len(seen._slots) <= 32 * len(seen)
