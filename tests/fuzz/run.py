"""`python -m fuzz.run SECONDS [TARGET...]` (in tests/): each target for so long, by coverage, and a table of runs.

It needs atheris (`make fuzz` installs it). An input that is a failure is left in the working directory.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_LIMITS = ["-timeout=5", "-rss_limit_mb=512", "-max_len=8192", "-print_final_stats=0", "-verbosity=1"]


def fuzz(name: str, seconds: int) -> None:
    """Run one target in this process; never returns."""
    import atheris

    logging.disable()  # a line for each bad input is too much

    with atheris.instrument_imports(include=["tapio"]):
        from fuzz.targets import SEEDS, TARGETS
    corpus = Path(tempfile.mkdtemp(prefix="tapio-fuzz-"))
    for number, seed in enumerate(SEEDS.get(name, [bytes(512)])):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", *_LIMITS, str(corpus)], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    from fuzz.targets import TARGETS

    if sys.argv[1] == "--one":
        fuzz(sys.argv[2], int(sys.argv[3]))
    seconds, names, failed = int(sys.argv[1]), sys.argv[2:] or list(TARGETS), 0
    for name in names:
        command = [sys.executable, "-m", "fuzz.run", "--one", name, str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        runs = re.search(r"Done (\d+) runs", done.stderr)
        print(f"{name:18} {int(runs[1]) if runs else 0:>10,} runs" + ("" if runs else "  FAILED"), flush=True)
        if not runs:
            failed = 1
            print("\n".join(done.stderr.splitlines()[-40:]))
    return failed


if __name__ == "__main__":
    sys.exit(main())
