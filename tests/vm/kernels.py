"""The kernels that `make test-vm` boots."""

from __future__ import annotations

from dataclasses import dataclass

USERLAND = ("bookworm", "bookworm-security")  # the oldest Debian whose Python and bcc the agent runs on

# All suites that hold kernels. A newer suite first would make no difference: the newest version is taken.
KERNEL_SUITES = {
    "amd64": (
        "bullseye",
        "bullseye-security",
        "bookworm",
        "bookworm-security",
        "trixie",
        "trixie-security",
        "trixie-backports",
        "sid",
        "experimental",
    ),
    "arm64": ("bookworm", "bookworm-security", "trixie", "trixie-security"),
}


@dataclass(frozen=True)
class Kernel:
    """A row of the matrix: the newest packaged kernel whose version begins with `series`; empty: of all."""

    name: str
    architecture: str
    series: str

    @property
    def pattern(self) -> str:
        """The name of its package, as a regular expression. Since 6.19 the image is in a package of its own."""
        numbers = self.series.replace(".", r"\.") + "[.-]" if self.series else "[0-9]"
        return rf"^linux-(image|binary)-{numbers}.*cloud-{self.architecture}$"


KERNELS = (
    Kernel("5.10-old", "amd64", "5.10.0-30"),  # 5.10.218: its mark_victim passes only a pid, 5.10.262 has that of 6.9
    Kernel("5.10", "amd64", "5.10"),
    Kernel("6.1", "amd64", "6.1"),
    Kernel("6.12", "amd64", "6.12"),
    Kernel("newest", "amd64", ""),
    Kernel("6.12-arm64", "arm64", "6.12"),
)
