"""A machine under emulation: boots a kernel with archives, and gives back what the guest found."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

EMULATORS = {
    "amd64": ["qemu-system-x86_64", "-cpu", "max"],
    # Pointers signed as the architecture says take a sixth of the time, and the kernel signs in each function.
    "arm64": ["qemu-system-aarch64", "-M", "virt", "-cpu", "max,pauth-impdef=on"],
}
CONSOLES = {"amd64": "ttyS0", "arm64": "ttyAMA0"}
TWO_CPUS = ("-smp", "2", "-accel", "tcg,thread=multi")
_WITHIN_S = 900
# What costs time under emulation and tells nothing here: guarding against a CPU's flaws, waiting for grace periods.
QUICKER = "mitigations=off rcupdate.rcu_expedited=1"


def boot(
    architecture: str, kernel: Path, archives: Sequence[Path], command_line: str, log: Path, *flags: str
) -> Iterator[dict[str, Any]]:
    """Each thing that the guest found, as it finds it. What it prints goes to `log`."""
    with tempfile.NamedTemporaryFile(dir=archives[0].parent) as initrd:
        for archive in archives:
            with archive.open("rb") as part:
                while block := part.read(1 << 20):
                    initrd.write(block)
        initrd.flush()
        words = [*EMULATORS[architecture], "-m", "2048", "-nographic", "-no-reboot", "-nic", "none"]
        words += [*(flags or TWO_CPUS), "-kernel", str(kernel), "-initrd", initrd.name, "-append"]
        words += [f"console={CONSOLES[architecture]} rdinit=/init panic=-1 quiet {QUICKER} {command_line}"]
        with (
            log.open("w") as output,
            subprocess.Popen(
                ["timeout", str(_WITHIN_S), *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            ) as process,
        ):  # fmt: skip
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    output.write(line)
                    output.flush()
                    if line.startswith("FOUND "):
                        yield json.loads(line.removeprefix("FOUND "))
            finally:
                process.terminate()
        if process.returncode:
            print(f"the machine ended with {process.returncode}: see {log}", file=sys.stderr)
