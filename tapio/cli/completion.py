"""`tapio completion`: scripts for bash, zsh and fish, made from the parser so that they know every flag."""

from __future__ import annotations

import argparse

from tapio.anomalies import CATALOGUE
from tapio.cli.filters import OBSERVERS, SEVERITIES
from tapio.cli.parser import make_parser
from tapio.cli.screen import Screen
from tapio.cli.thresholds import THRESHOLDS
from tapio.errors import UsageError

_VALUES = {
    "--severity": list(SEVERITIES),
    "--type": [name.rsplit(".", 1)[-1] for name in CATALOGUE],
    "--since": ["5m", "1h", "24h", "7d"],
    "--set": [f"{key}=" for key in THRESHOLDS],
}
_OPERANDS = {"health": list(OBSERVERS), "completion": ["bash", "zsh", "fish"]}


def run(arguments: argparse.Namespace, _screen: Screen) -> int:
    """Print the script of the shell that was named."""
    scripts = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if arguments.shell not in scripts:
        raise UsageError(f"completion {arguments.shell}: there is no such shell: choose from {', '.join(scripts)}")
    print(scripts[arguments.shell](_commands()))
    return 0


def _commands() -> dict[str, tuple[str, list[str]]]:
    """What each command is for, and its flags."""
    parser = make_parser()
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001  # argparse shows them nowhere else
    about = {choice.dest: choice.help or "" for choice in commands._choices_actions}  # noqa: SLF001
    return {
        name: (about[name], [flag for action in command._actions for flag in action.option_strings])  # noqa: SLF001
        for name, command in commands.choices.items()
    }


def _bash(commands: dict[str, tuple[str, list[str]]]) -> str:
    cases = "\n".join(
        f'        {name}) words="{" ".join([*flags, *_OPERANDS.get(name, [])])}" ;;'
        for name, (_, flags) in commands.items()
    )
    values = "\n".join(f'        {flag}) words="{" ".join(found)}" ;;' for flag, found in _VALUES.items())
    return f"""# bash completion of tapio
_tapio() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" command="" word words=""
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$word" in {"|".join(commands)}) command="$word"; break ;; esac
    done
    case "$previous" in
        --data-dir) COMPREPLY=($(compgen -d -- "$current")); return ;;
        --config) COMPREPLY=($(compgen -f -- "$current")); return ;;
{values}
    esac
    [ -n "$words" ] || case "$command" in
{cases}
        *) words="{" ".join(commands)} --data-dir --json --utc --help --version" ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    [ "${{COMPREPLY[0]: -1}}" != "=" ] || compopt -o nospace
}}
complete -F _tapio tapio"""


def _zsh(commands: dict[str, tuple[str, list[str]]]) -> str:
    described = "\n".join(f"        '{name}:{about}'" for name, (about, _) in commands.items())
    cases = "\n".join(
        f"        {name}) compadd -- {' '.join([*flags, *_OPERANDS.get(name, [])])} ;;"
        for name, (_, flags) in commands.items()
    )
    values = "\n".join(f"        {flag}) compadd -- {' '.join(found)}; return ;;" for flag, found in _VALUES.items())
    return f"""#compdef tapio
_tapio() {{
    local -a commands=(
{described}
    )
    case "$words[CURRENT-1]" in
        --data-dir) _files -/; return ;;
        --config) _files; return ;;
{values}
    esac
    local command="${{words[(r)({"|".join(commands)})]}}"
    case "$command" in
{cases}
        *) _describe command commands; compadd -- --data-dir --json --utc --help --version ;;
    esac
}}
compdef _tapio tapio"""


def _fish(commands: dict[str, tuple[str, list[str]]]) -> str:
    lines = ["# fish completion of tapio", "complete -c tapio -f"]
    for name, (about, flags) in commands.items():
        lines.append(f"complete -c tapio -n __fish_use_subcommand -a {name} -d '{about}'")
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        for flag in flags:
            if flag == "--data-dir":
                lines.append(f"complete -c tapio {seen} -l data-dir -x -a '(__fish_complete_directories)'")
            elif flag == "--config":
                lines.append(f"complete -c tapio {seen} -l config -r -F")
            elif flag.startswith("--"):
                values = f" -x -a '{' '.join(_VALUES[flag])}'" if flag in _VALUES else ""
                lines.append(f"complete -c tapio {seen} -l {flag[2:]}{values}")
        if name in _OPERANDS:
            lines.append(f"complete -c tapio {seen} -a '{' '.join(_OPERANDS[name])}'")
    return "\n".join(lines)
