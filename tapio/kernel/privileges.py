"""Which rights the agent has, and giving them all up.

After `drop` the process has another uid, no capability in any set (the bounding set included) and no_new_privs.
It must run before the first thread: prctl and capset work on the calling thread alone.
"""

from __future__ import annotations

import ctypes
import os
import pwd
from pathlib import Path

from tapio.errors import PrivilegeError, UsageError, describe_os_error

_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
_TO_ATTACH = ("CAP_BPF", "CAP_PERFMON")  # CAP_SYS_ADMIN stands for both
_TO_DROP = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_CHOWN")

_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_NO_UID = (1 << 32) - 1
_CAPSET_VERSION_3 = 0x20080522


def effective_capabilities(proc_root: Path = Path("/proc")) -> int:
    """The bit set of the process's effective capabilities."""
    for line in (proc_root / "self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise PrivilegeError(f"reading {proc_root}/self/status: it has no CapEff line: mount /proc")


def holds(capability: str, proc_root: Path = Path("/proc")) -> bool:
    """Whether the capability is effective."""
    return bool(effective_capabilities(proc_root) >> _CAPABILITIES[capability] & 1)


def check(*, will_drop: bool, proc_root: Path = Path("/proc")) -> None:
    """PrivilegeError that names what is missing to attach and, with `will_drop`, to drop privileges."""
    held = effective_capabilities(proc_root)

    def lacks(name: str) -> bool:
        return not held >> _CAPABILITIES[name] & 1

    attach = [name for name in _TO_ATTACH if lacks(name) and lacks("CAP_SYS_ADMIN")]
    drop = [name for name in _TO_DROP if will_drop and lacks(name)]
    if attach or drop:
        doing = "attaching to the kernel" if attach else "giving up all rights"
        raise PrivilegeError(f"{doing}: missing {', '.join(attach + drop)}: run as root or grant them")


def find_user(name: str) -> tuple[int, int]:
    """The uid and gid of a user name or of a number without an entry; UsageError for an unknown name and root."""
    if name.isdecimal() and (len(name) > 10 or int(name) >= _NO_UID):
        raise UsageError(f"looking up user {name}: a uid is below {_NO_UID}: choose an unprivileged user")
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        uid, gid = entry.pw_uid, entry.pw_gid
    except (KeyError, ValueError) as error:  # ValueError: a NUL in the name
        if not name.isdecimal():
            raise UsageError(
                f"looking up user {name!r}: there is none: set `user` to an existing name or a uid"
            ) from error
        uid = gid = int(name)
    if uid == 0 or gid == 0:
        raise UsageError(f"looking up user {name!r}: it is root or in root's group: choose an unprivileged user")
    return uid, gid


def drop(uid: int, gid: int) -> None:
    """Become `uid` and `gid` with no privilege and no way back; PrivilegeError if anything of it fails."""
    libc = ctypes.CDLL(None, use_errno=True)

    def must(result: int, doing: str) -> None:
        if result != 0:
            raise PrivilegeError(
                f"{doing}: {os.strerror(ctypes.get_errno()).lower()}: run as root or grant CAP_SETPCAP"
            )

    must(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clearing ambient capabilities")
    capability = 0
    while libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        must(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "emptying the bounding set")
        capability += 1
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise PrivilegeError(
            f"becoming uid {uid}: {describe_os_error(error)}: run as root or grant CAP_SETUID and CAP_SETGID"
        ) from error
    # A change of uid away from 0 clears the sets; with capabilities granted to another uid it does not.
    header = (ctypes.c_uint32 * 2)(_CAPSET_VERSION_3, 0)
    must(libc.capset(header, (ctypes.c_uint32 * 6)()), "dropping capabilities")
    must(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "setting no_new_privs")
    if effective_capabilities() or os.geteuid() != uid:
        raise PrivilegeError("dropping privileges: the kernel kept some: please report it")
