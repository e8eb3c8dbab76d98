"""Packages of Debian, from the mirror that this machine's apt uses, by a root of apt's own.

Everything is verified by apt: the lists by Debian's keyring, each package by its hash in the lists.
"""

from __future__ import annotations

import functools
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_LISTS_ARE_GOOD_FOR_S = 7 * 86400
_SETTINGS = """
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::CNF;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
Dir::Cache "{folder}/cache";
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
"""


class DownloadError(Exception):
    """One line: what was tried, what failed, what to do."""


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise DownloadError(f"running {command[0]}: {' '.join(last)}: is the mirror of this machine's apt reachable?")
    return done.stdout


@functools.cache
def _mirrors() -> dict[str, str]:
    """Where `Debian` and `Debian-Security` come from on this machine."""
    lines = _output("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages").splitlines()
    found = dict(line.split(" ", 1) for line in reversed(lines))
    if "Debian" not in found:
        raise DownloadError("reading apt's sources: no Debian among them: add it, or run apt-get update")
    return found


def newer(left: str, right: str) -> int:
    """-1, 0 or 1, as for sorting: Debian's order of versions."""
    if left == right:
        return 0
    compared = subprocess.run(["dpkg", "--compare-versions", left, "lt", right], check=False)
    return -1 if compared.returncode == 0 else 1


class AptRoot:
    """Lists of some suites for one architecture."""

    def __init__(self, folder: Path, architecture: str, suites: Sequence[str]) -> None:
        """Fetches the lists when they are a week old; DownloadError when there are none and none can be had."""
        self._folder, self.architecture = folder, architecture
        for needed in ("cache/archives/partial", "state/lists/partial"):
            (folder / needed).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "apt.conf").write_text(_SETTINGS.format(folder=folder, architecture=architecture))
        sources = "".join(self._source(suite) for suite in suites)
        stamp, listed = folder / "updated", folder / "sources.list"
        is_fresh = stamp.exists() and time.time() - stamp.stat().st_mtime < _LISTS_ARE_GOOD_FOR_S
        if is_fresh and listed.exists() and listed.read_text() == sources:
            return
        listed.write_text(sources)
        try:
            self._apt("apt-get", "-qq", "update")
        except DownloadError:
            if not stamp.exists():
                raise
        else:
            stamp.touch()

    def _source(self, suite: str) -> str:
        mirror = _mirrors()["Debian-Security" if suite.endswith("-security") else "Debian"]
        return f"deb [signed-by={_KEYRING} arch={self.architecture}] {mirror} {suite} main\n"

    def _apt(self, program: str, *words: str) -> str:
        return _output(program, "-c", str(self._folder / "apt.conf"), *words)

    def newest(self, pattern: str) -> tuple[str, str]:
        """Name and version of the newest package whose name matches."""
        names = [line.split(" ")[0] for line in self._apt("apt-cache", "search", "--names-only", pattern).splitlines()]
        if not names:
            raise DownloadError(f"looking for a package {pattern}: the mirror has none: change tests/vm/kernels.py")
        text = self._apt("apt-cache", "show", "--no-all-versions", *names)
        found = re.findall(r"^Package: (\S+)$.*?^Version: (\S+)$", text, re.MULTILINE | re.DOTALL)
        return max(found, key=functools.cmp_to_key(lambda a, b: newer(a[1], b[1])))

    def download(self, names: Iterable[str]) -> list[Path]:
        """Just these packages; those that are here already are taken as they are."""
        cached = self._folder / "debs"
        cached.mkdir(exist_ok=True)
        found = []
        for name in names:
            uri = self._apt("apt-get", "download", "--print-uris", name).split()
            path = cached / uri[1]
            if not path.exists():
                command = ["apt-get", "-c", str(self._folder / "apt.conf"), "-qq", "download", name]
                done = subprocess.run(command, cwd=cached, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise DownloadError(f"downloading {name}: {done.stderr.strip().splitlines()[-1]}: try again")
            found.append(path)
        return found

    def download_with_dependencies(self, names: Sequence[str]) -> list[Path]:
        """These packages and all that they depend on."""
        archives = self._folder / "cache/archives"
        self._apt("apt-get", "-qq", "install", "-y", "-d", *names)
        lines = self._apt("apt-get", "-qq", "install", "-y", "-s", *names).splitlines()
        wanted = {line.split()[1] for line in lines if line.startswith("Inst ")}
        found = [path for path in sorted(archives.glob("*.deb")) if path.name.split("_")[0] in wanted]
        # An older version stays in the cache beside a newer one.
        latest: dict[str, Path] = {}
        for path in found:
            package, version = path.name.split("_")[:2]
            if package not in latest or newer(latest[package].name.split("_")[1], version) < 0:
                latest[package] = path
        return list(latest.values())
