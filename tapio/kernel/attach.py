"""The agent's side of loading: start the loader child, keep what it hands over.

Everything stays attached as long as an `Attachment`'s descriptors are open, and not a moment longer.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from tapio.errors import LoaderError
from tapio.kernel import channel
from tapio.kernel.channel import Done, Failed, Hook, Loaded, Request, Sampling

_TIMEOUT_S = 30.0


class Attachment:
    """One observer's programs at work: their hooks, layouts and open descriptors by name."""

    def __init__(self, loaded: Loaded, descriptors: Mapping[str, int]) -> None:
        self.loaded = loaded
        self.descriptors = dict(descriptors)

    @property
    def observer(self) -> str:
        """The observer's name."""
        return self.loaded.observer

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """Every program of the object, also one that could not be attached."""
        return self.loaded.hooks

    def section(self, suffix: str) -> tuple[int, int]:
        """Descriptor and size in bytes of the section `.bss` or `.data`."""
        for name, descriptor in self.descriptors.items():
            if name.endswith(suffix):
                return descriptor, self.loaded.sizes[name]
        raise LoaderError(f"mapping {suffix} of {self.observer}: the object has no such section: rebuild it")

    def is_attached(self, hook: str) -> bool:
        """Whether the program of that name is attached, on all CPUs or on some."""
        return any(name == f"link:{hook}" or name.startswith(f"link:{hook}:") for name in self.descriptors)

    def detach(self) -> None:
        """End the programs; what they left in the ring can still be read."""
        for name in [name for name in self.descriptors if name.startswith("link:")]:
            os.close(self.descriptors.pop(name))

    def close(self) -> None:
        """Detach and let go of everything."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()


class Outcome(msgspec.Struct):
    """What came of loading: attachments, and for each observer that is off why."""

    attached: list[Attachment]
    failed: dict[str, Failed]


def attach(
    objects: Mapping[str, Path],
    ring_bytes: int,
    interpreter: str = sys.executable,
    *,
    tables: Mapping[str, dict[str, int]] | None = None,
    sampling: Mapping[str, Sampling] | None = None,
) -> Outcome:
    """Load and attach the objects in a child process. Raises LoaderError when nothing could be loaded at all.

    `tables` gives the number of entries of maps that shall not be as compiled, by observer and map; `sampling` says
    what to count, for each observer whose program runs on a timer.
    """
    paths = {name: str(path) for name, path in objects.items()}
    request = Request(paths, ring_bytes, dict(tables or {}), dict(sampling or {}))
    _allow_many_files()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(_TIMEOUT_S)
    outcome = Outcome([], {})
    command = [
        interpreter,
        "-I",
        "-m",
        "tapio.kernel.loader",
        str(theirs.fileno()),
        msgspec.json.encode(request).decode(),
    ]
    with (
        ours,
        subprocess.Popen(  # noqa: S603  # our own interpreter and module
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as child,
    ):
        theirs.close()
        try:
            for answer in _answers(ours):
                if isinstance(answer, Attachment):
                    outcome.attached.append(answer)
                elif answer.observer:
                    outcome.failed[answer.observer] = answer
                else:
                    raise LoaderError(answer.error)
            _end(child)
        except BaseException as error:
            child.kill()
            for attachment in outcome.attached:
                attachment.close()
            if isinstance(error, TimeoutError):
                raise LoaderError(f"loading the BPF programs: no answer within {_TIMEOUT_S:.0f} s") from error
            if isinstance(error, LoaderError):
                raise _with_last_words(error, child) from error
            raise
    return outcome


def _end(child: subprocess.Popen[bytes]) -> None:
    """It has said everything; one that does not end by itself is ended."""
    try:
        child.wait(_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()


def _allow_many_files() -> None:
    """As many as the hard limit allows: a program on a timer has a link for each CPU."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _answers(ours: socket.socket) -> Iterator[Attachment | Failed]:
    """Attachments, complete with their descriptors, and failures, until the loader is done."""
    pending: Loaded | None = None
    descriptors: list[int] = []
    try:
        while True:
            message, received = channel.receive(ours)
            descriptors += received
            if isinstance(message, Loaded):
                pending = message
            if pending is not None and len(descriptors) == len(pending.descriptors):
                yield Attachment(pending, dict(zip(pending.descriptors, descriptors, strict=True)))
                pending, descriptors = None, []
            if isinstance(message, Failed):
                yield message
            if isinstance(message, Done):
                return
    finally:
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _with_last_words(error: LoaderError, child: subprocess.Popen[bytes]) -> LoaderError:
    """`error` with the last line that a crashed loader wrote, so that its cause is not lost."""
    child.wait()
    lines = (child.stderr.read() if child.stderr else b"").decode(errors="replace").strip().splitlines()
    return LoaderError(f"{error} ({lines[-1][:300]})") if lines else error
