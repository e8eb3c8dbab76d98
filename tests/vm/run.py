"""Boots kernels and runs the fault tests on each: `make test-vm`, or `run.py [KERNEL...]`; as root.

Without a name: all kernels of kernels.py, and `pmu`, the counters of an emulated CPU. `--tests=FILE[::TEST],...` runs
some tests in one process. `--matrix` writes README's table from the latest run of each kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import image
import machine
import matrix
import pmu
from debs import DownloadError
from kernels import KERNELS, Kernel

PMU = "pmu"
FOLDER = image.CACHE / "vm"
MACHINES = 2  # at a time: their tests mostly wait, so on two cores they are done in little more than half the time
SLOWEST_FIRST = sorted(KERNELS, key=lambda kernel: kernel.architecture == image.NATIVE)


def prepare(names: Sequence[str]) -> None:
    """What the machines boot is made before the first starts: the same for several of them."""
    for kernel in KERNELS:
        if kernel.name in names or (PMU in names and kernel is pmu.KERNEL):
            image.userland(kernel.architecture)
            image.kernel(kernel)
    image.project()


def run(kernel: Kernel, tests: str) -> bool:
    """One kernel; whether all is well."""
    begun = time.monotonic()
    userland, project = image.userland(kernel.architecture), image.project()
    version, file, modules = image.kernel(kernel)
    print(f"{kernel.name}: Linux {version} on {kernel.architecture}", flush=True)
    result: dict[str, Any] = {"version": version, "architecture": kernel.architecture, "tests": {}, "counts": {}}
    result |= {"lanes": {}, "date": time.strftime("%Y-%m-%d")}
    log = FOLDER / f"{kernel.name}.log"
    command_line = f"tests={tests}" if tests else ""
    for found in machine.boot(kernel.architecture, file, [userland, modules, project], command_line, log):
        result = take(kernel.name, result, found)
    result["seconds"] = round(time.monotonic() - begun)
    trouble = judge(result)
    passed = list(result["tests"].values()).count("passed")
    print(f"{kernel.name}: {passed} tests passed in {result['seconds']} s", flush=True)
    for line in trouble:
        print(f"{kernel.name}: {line} (all that it printed: {log})", flush=True)
    if not tests:
        result["trouble"] = trouble
        (FOLDER / f"{kernel.name}.json").write_text(json.dumps(result, indent=1))
    return not trouble


def take(name: str, result: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """`result` with what the guest has just told."""
    if "test" in found:
        test = found["test"].removeprefix("tests/kernel/")
        result["tests"][test] = found["outcome"]
        if found["outcome"] != "passed":
            print(f"{name}: {found['outcome']}: {test}\n{found['why']}", flush=True)
    elif "lane" in found:
        result["lanes"][found["lane"]] = found["exit"]
        for kind, count in found["counts"].items():
            result["counts"][kind] = result["counts"].get(kind, 0) + count
    elif "check" in found:
        result |= {"check": found["check"], "check_exit": found["exit"]}
        print("\n".join(f"{name}:   {line}" for line in found["check"]), found["error"], flush=True)
    else:
        result |= found
    return result


def judge(result: dict[str, Any]) -> list[str]:
    """What is wrong."""
    good = ("passed", "skipped")
    trouble = [f"{name}: {outcome}" for name, outcome in result["tests"].items() if outcome not in good]
    trouble += [f"the tests of {name} ended with {code}" for name, code in result["lanes"].items() if code]
    if "end" not in result:
        trouble.append("the machine ended before its tests did")
    if result.get("check_exit") != 0:
        trouble.append(f"--check ended with {result.get('check_exit')}")
    return trouble


def run_pmu() -> bool:
    """The node observer on an emulated arm64 CPU that has counters."""
    begun = time.monotonic()
    for test in (pmu.count_loops, pmu.unplug_a_cpu):
        try:
            test(pmu.KERNEL)
        except (AssertionError, KeyError) as error:
            print(f"{PMU}: {test.__name__}: {error!r}", flush=True)
            return False
    print(f"{PMU}: 2 tests passed in {time.monotonic() - begun:.0f} s", flush=True)
    return True


def main() -> int:
    """0 when every kernel passed."""
    parser = argparse.ArgumentParser(description="Boots kernels and runs the fault tests on each.", allow_abbrev=False)
    names = [*(kernel.name for kernel in KERNELS), PMU]
    parser.add_argument("kernel", nargs="*", metavar="KERNEL", help=f"default all: {', '.join(names)}")
    parser.add_argument("--tests", default="", help="only these, with commas, as test_oom.py::test_signals")
    parser.add_argument("--matrix", action="store_true", help="write README's table from the latest run of each kernel")
    arguments = parser.parse_args()
    unknown = set(arguments.kernel) - set(names)
    if unknown:
        parser.error(f"there is no kernel {', '.join(sorted(unknown))}: choose from {', '.join(names)}")
    if arguments.matrix:
        matrix.write(image.ROOT / "README.md", FOLDER)
        return 0
    if os.geteuid() != 0:
        print("test-vm: building the file system needs root: run it as root", file=sys.stderr)
        return 1
    begun, chosen = time.monotonic(), arguments.kernel or names
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        prepare(chosen)
        with ThreadPoolExecutor(MACHINES) as pool:
            running = [pool.submit(run, kernel, arguments.tests) for kernel in SLOWEST_FIRST if kernel.name in chosen]
            running += [pool.submit(run_pmu)] if PMU in chosen else []
            results = [machine.result() for machine in running]
    except DownloadError as error:
        print(f"test-vm: {error}", file=sys.stderr)
        return 1
    print(f"{results.count(True)} of {len(results)} machines passed in {time.monotonic() - begun:.0f} s")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
