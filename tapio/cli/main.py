"""`tapio`: parse, run one command, and turn every error into one line."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

from tapio.cli.parser import parse
from tapio.cli.screen import Screen
from tapio.cli.text import harmless
from tapio.errors import TapioError, describe_os_error


def run(arguments: argparse.Namespace) -> int:
    """Run the command; its exit code. Only its own module is imported."""
    module = importlib.import_module(f"tapio.cli.{arguments.command}")
    if arguments.json:
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    else:
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # "…" in a terminal without UTF-8
    code: int = module.run(arguments, Screen(sys.stdout))
    sys.stdout.flush()
    return code


def _occupy_standard_descriptors() -> None:
    """Open what is closed of 0, 1 and 2: the next file would get that number, and what goes to stdout with it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115


def _discard_output() -> None:
    """Nobody reads stdout any more: what Python still holds must not fail at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0 good, 1 failure, 2 usage; 130 interrupted."""
    _occupy_standard_descriptors()
    try:
        return run(parse(sys.argv[1:] if argv is None else argv))
    except TapioError as error:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        print(f"tapio: {harmless(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `tapio recent | head -1`
        _discard_output()
        return 0
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        return 130
    except OSError as error:
        _discard_output()
        print(f"tapio: writing to stdout: {describe_os_error(error)}", file=sys.stderr)
        return 1
    except Exception as error:  # the last boundary: a defect must not end in a traceback
        if os.environ.get("TAPIO_DEBUG"):
            raise
        text = harmless(f"{type(error).__name__}: {error}")
        print(f"tapio: internal error: {text}: please report it with TAPIO_DEBUG=1", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
