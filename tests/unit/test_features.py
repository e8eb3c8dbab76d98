"""Which prototype means which era of the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapio.kernel.features import detect

INT, PTR = 1, 2


class Prototypes:
    def __init__(self, **arguments: list[int]) -> None:
        self._arguments = arguments

    def tracepoint_arguments(self, name: str) -> list[int] | None:
        return self._arguments.get(name)


@pytest.mark.parametrize(
    ("exit_arguments", "mark_arguments", "expected"),
    [
        ([PTR], [INT], (False, False)),  # 5.8
        ([PTR], [PTR, INT], (False, True)),  # 6.9, and backports to 5.10 and 6.1
        ([PTR, INT], [PTR, INT], (True, True)),  # 6.16
    ],
)
def test_eras(exit_arguments: list[int], mark_arguments: list[int], expected: tuple[bool, bool]) -> None:
    kernel = Prototypes(sched_process_exit=exit_arguments, mark_victim=mark_arguments)
    names = ["process_exit_passes_group_dead", "mark_victim_passes_task", "target_arch"]
    assert tuple(detect(names, kernel).values()) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#subsys_name hierarchy num enabled\nmemory 0 90 0\n", True),
        ("memory 0 90 1\n", False),
        ("cpu 0 1 0\n", False),
        (None, False),
    ],
)
def test_a_memory_controller_that_is_switched_off(tmp_path: Path, text: str | None, expected: bool) -> None:
    if text is not None:
        (tmp_path / "cgroups").write_text(text)
    assert detect(["memory_controller_disabled"], Prototypes(), tmp_path) == {"memory_controller_disabled": expected}


def test_a_kernel_without_the_tracepoint_has_no_feature() -> None:
    assert detect(["mark_victim_passes_task"], Prototypes()) == {"mark_victim_passes_task": False}


@pytest.mark.parametrize(("arguments", "expected"), [([PTR, PTR], True), ([PTR], False)])  # 5.8; 5.11 and backports
def test_the_issue_tracepoint_lost_its_queue(arguments: list[int], expected: bool) -> None:
    assert detect(["issue_passes_queue"], Prototypes(block_rq_issue=arguments)) == {"issue_passes_queue": expected}
