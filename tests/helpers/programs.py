"""Programs that tests need: built by a script of tools/ or skipped; started, waited for, ended by SIGTERM."""

from __future__ import annotations

import contextlib
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from helpers.running_agent import wait_for

ROOT = Path(__file__).parent.parent.parent


def missing(reason: str, required: str) -> NoReturn:
    """Skip; where the environment variable `required` is 1, fail."""
    if os.environ.get(required) == "1":
        pytest.fail(f"{required}=1, but: {reason}")
    pytest.skip(reason)


def built(required: str, script: str, *arguments: str) -> Path:
    """What a script of tools/ builds or fetches; where it cannot, see `missing`."""
    done = subprocess.run([ROOT / "tools" / script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        missing((done.stderr.strip().splitlines() or [f"tools/{script} said nothing"])[-1], required)
    return Path(done.stdout.strip())


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    log: Path,
    is_ready: Callable[[], bool],
    *,
    environment: Mapping[str, str] | None = None,
    output: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program, once it is ready. It writes to `log`, its standard output to `output` if that is given."""
    with log.open("ab") as errors, (output or log).open("ab") as lines:
        process = subprocess.Popen(list(command), env=environment, stdout=lines, stderr=errors)

    def lives_and_is_ready() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        return is_ready()

    try:
        wait_for(lives_and_is_ready, 120, lambda: log.read_text()[-3000:])
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str) -> Callable[[], bool]:
    """Whether a page is there, for `running`."""

    def asked() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    return asked
