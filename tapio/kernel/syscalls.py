"""What the agent may ask of the kernel once it is at work, and the numbers of these system calls.

A rule is a call by name with conditions on its arguments; several rules of one call are alternatives. To allow one more
call: a line here, with its numbers in `_NUMBERS`. `strace -f -e trace=all` of an agent shows what answers EPERM.
"""

from __future__ import annotations

from typing import NamedTuple


class Check(NamedTuple):
    """Argument number `argument`, its low 32 bits masked with `mask`, is one of `values`."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


class Rule(NamedTuple):
    """A system call that is allowed when all checks hold."""

    call: str
    checks: tuple[Check, ...] = ()


# For x86-64 and arm64; from 424 on both are the same. A test compares them with the headers of Linux.
_NUMBERS = """
read 0 63, readv 19 65, pread64 17 67, write 1 64, writev 20 66, pwrite64 18 68, lseek 8 62, close 3 57
dup 32 23, dup2 33 -, dup3 292 24, pipe2 293 59, fcntl 72 25, ioctl 16 29
open 2 -, openat 257 56, fstat 5 80, newfstatat 262 79, stat 4 -, lstat 6 -, statx 332 291
statfs 137 43, fstatfs 138 44
access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getcwd 79 17, getdents64 217 61
mkdir 83 -, mkdirat 258 34, unlink 87 -, unlinkat 263 35, rmdir 84 -, rename 82 -, renameat 264 38, renameat2 316 276
ftruncate 77 46, fallocate 285 47, fsync 74 82, fdatasync 75 83, fchmod 91 52, flock 73 32
socket 41 198, socketpair 53 199, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242
getsockname 51 204, getpeername 52 205, sendto 44 206, recvfrom 45 207, sendmsg 46 211, recvmsg 47 212, sendmmsg 307 269
shutdown 48 210, getsockopt 55 209, setsockopt 54 208
mmap 9 222, mprotect 10 226, munmap 11 215, mremap 25 216, brk 12 214, madvise 28 233, membarrier 324 283
clone 56 220, clone3 435 435, futex 202 98, set_robust_list 273 99, rseq 334 293, exit 60 93, exit_group 231 94
tgkill 234 131, wait4 61 260, waitid 247 95, prctl 157 167, prlimit64 302 261, sched_yield 24 124
sched_getaffinity 204 123
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigtimedwait 128 137, sigaltstack 131 132
restart_syscall 219 128, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101
gettimeofday 96 169, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22
poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72
gettid 186 178, getpid 39 172, getppid 110 173, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177
uname 63 160, sysinfo 99 179, getrandom 318 278, getrusage 98 165, times 100 153, getcpu 309 168
seccomp 317 277, landlock_create_ruleset 444 444, landlock_add_rule 445 445, landlock_restrict_self 446 446
"""

_MACHINES = ("x86_64", "aarch64")


def numbers(machine: str) -> dict[str, int]:
    """The number of each call on this machine, without those that it lacks. Empty for a machine that is not known."""
    if machine not in _MACHINES:
        return {}
    rows = [entry.split() for line in _NUMBERS.split("\n") for entry in line.split(",") if entry]
    column = 1 + _MACHINES.index(machine)
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


# clone3 hides its flags behind a pointer, so no filter can see them; ENOSYS lets libc take clone instead. The others
# are for making the sandbox itself.
_NEVER = {"clone3", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}

_STREAM_OR_DATAGRAM = Check(1, (1, 2), mask=0xF)  # the flags CLOEXEC and NONBLOCK do not matter
_NOT_EXECUTABLE = Check(2, (0,), mask=4)  # PROT_EXEC
_NAMESPACES = 0x7E02_0000  # CLONE_NEW*

CHECKED = (
    # No raw, packet, netlink or other sockets: TCP and UDP for HTTP and DNS, UNIX for the resolvers and for wake-ups.
    Rule("socket", (Check(0, (1, 2, 10)), _STREAM_OR_DATAGRAM)),
    Rule("socketpair", (Check(0, (1,)),)),
    # SO_REUSEADDR, SNDBUF, RCVBUF, KEEPALIVE, LINGER, RCVTIMEO, SNDTIMEO: no SO_ATTACH_FILTER.
    Rule("setsockopt", (Check(1, (1,)), Check(2, (2, 7, 8, 9, 13, 20, 21)))),
    # TCP_NODELAY, KEEPIDLE, KEEPINTVL, KEEPCNT, QUICKACK, USER_TIMEOUT
    Rule("setsockopt", (Check(1, (6,)), Check(2, (1, 4, 5, 6, 12, 18)))),
    Rule("setsockopt", (Check(1, (0,)), Check(2, (10, 11)))),  # IP_MTU_DISCOVER, IP_RECVERR: libc's resolver
    Rule("setsockopt", (Check(1, (41,)), Check(2, (23, 25, 26)))),  # the same and IPV6_V6ONLY
    # What is not code at the start never becomes code.
    Rule("mmap", (_NOT_EXECUTABLE,)),
    Rule("mprotect", (_NOT_EXECUTABLE,)),
    Rule("clone", (Check(0, (0,), mask=_NAMESPACES),)),  # threads and fork, no namespaces
    Rule("prctl", (Check(0, (15, 16)),)),  # PR_SET_NAME, PR_GET_NAME: names of threads
    # FIONBIO, FIOCLEX, FIONCLEX, FIONREAD, TCGETS (isatty), SIOCGIFINDEX (fe80::1%eth0)
    Rule("ioctl", (Check(1, (0x5421, 0x5451, 0x5450, 0x541B, 0x5401, 0x8933)),)),
    # F_DUPFD, GETFD, SETFD, GETFL, SETFL, F_DUPFD_CLOEXEC
    Rule("fcntl", (Check(1, (0, 1, 2, 3, 4, 1030)),)),
    Rule("prlimit64", (Check(0, (0,)),)),  # its own limits, which it can only lower
)


def rules(machine: str, pid: int) -> list[Rule]:
    """What the process `pid` may call on this machine."""
    with_arguments = (*CHECKED, Rule("tgkill", (Check(0, (pid,)),)))  # abort(3), and nobody else
    checked = {rule.call for rule in with_arguments}
    known = numbers(machine)
    plain = [Rule(call) for call in known if call not in checked and call not in _NEVER]
    return plain + [rule for rule in with_arguments if rule.call in known]
