"""Every figure of README's table, as Markdown: `make bench` as root, on a machine that does nothing else.

Takes less than five minutes. `--only hooks|workloads|agent` runs one part.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent_cost import measure
from hooks import losses, run_times
from loads import Loads, all_loads
from workloads import compare


def _machine() -> str:
    """Kernel, processors, and the date."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(": ")[2] if models else os.uname().machine
    return f"{time.strftime('%Y-%m-%d')}, Linux {os.uname().release.partition('-')[0]}, {os.cpu_count()} CPUs ({model})"


def _hooks(loads: Loads, folder: Path, _rounds: int) -> None:
    rates, own_ns = losses(loads, folder / "losses")
    print("\n".join(run_times(loads, folder / "runs")), f"\nAn empty program shows {own_ns:.0f} ns.\n", sep="\n")
    print("\n".join(rates), flush=True)


def _workloads(loads: Loads, folder: Path, rounds: int) -> None:
    print("\n".join(compare(loads, rounds, folder)), flush=True)


def _agent(loads: Loads, folder: Path, _rounds: int) -> None:
    print("\n".join(measure(loads, folder)), flush=True)


_PARTS = {"hooks": _hooks, "workloads": _workloads, "agent": _agent}


def main() -> None:
    """Run all of it, or one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=_PARTS)
    parser.add_argument("--rounds", type=int, default=5, help="of workloads")
    arguments = parser.parse_args()
    began = time.monotonic()
    print(f"Measured {_machine()}:\n")
    with tempfile.TemporaryDirectory(prefix="tapio-bench-") as name, all_loads() as loads:
        for part in [arguments.only] if arguments.only else _PARTS:
            folder = Path(name) / part
            for directory in (folder, folder / "losses", folder / "runs"):
                directory.mkdir(mode=0o755)
            folder.parent.chmod(0o755)
            _PARTS[part](loads, folder, arguments.rounds)
            print()
    print(f"It took {time.monotonic() - began:.0f} s.", file=sys.stderr)


if __name__ == "__main__":
    main()
