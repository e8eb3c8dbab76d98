"""The node observer on a real PMU: an emulated arm64 machine that boots Debian's kernel and runs the agent.

Run by hand as root: `.venv/bin/python tests/vm/arm64_pmu.py [CACHE_DIR]`. Takes about two minutes. Needs
qemu-system-aarch64 (package qemu-system-arm) and Debian's package sources; downloads about 90 MB the first time, with a
configuration of apt's own, so that this machine's is not touched. `arm64_guest.py` is what runs inside.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).parents[2]
PACKAGES = ("linux-image-cloud-arm64", "python3-bpfcc", "busybox-static")
WHEELS = ("msgspec", "prometheus-client", "python-ulid", "typing-extensions")
UNUSED = ("boot", "lib/modules", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/bcc")
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox ip link set lo up
export PYTHONDONTWRITEBYTECODE=1 PATH=/usr/bin:/bin
/usr/bin/python3 /guest.py 2>&1
/bin/busybox poweroff -f
"""


def download(cache: Path) -> None:
    """Packages and wheels for arm64, once."""
    archives = cache / "apt/cache/archives"
    if list(archives.glob("*.deb")):
        return
    (archives / "partial").mkdir(parents=True)
    (cache / "apt/state/lists/partial").mkdir(parents=True)
    (cache / "apt/status").touch()
    options = [
        *("APT::Architecture=arm64", "APT::Architectures=arm64", "APT::Install-Recommends=false"),
        *(f"Dir::State={cache}/apt/state", f"Dir::State::status={cache}/apt/status", f"Dir::Cache={cache}/apt/cache"),
        *("APT::Sandbox::User=root", "Debug::NoLocking=true"),
    ]
    flags = [word for option in options for word in ("-o", option)]
    subprocess.run(["apt-get", "-qq", *flags, "update"], check=True)
    subprocess.run(["apt-get", "-qq", *flags, "install", "-y", "-d", *PACKAGES], check=True)
    pins = [line.split(" ")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    wanted = [pin for pin in pins if pin.split("==")[0] in WHEELS]
    version = next(archives.glob("python3.*-minimal_*.deb")).name.split("-")[0].removeprefix("python")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", cache / "wheels",
         "--platform=manylinux_2_17_aarch64", f"--python-version={version}", *wanted], check=True)  # fmt: skip


def build(cache: Path) -> tuple[Path, Path]:
    """The kernel and an initial file system with Python, bcc and the agent."""
    tree = cache / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("dev", "proc", "sys", "tmp", "etc", "opt/tapio/ebpf"):
        (tree / folder).mkdir(parents=True)
    for package in sorted((cache / "apt/cache/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
    kernel = cache / "vmlinuz"
    shutil.copy(next(tree.glob("boot/vmlinuz-*")), kernel)
    for folder in UNUSED:
        shutil.rmtree(tree / folder, ignore_errors=True)
    packages = tree / "usr/lib/python3/dist-packages"
    for wheel in (cache / "wheels").glob("*.whl"):
        shutil.unpack_archive(wheel, packages, "zip")
    shutil.copytree(ROOT / "tapio", packages / "tapio", ignore=shutil.ignore_patterns("__pycache__"))
    for item in (ROOT / "ebpf/build/arm64").glob("*.o"):
        shutil.copy(item, tree / "opt/tapio/ebpf")
    (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n")
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    shutil.copy(Path(__file__).with_name("arm64_guest.py"), tree / "guest.py")
    archive = cache / "initrd.cpio"
    with archive.open("wb") as output:
        write_cpio(tree, output)
    return kernel, archive


def write_cpio(tree: Path, output: BinaryIO) -> None:
    """The tree in the kernel's format (newc), with a console."""
    number = 0

    def put(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        nonlocal number
        number += 1
        words = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name.encode()) + 1, 0)
        head = b"070701" + "".join(f"{word:08X}" for word in words).encode() + name.encode() + b"\0"
        output.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))

    for path in sorted(tree.rglob("*")):
        mode, name = path.lstat().st_mode, str(path.relative_to(tree))
        if path.is_symlink():
            put(name, mode, str(path.readlink()).encode())
        elif path.is_dir():
            put(name, mode)
        elif path.is_file():
            put(name, mode, path.read_bytes())
    put("dev/console", 0o20600, device=(5, 1))
    put("TRAILER!!!", 0)


def boot(kernel: Path, initrd: Path, what: str, *flags: str) -> dict[str, Any]:
    """Run the guest; the findings that it printed."""
    command = ["qemu-system-aarch64", "-M", "virt", "-cpu", "max", "-m", "2048", "-nographic", "-no-reboot", *flags]
    command += ["-kernel", str(kernel), "-initrd", str(initrd)]
    command += ["-append", f"console=ttyAMA0 rdinit=/init panic=-1 quiet what={what}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=True)
    print(done.stdout)
    found = [json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    return {key: value for item in found for key, value in item.items()}


def main(cache: Path) -> None:
    """Both machines; AssertionError when a figure is wrong."""
    download(cache)
    kernel, initrd = build(cache)
    counted = boot(kernel, initrd, "count", "-smp", "1", "-icount", "shift=1")
    # shift=1: two nanoseconds an instruction, and a clock of 1 GHz: half an instruction a cycle.
    for known, instructions, cycles in counted["loops"]:
        assert known <= instructions <= known + 200_000_000, counted
        assert abs(instructions / cycles - 0.5) < 0.005, counted
    assert counted["events"]["cycles"] == "hardware:cpu-cycles"
    assert counted["metrics"]['tapio_cpu_ipc{cpu="0"}'] == 0.5
    assert (counted["ready"], counted["exit"]) == (200, 0)
    hotplug = boot(kernel, initrd, "hotplug", "-smp", "2", "-accel", "tcg,thread=multi")
    assert "not counted although online: CPU 1" in hotplug["log"]
    assert hotplug["metrics"]["tapio_uncounted_cpus"] == 1
    assert 'tapio_cpu_ipc{cpu="1"}' not in hotplug["metrics"]
    assert [item["type"] for item in hotplug["occurrences"]] == ["kernel.node.cpu_stall"]
    data = hotplug["occurrences"][0]["data"]
    assert abs(data["stall_cycles"] / data["cycles"] - 1) < 0.02, data  # the same event twice
    assert (hotplug["ready"], hotplug["exit"]) == (200, 0)
    print("good")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path.home() / ".cache/tapio-arm64").resolve())
