"""`tapio-agent`: flags, `--check`, and turning every error into one line."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from tapio import __version__
from tapio import config as configuration
from tapio.config import Config, ObserverName, SinkName
from tapio.enrich.chosen import is_chosen
from tapio.errors import TapioError, UsageError, is_utf8, one_line
from tapio.kernel import privileges
from tapio.kernel.channel import Failed
from tapio.source import Source, attach_observers


class _Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}: see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tapio-agent",
        description="Watch this node's kernel and report what it kills, refuses, resets, stalls or fails.",
        epilog="Needs root, or CAP_BPF and CAP_PERFMON to attach and CAP_SETUID, CAP_SETGID, CAP_SETPCAP and "
        "CAP_CHOWN to give all rights up afterwards.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"default: {configuration.DEFAULT_PATH} if it is there"
    )
    sinks, observers = ", ".join(get_args(SinkName)), ", ".join(get_args(ObserverName))
    parser.add_argument("--sink", action="append", metavar="NAME", help=f"repeatable: {sinks} (default: stdout)")
    parser.add_argument("--observer", action="append", metavar="NAME", help=f"repeatable: {observers} (default: all)")
    parser.add_argument("--data-dir", metavar="DIR", help="also TAPIO_DATA_DIR (default: .tapio/occurrences)")
    parser.add_argument("--ebpf-dir", metavar="DIR", help="default: /opt/tapio/ebpf, or ebpf/build of the checkout")
    parser.add_argument("--polku-endpoint", metavar="URL", help="where the sink polku sends to")
    parser.add_argument("--metrics-address", metavar="HOST:PORT", help="default: 127.0.0.1:9464; '' for none")
    parser.add_argument(
        "--check", action="store_true", help="load and attach, print what works on this kernel, and exit"
    )
    parser.add_argument("--version", action="version", version=f"tapio-agent {__version__}")
    return parser


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, by their keys in the configuration."""
    for flag, names, known in (
        ("--sink", arguments.sink, get_args(SinkName)),
        ("--observer", arguments.observer, get_args(ObserverName)),
    ):
        for name in names or ():
            if name not in known:
                raise UsageError(f"{flag} {name}: there is no such {flag[2:]}: choose from {', '.join(known)}")
    for text in (arguments.data_dir, arguments.ebpf_dir, arguments.metrics_address):
        if text is not None and not is_utf8(text):
            raise UsageError(f"reading the flags: {text!r} is not UTF-8: choose another name")
    values = {
        "sinks": arguments.sink,
        "observers": arguments.observer,
        "data_dir": arguments.data_dir,
        "ebpf_dir": arguments.ebpf_dir,
        "metrics_address": arguments.metrics_address,
        "polku.endpoint": arguments.polku_endpoint,
    }
    return {key: value for key, value in values.items() if value is not None}


def check(config: Config, *, named: bool, cgroups: bool) -> int:
    """Print what works here: 0 when every observer works, or any if none was named.

    With `cgroups` what enrichment needs of the kernel is shown too.
    """
    outcome = attach_observers(config, cgroups=cgroups)
    rows = [("OBSERVER", "HOOK", "STATE", "REASON")]
    notes: dict[str, str] = {}
    for attachment in list(outcome.attached):
        try:
            is_observer = attachment.observer in config.observers
            notes[attachment.observer] = Source(attachment, config).observer.reason if is_observer else ""
        except TapioError as error:
            outcome.failed[attachment.observer] = Failed(str(error), attachment.observer, error.reason)
            outcome.attached.remove(attachment)
    working = set(config.observers) - set(outcome.failed)
    for attachment in outcome.attached:
        missing, note = attachment.loaded.missing, notes[attachment.observer]
        for index, hook in enumerate(attachment.hooks):
            state, reason = ("off", hook.reason) if hook.reason else ("attached", "" if missing or index else note)
            rows.append((attachment.observer, hook.name, state, reason))
        rows += [(attachment.observer, hook.name, "off", note or hook.reason) for hook in missing]
        working -= {attachment.observer for hook in attachment.hooks if hook.reason}
        attachment.close()
    rows += [(name, "-", "off", failure.error) for name, failure in outcome.failed.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip())
    return 0 if (len(working) == len(config.observers) if named else working) else 1


def run(arguments: argparse.Namespace) -> int:
    """The agent, or `--check`; the exit code."""
    flags, path = _flags(arguments), arguments.config

    def load() -> Config:
        return configuration.load(path, flags, os.environ)

    config = load()
    node = os.environ.get("NODE_NAME", "")
    if node and not node.isprintable():
        raise UsageError(f"reading NODE_NAME {node!r}: it has characters that cannot be printed: set the node's name")
    privileges.find_user(config.user)
    privileges.check(will_drop=not arguments.check)
    if arguments.check:
        cgroups = is_chosen(config.kubernetes, node, os.environ)
        return check(config, named=arguments.observer is not None, cgroups=cgroups)
    if "stdout" in config.sinks and sys.stdout is None:
        raise UsageError("opening the stdout sink: stdout is closed: redirect it, or choose another --sink")
    from tapio.agent import Agent  # after the quick answers: it imports everything

    in_force = path or (configuration.DEFAULT_PATH if configuration.DEFAULT_PATH.exists() else None)
    Agent(config, load, in_force, node).run()
    return 0


def _occupy_standard_descriptors() -> None:
    """Open what is closed of 0, 1 and 2: the next file would get that number, and what goes to stdout with it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


class _OneLine(logging.Formatter):
    """A log line is a line, whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"tapio-agent: {one_line(message)}", file=sys.stderr, flush=True)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0 good, 1 failure, 2 usage."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the agent reloads on it
    _occupy_standard_descriptors()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("tapio-agent: %(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.raiseExceptions = False  # a stderr that is full or closed is no reason to end
    try:
        try:
            return run(_parser().parse_args(argv))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except TapioError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of --help or --check had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (OSError, RuntimeError, MemoryError) as error:
        if os.environ.get("TAPIO_DEBUG"):
            raise
        return _fail(f"the system refused: {error}: raise its limits (ulimit -n, -u, -v) or free what is full", 1)
    except Exception as error:  # the last boundary: a defect must not end in a traceback
        if os.environ.get("TAPIO_DEBUG"):
            raise
        kind = type(error).__name__
        return _fail(f"internal error: {kind}: {error}: please report it with TAPIO_DEBUG=1", 1)


if __name__ == "__main__":
    sys.exit(main())
