"""A process that gives up its rights as the agent does, and then tries what an intruder would.

`python -m helpers.confined DIRECTORY STEP...` prints a JSON object: for each attempt the name of the errno it ended
with, '' if it worked. Steps: drop (uid, capabilities), landlock, seccomp.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapio.kernel import landlock, privileges, sandbox, seccomp

NOBODY = 65534
_LIBC = ctypes.CDLL(None, use_errno=True)
# Numbers on x86-64 and arm64 of calls that the agent has no use for; with these arguments none of them does harm.
_FORBIDDEN: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "ptrace traceme": (101, 117, (0, 0, 0, 0)),
    "bpf": (321, 280, (0, 0, 0)),
    "perf_event_open": (298, 241, (0, 0, -1, -1, 0)),
    "mount": (165, 40, (0, 0, 0, 0, 0)),
    "umount2": (166, 39, (0, 0)),
    "pivot_root": (155, 41, (0, 0)),
    "chroot": (161, 51, (0,)),
    "unshare a user namespace": (272, 97, (0x10000000,)),
    "setns": (308, 268, (-1, 0)),
    "setuid": (105, 146, (NOBODY,)),
    "setreuid": (113, 145, (-1, -1)),
    "setfsuid": (122, 151, (-1,)),
    "setresuid": (117, 147, (-1, -1, -1)),
    "setgid": (106, 144, (NOBODY,)),
    "setgroups": (116, 159, (0, 0)),
    "capset": (126, 91, (0, 0)),
    "personality": (135, 92, (0x0400000,)),
    "process_vm_readv": (310, 270, (1, 0, 0, 0, 0, 0)),
    "process_vm_writev": (311, 271, (1, 0, 0, 0, 0, 0)),
    "kcmp": (312, 272, (1, 1, 0, 0, 0)),
    "init_module": (175, 105, (0, 0, 0)),
    "finit_module": (313, 273, (-1, 0, 0)),
    "execveat": (322, 281, (-1, 0, 0, 0, 0)),
    "kexec_load": (246, 104, (0, 0, 0, 0xFFFF)),
    "add_key": (248, 217, (0, 0, 0, 0, 0)),
    "keyctl": (250, 219, (0, 0, 0, 0, 0)),
    "memfd_create": (319, 279, (0, 0)),
    "userfaultfd": (323, 282, (0xFFFF,)),
    "open_by_handle_at": (304, 265, (0, 0, 0)),
    "quotactl": (179, 60, (0, 0, 0, 0)),
    "acct": (163, 89, (1,)),
    "swapon": (167, 224, (1, 0)),
    "settimeofday": (164, 170, (1, 1)),
    "sethostname": (170, 161, (1, -1)),
    "syslog": (103, 116, (10, 0, 0)),
    "mknodat": (259, 33, (-100, 0, 0, 0)),
    "fchownat": (260, 54, (-1, 0, 0, 0, 0)),
    "setxattr": (188, 5, (0, 0, 0, 0, 0)),
    "shmget": (29, 194, (0, 4096, 0)),
    "inotify_init1": (294, 26, (0,)),
    "kill": (62, 129, (1, 0)),
    "tgkill of another process": (234, 131, (1, 1, 0)),
    "prctl dumpable": (157, 167, (4, 1, 0, 0, 0)),
    "prlimit64 of another process": (302, 261, (1, 7, 0, 0)),
    "ioctl that types into a terminal": (16, 29, (2, 0x5412, 0)),
    "fcntl that sends signals": (72, 25, (2, 8, 0)),
    "clone into a user namespace": (56, 220, (0x10000000 | int(signal.SIGCHLD), 0, 0, 0, 0)),
    "seccomp": (317, 277, (1, 0, 0)),
    "io_uring_setup": (425, 425, (1, 0)),
    "pidfd_open": (434, 434, (1, 0)),
    "pidfd_getfd": (438, 438, (-1, 0, 0)),
    "openat2": (437, 437, (-100, 0, 0, 0)),
    "open_tree": (428, 428, (-100, 0, 0)),
    "fsopen": (430, 430, (0, 0)),
    "process_madvise": (440, 440, (-1, 0, 0, 0, 0)),
    "mount_setattr": (442, 442, (-1, 0, 0, 0, 0)),
    "clone3": (435, 435, (0, 0)),
    "landlock_create_ruleset": (444, 444, (0, 0, 1)),
    "a call that does not exist yet": (1000, 1000, ()),
}


def _number(name: str) -> int:
    return _FORBIDDEN[name][0 if platform.machine() == "x86_64" else 1]


def _libc(name: str, *arguments: Any) -> int:
    result = int(getattr(_LIBC, name)(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def _call(name: str) -> Callable[[], None]:
    arguments = _FORBIDDEN[name][2]

    def call() -> None:
        result = _libc("syscall", _number(name), *(ctypes.c_long(argument) for argument in arguments))
        if name.startswith("clone ") and result == 0:
            os._exit(0)

    return call


def _mprotect_exec() -> None:
    area = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    if _LIBC.mprotect(ctypes.c_void_p(address), 4096, 7) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")


def _connect_abstract() -> None:
    """To a socket that the parent, outside the sandbox, listens on."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.environ["ABSTRACT"].encode().replace(b"@", b"\0"))


def _capset() -> None:
    """All capabilities."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _libc("capset", header, (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6))


def _root_by_a_program(outside: Path) -> None:
    """A set-user-ID program must not help: no_new_privs. Errno 1 stands for another uid than root's."""
    done = subprocess.run([outside / "set-user-ID", "-u"], capture_output=True, text=True, check=True)
    if done.stdout != "0\n":
        raise OSError(errno.EPERM, done.stdout)


def _read_memory_of(pid: int) -> None:
    Path(f"/proc/{pid}/mem").open("rb").close()


def _attach_filter() -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, 26, b"\0" * 16)


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(7)
    assert os.waitpid(child, 0)[1] == 7 << 8


def _thread() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def _talk() -> None:
    """A name is looked up, a server made and asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted, _ = server.accept()
            with accepted:
                accepted.sendall(b"x")
            assert client.recv(1) == b"x"


def _store(directory: int) -> Callable[[], None]:
    def store() -> None:
        os.mkdir("folder", dir_fd=directory)
        descriptor = os.open("a", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=directory)
        os.write(descriptor, b"x")
        os.ftruncate(descriptor, 0)
        os.fsync(descriptor)
        os.fstatvfs(descriptor)
        os.close(descriptor)
        os.rename("a", "b", src_dir_fd=directory, dst_dir_fd=directory)
        os.listdir(directory)
        os.unlink("b", dir_fd=directory)
        os.rmdir("folder", dir_fd=directory)

    return store


def attempts(directory: int, outside: Path, fdinfo: int) -> dict[str, dict[str, Callable[[], object]]]:
    """What is tried, by who has to prevent it. `outside` is a folder that anybody may write to."""
    python = sys.executable
    file = outside / "open for all"
    return {
        "drop": {
            "become root": lambda: os.setuid(0),
            "become root for a while": lambda: os.seteuid(0),
            "join root's group": lambda: os.setgroups([0]),
            "take capabilities": _capset,
            "root by a set-user-ID program": lambda: _root_by_a_program(outside),
            "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
            "bpf, the list of programs": lambda: _libc(
                "syscall", _number("bpf"), 11, ctypes.create_string_buffer(64), 64
            ),
            "ptrace another process": lambda: _libc("ptrace", 0x4206, os.getppid(), 0, 0),  # PTRACE_SEIZE
            "memory of another process": lambda: _read_memory_of(os.getppid()),
            "kill another process": lambda: os.kill(os.getppid(), 0),
            "mount": lambda: _libc("mount", b"none", bytes(outside), b"tmpfs", 0, 0),
            "unshare": lambda: _libc("unshare", 0x40000000),  # CLONE_NEWNET
            "chroot": lambda: os.chroot("/"),
            "device": lambda: os.mknod(outside / "device", 0o60600, os.makedev(7, 0)),
            "give away": lambda: os.chown(outside / "open for all", 0, 0),
            "a file of root's": lambda: (outside / "root's").read_bytes(),
        },
        "seccomp": {
            **{name: _call(name) for name in _FORBIDDEN},
            "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            "raw IPv6 socket": lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
            "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM),
            "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
            "kernel crypto socket": lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET),
            "filter on a socket": _attach_filter,
            "execute": lambda: os.execv(python, [python, "-c", ""]),  # noqa: S606
            "memory that can be written and executed": lambda: mmap.mmap(-1, 4096, prot=7),
            "memory that becomes code": _mprotect_exec,
        },
        "landlock": {
            "write to a file that is open for all": lambda: file.write_text("x"),
            "truncate a file that is open for all": lambda: file.open("r+").truncate(0),
            "create a file": lambda: (outside / "new").write_text("x"),
            "create a folder": lambda: (outside / "new folder").mkdir(),
            "remove a file": lambda: (outside / "removable").unlink(),
            "rename a file": lambda: (outside / "removable").rename(outside / "renamed"),
            "link": lambda: (outside / "link").symlink_to("/etc/passwd"),
            "write to /tmp": lambda: Path(tempfile.mkdtemp(dir="/tmp")).rmdir(),
        },
        "landlock scopes": {"connect to an abstract socket outside": _connect_abstract},
        "": {
            "store": _store(directory),
            "talk": _talk,
            "fork": _fork,
            "thread": _thread,
            "random": lambda: os.getrandom(16),
            "read": lambda: Path("/etc/passwd").read_bytes(),
            "own file descriptors": lambda: os.pread(fdinfo, 1, 0),
            "sizes": lambda: (os.cpu_count(), os.sysconf("SC_PHYS_PAGES"), os.statvfs("/"), os.uname()),
            "terminal": lambda: os.isatty(0),
        },
    }


def main() -> None:
    directory = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
    outside, steps = Path(sys.argv[2]), sys.argv[3:]
    fdinfo = os.open("/proc/self/fdinfo/0", os.O_RDONLY)  # as the agent: before 5.14 only root may open it
    if "drop" in steps:
        privileges.drop(NOBODY, NOBODY)
    else:
        _LIBC.prctl(38, 1, 0, 0, 0)  # no_new_privs
    sandbox.load_libraries()
    if "landlock" in steps:
        assert landlock.restrict_writes(directory) == ""
    if "seccomp" in steps:
        assert seccomp.install() == ""
    results: dict[str, dict[str, str]] = {}
    for guard, tries in attempts(directory, outside, fdinfo).items():
        for name, attempt in tries.items():
            if not guard or guard.split()[0] in steps:
                results.setdefault(guard, {})[name] = _result(attempt)
    print(json.dumps(results))


def _result(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return ""


if __name__ == "__main__":
    main()
