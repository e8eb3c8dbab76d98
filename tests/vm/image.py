"""What a machine boots: a kernel, and archives with its modules, a small Debian with Python and bcc, and this checkout.

The kernel unpacks the archives into memory, one after the other. Everything that takes time is kept in the cache; what
the checkout holds is packed anew for each run.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import lzma
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cpio import Writer
from debs import AptRoot
from kernels import KERNEL_SUITES, USERLAND, Kernel

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tapio"
CACHE = Path(os.environ.get("TAPIO_CACHE") or CACHE)

PACKAGES = ("busybox-static", "coreutils", "dash", "e2fsprogs", "iproute2", "mount", "procps", "python3-bpfcc",
            "util-linux")  # fmt: skip
WHEELS = ("hypothesis", "iniconfig", "msgspec", "packaging", "pluggy", "prometheus-client", "pygments", "pytest",
          "python-ulid", "pyyaml", "sortedcontainers", "typing-extensions")  # fmt: skip
MODULES = ("loop", "tun", "ext4", "crc32c_generic", "overlay")  # with what they depend on; some are built in
UNUSED = ("usr/share/bcc", "usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man", "usr/share/perl",
          "usr/share/perl5", "usr/share/zoneinfo", "usr/lib/*/perl*", "usr/lib/*/gconv", "usr/lib/*/libperl*",
          "usr/lib/python3.*/test", "usr/lib/python3.*/idlelib", "usr/lib/python3.*/lib2to3", "var")  # fmt: skip
PROJECT = ("tapio", "tests/conftest.py", "tests/helpers", "tests/kernel", "tests/vm", "otel/schema", "pyproject.toml")
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}
HERE = "opt/checkout"  # of the machine
INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mkdir -p /dev/shm
/bin/busybox mount -t tmpfs -o mode=1777 tmp /tmp
/bin/busybox mount -t tmpfs run /run
/bin/busybox mount -t cgroup2 cgroup /sys/fs/cgroup
/bin/busybox ip link set lo up
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module; done
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8
guest=guest.py
for word in $(/bin/busybox cat /proc/cmdline); do case $word in guest=*) guest=${word#guest=};; esac; done
/usr/bin/python3 /opt/checkout/tests/vm/$guest 2>&1
/bin/busybox poweroff -f
"""


@functools.cache
def userland(architecture: str) -> Path:
    """The archive with Debian, for an architecture."""
    root = AptRoot(CACHE / f"vm/userland-{architecture}", architecture, USERLAND)
    packages = root.download_with_dependencies(PACKAGES)
    lock = (ROOT / "requirements-dev.lock").read_text() + (ROOT / "requirements.lock").read_text()
    recipe = [*sorted(path.name for path in packages), lock, Path(__file__).read_text()]
    key = hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:12]
    tree, archive = CACHE / f"vm/tree-{architecture}", CACHE / f"vm/userland-{architecture}-{key}.cpio"
    if archive.exists() and tree.exists():
        return archive
    if architecture != NATIVE:
        userland(NATIVE)  # its Python compiles for both
    for old in archive.parent.glob(f"userland-{architecture}-*.cpio"):
        old.unlink()
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("dev", "proc", "sys", "tmp", "run", "etc", "modules"):
        (tree / folder).mkdir(parents=True)
    for package in packages:
        subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
    for pattern in UNUSED:
        for path in tree.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    _add_wheels(tree, architecture, lock)
    (tree / "etc/passwd").write_text("root:x:0:0::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    (tree / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (tree / "usr/lib/python3/dist-packages/checkout.pth").write_text(f"/{HERE}\n")
    (tree / "usr/bin/tapio-agent").write_text(
        "#!/usr/bin/python3\nimport sys\nfrom tapio.agent_main import main\nsys.exit(main())\n"
    )
    (tree / "usr/bin/tapio-agent").chmod(0o755)
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    _compile_python(tree, architecture)
    partial = archive.with_suffix(".partial")
    with partial.open("wb") as output:
        writer = Writer(output)
        writer.put_tree(tree)
        writer.put("dev/console", 0o20600, device=(5, 1))
        writer.close()
    partial.rename(archive)
    return archive


def _add_wheels(tree: Path, architecture: str, lock: str) -> None:
    """The Python packages that the agent and the tests need, as locked."""
    blocks = re.findall(r"^(?:\S.*==.*\n)(?:^ .*\n)*", lock, re.MULTILINE)
    wanted = {block for block in blocks if re.split(r"[=\[; ]", block)[0] in WHEELS}
    wheels = CACHE / f"vm/wheels-{architecture}"
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir(parents=True)
    listed = wheels / "requirements.txt"
    listed.write_text("".join(sorted(wanted)))
    version = next(tree.glob("usr/lib/python3.*/os.py")).parent.name.removeprefix("python")
    platforms = [f"--platform=manylinux{which}_{MACHINE[architecture]}" for which in ("_2_28", "_2_17", "2014")]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--require-hashes", "--no-deps",
         "--only-binary=:all:", f"--python-version={version}", *platforms, "-d", wheels, "-r", listed],
        check=True)  # fmt: skip
    for wheel in wheels.glob("*.whl"):
        shutil.unpack_archive(wheel, tree / "usr/lib/python3/dist-packages", "zip")


def _compile_python(tree: Path, architecture: str) -> None:
    """Bytecode for every module: under emulation compiling takes longer than the tests. It is the same everywhere."""
    if architecture == NATIVE:
        _compile(tree, "/usr/lib")
        return
    native = CACHE / f"vm/tree-{NATIVE}"
    for compiled in native.glob("usr/lib/python3*/**/__pycache__"):
        beside = tree / compiled.relative_to(native)
        if beside.parent.is_dir() and not beside.exists():
            shutil.copytree(compiled, beside)


def _compile(tree: Path, folder: str) -> None:
    command = ["/usr/bin/python3", "-m", "compileall", "-q", "--invalidation-mode=unchecked-hash", folder]
    subprocess.run(["chroot", tree, *command], check=False, stdout=subprocess.DEVNULL)  # some are Python 2


@functools.cache
def project() -> Path:
    """The archive with this checkout, its objects built. Several checkouts may share the cache."""
    userland(NATIVE)
    archive = CACHE / f"vm/project-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]}.cpio"
    with (CACHE / "vm/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _pack_project(archive, CACHE / f"vm/tree-{NATIVE}")
    return archive


def _pack_project(archive: Path, tree: Path) -> None:
    target = tree / HERE
    shutil.rmtree(target, ignore_errors=True)
    for name in PROJECT:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target / name)
    for architecture in ("x86", "arm64"):
        shutil.copytree(ROOT / "ebpf/build" / architecture, target / "ebpf/build" / architecture)
    _compile(tree, f"/{HERE}")
    with archive.open("wb") as output:
        writer = Writer(output)
        for folder in ("opt", HERE):
            writer.put(folder, 0o40755)
        writer.put_tree(target, f"{HERE}/")
        writer.close()
    shutil.rmtree(target)


def kernel(wanted: Kernel) -> tuple[str, Path, Path]:
    """Its package's version, the kernel, and the archive with its modules."""
    root = AptRoot(CACHE / f"vm/kernels-{wanted.architecture}", wanted.architecture, KERNEL_SUITES[wanted.architecture])
    name, version = root.newest(wanted.pattern)
    folder = CACHE / f"vm/kernel-{wanted.name}"
    image, modules, stamp = folder / "vmlinuz", folder / "modules.cpio", folder / "package"
    if not stamp.exists() or stamp.read_text() != f"{name} {version} {MODULES}":
        shutil.rmtree(folder, ignore_errors=True)
        names = [name, name.replace("-binary-", "-modules-")]
        for package in root.download(dict.fromkeys(names)):
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        shutil.copy(next(folder.glob("**/vmlinuz*")), image)
        with modules.open("wb") as output:
            _pack_modules(folder, output_writer := Writer(output))
            output_writer.close()
        stamp.write_text(f"{name} {version} {MODULES}")
    return version, image, modules


def _pack_modules(folder: Path, writer: Writer) -> None:
    """The modules in use, uncompressed, and the order in which they are loaded."""
    found = {path.name.partition(".")[0].replace("-", "_"): path for path in folder.glob("**/*.ko*")}
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in order or name not in found:
            return
        data = found[name].read_bytes()
        content = lzma.decompress(data) if found[name].suffix == ".xz" else data
        depends = re.search(rb"\0depends=([^\0]*)\0", b"\0" + content)
        for needed in depends[1].decode().split(",") if depends else ():
            add(needed.replace("-", "_"))
        order[name] = content

    for name in MODULES:
        add(name)
    for name, content in order.items():
        writer.put(f"modules/{name}.ko", 0o100644, content)
    writer.put("modules/order", 0o100644, "\n".join(f"{name}.ko" for name in order).encode() + b"\n")
