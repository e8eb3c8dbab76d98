"""The command line of `tapio`: commands, flags, help with examples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from tapio import __version__
from tapio.cli.filters import OBSERVERS
from tapio.errors import UsageError

_VALUE_FLAGS = ("--since", "--limit", "--timeout")

_ABOUT = {
    "status": "is the agent seeing anything: observers, hooks, losses, sinks",
    "recent": "the latest occurrences",
    "watch": "occurrences as they happen",
    "health": "is this node healthy, by the last hour's occurrences",
    "selftest": "make harmless faults and see whether they are reported",
    "tune": "how many alerts other thresholds would have given",
    "mcp": "a read-only MCP server on stdio for AI agents",
    "completion": "a completion script for a shell",
}

_EXAMPLES = {
    "status": """  tapio status
  tapio status --json | jq '.observers[] | select(.state != "up")'""",
    "recent": """  tapio recent --since 5m
  tapio recent --container --severity error --limit 50
  tapio recent --namespace shop --pod 'checkout-*' --type oom_kill
  tapio recent --since 1h --json | jq -r .error.message""",
    "watch": """  tapio watch
  tapio watch --network --severity error
  tapio watch --since 10m --json""",
    "health": """  tapio health
  tapio health container
  tapio health --exit-code >/dev/null; echo $?""",
    "selftest": """  tapio selftest
  tapio selftest --json --timeout 10s""",
    "tune": """  tapio tune --since 24h --set network.retransmit_spike_count=8
  tapio tune --since 7d --set storage.warning_ms=100 --set storage.critical_ms=500""",
    "mcp": """  tapio mcp --data-dir /var/lib/tapio/occurrences
  in an MCP client: {"command": "tapio", "args": ["mcp"]}""",
    "completion": """  tapio completion bash > /etc/bash_completion.d/tapio
  tapio completion zsh > /usr/share/zsh/site-functions/_tapio
  tapio completion fish > ~/.config/fish/completions/tapio.fish""",
}

_EXIT_CODES = "exit codes: 0 good, 1 failure, 2 wrong usage"
_HEALTH_RULES = """rules, over the last hour (or --since):
  critical   an occurrence of severity critical
  degraded   an occurrence of severity warning or error, or the observer is blind (a hook is detached)
  healthy    neither, and the agent is alive with every hook attached
  off        the observer does not run here; it does not count
  unknown    no live agent that writes files: nothing can be said, exit code 1
what tapio itself caused (selftest, its own exit codes) is listed and does not count
exit codes: 0 answered, 1 unknown or failure, 2 wrong usage; with --exit-code 10 degraded, 11 critical"""


class _Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}: see {self.prog} --help")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    examples = "\n".join(_EXAMPLES[name].splitlines()[0] for name in _ABOUT)
    parser = _Parser(
        prog="tapio",
        description="What this node's kernel killed, refused, reset, stalled or failed, as tapio-agent saw it.",
        epilog=f"examples:\n{examples}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tapio {__version__}")
    _add_common(parser, top=True)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, about in _ABOUT.items():
        epilog = f"examples:\n{_EXAMPLES[name]}\n\n{_HEALTH_RULES if name == 'health' else _EXIT_CODES}"
        command = commands.add_parser(
            name,
            help=about,
            description=about[0].upper() + about[1:] + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _add_common(command, top=False)
        _add_own(name, command)
    return parser


def _add_common(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """Flags of every command; they may stand before the command or after it."""
    default: Any = None if top else argparse.SUPPRESS
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        default=default,
        help="the agent's data directory; also TAPIO_DATA_DIR (default: .tapio/occurrences)",
    )
    off: Any = False if top else argparse.SUPPRESS
    parser.add_argument("--json", action="store_true", default=off, help="JSON lines instead of tables")
    parser.add_argument("--utc", action="store_true", default=off, help="times in UTC instead of local time")


def _add_own(name: str, command: argparse.ArgumentParser) -> None:
    if name in ("recent", "watch"):
        _add_filters(command, name)
    elif name == "health":
        command.add_argument("observer", nargs="?", metavar="OBSERVER", help=f"one of {', '.join(OBSERVERS)}")
        command.add_argument("--since", metavar="DURATION", default="1h", help="the time to judge (default: 1h)")
        command.add_argument("--exit-code", action="store_true", help="exit with 10 when degraded, 11 when critical")
    elif name == "selftest":
        command.add_argument(
            "--timeout", metavar="DURATION", default="5s", help="how long to wait for each report (default: 5s)"
        )
    elif name == "tune":
        command.add_argument("--since", metavar="DURATION", default="24h", help="how far back (default: 24h)")
        command.add_argument(
            "--config",
            metavar="FILE",
            help="the agent's, for what is in force (default: /etc/tapio/tapio.toml if there)",
        )
        command.add_argument(
            "--set", action="append", metavar="KEY=VALUE", help="a threshold to try; repeatable; none: list them"
        )
    elif name == "completion":
        command.add_argument("shell", metavar="SHELL", help="bash, zsh or fish")


def _add_filters(command: argparse.ArgumentParser, name: str) -> None:
    since = "only what was written within, as 30s, 5m, 1h30m, 2d"
    if name == "watch":
        since = "begin with what was written within, as 5m"
    command.add_argument("--since", metavar="DURATION", help=since)
    limit = "at most so many (default: 20)" if name == "recent" else "end after so many"
    command.add_argument("--limit", metavar="N", help=limit)
    command.add_argument("--type", action="append", metavar="TYPE", help="as oom_kill; repeatable")
    command.add_argument(
        "--severity", metavar="LEVEL", help="this severity or worse: debug, info, warning, error, critical"
    )
    command.add_argument("--namespace", action="append", metavar="NAME", help="* and ? match; repeatable")
    command.add_argument("--pod", action="append", metavar="NAME", help="* and ? match; repeatable")
    for observer in OBSERVERS:
        command.add_argument(f"--{observer}", action="store_true", help=f"what the {observer} observer found")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; UsageError when it makes no sense."""
    return make_parser().parse_args(_join_negative(arguments))


def _join_negative(arguments: Sequence[str]) -> list[str]:
    """'--since', '-5m' as '--since=-5m', so that the error is about the value and not about a missing one."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in _VALUE_FLAGS and argument[:1] == "-" and argument[1:2].isdigit():
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def parse_limit(text: str | None) -> int | None:
    """A positive number, None when none was given; UsageError otherwise."""
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 20 or not 1 <= int(text) <= 10**9:
        raise UsageError(f"--limit {text!r}: not a number of at least 1: write it as 20")
    return int(text)
