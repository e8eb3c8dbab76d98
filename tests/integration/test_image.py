"""The image that deploy/Dockerfile builds: small, without tools to build with, and with its bill of materials."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.helm import tool
from helpers.programs import ROOT

LOCKED = re.compile(r"^([a-z0-9.-]+)==([^ ;]+)", re.MULTILINE)
PURL = re.compile(r"pkg:(deb/debian|pypi)/[a-z0-9.+%B-]+@[A-Za-z0-9.+~%-]+(\?arch=[a-z0-9]+)?")


@pytest.fixture(scope="module")
def rootfs() -> Path:
    return tool("build-image", "--rootfs")


def files(rootfs: Path) -> list[Path]:
    """Every file of the image."""
    return [Path(folder, name) for folder, _, names in os.walk(rootfs) for name in names]


def check_bill(bill: dict[str, Any]) -> dict[str, str]:
    """Fail unless it is a CycloneDX document; names and versions of what it lists."""
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert bill["metadata"]["component"]["name"] == "tapio"
    components = bill["components"]
    assert len({one["bom-ref"] for one in components}) == len(components)
    for one in components:
        assert one["type"] == "library"
        assert one["name"]
        assert one["version"]
        assert PURL.fullmatch(one["purl"]), one["purl"]
    return {one["purl"].split("@")[0].removeprefix("pkg:"): one["version"] for one in components}


def test_it_is_small(rootfs: Path) -> None:
    size = sum(path.lstat().st_size for path in files(rootfs))
    assert size < 250e6
    print(f"{size / 1e6:.0f} MB")


def test_it_has_no_compiler_and_no_installer(rootfs: Path) -> None:
    names = {path.name for path in files(rootfs)}
    assert not [name for name in names if re.match(r"(clang|gcc|cc|ld|as|make|pip3?|curl|wget|git)(-[0-9.]+)?$", name)]
    assert not [name for name in names if name.startswith(("libLLVM", "libbcc", "libclang"))]
    assert not list(rootfs.glob("opt/tapio/venv/lib/python3*/site-packages/pip"))


def test_libbpf_is_there_and_the_objects_are_this_machine_s(rootfs: Path) -> None:
    assert list(rootfs.glob("usr/lib/*/libbpf.so.1"))
    built = ROOT / "ebpf" / "build"
    assert {path.name for path in (rootfs / "opt/tapio/ebpf").iterdir()} == {path.name for path in built.glob("*.o")}


def test_bytecode_is_compiled(rootfs: Path) -> None:
    """The root is read-only at run time."""
    (packages,) = rootfs.glob("opt/tapio/venv/lib/python3*/site-packages")
    for source in (packages / "tapio").rglob("*.py"):
        assert list((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")), source


def test_what_a_container_starts_with(rootfs: Path) -> None:
    config = json.loads((rootfs / ".image.json").read_text())["OCIv1"]["config"]
    assert config["Entrypoint"] == ["tapio-agent"]
    assert "TAPIO_DATA_DIR=/var/lib/tapio/occurrences" in config["Env"]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["Labels"]["org.opencontainers.image.version"] != "unknown"


def test_the_bill_of_materials_lists_everything(rootfs: Path) -> None:
    listed = check_bill(json.loads((rootfs / "opt/tapio/sbom.cdx.json").read_text()))
    locked = dict(LOCKED.findall((ROOT / "requirements.lock").read_text()))
    assert {name.removeprefix("pypi/"): v for name, v in listed.items() if name.startswith("pypi/")} == locked
    status = (rootfs / "var/lib/dpkg/status").read_text()
    stanzas = [one for one in status.split("\n\n") if "\nStatus: install ok installed\n" in one]
    installed = [one.partition("\n")[0].removeprefix("Package: ") for one in stanzas]
    assert {name for name in listed if name.startswith("deb/")} == {
        "deb/debian/" + name.replace("+", "%2B") for name in installed
    }
    assert {"deb/debian/libbpf1", "deb/debian/python3"} <= set(listed)


@pytest.mark.skipif(not Path("/var/lib/dpkg/status").exists(), reason="no Debian")
def test_a_bill_of_this_machine_is_complete_and_repeatable() -> None:
    command = [sys.executable, ROOT / "deploy/sbom", sys.prefix]
    first, second = (subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second
    listed = check_bill(json.loads(first))
    locked = dict(LOCKED.findall((ROOT / "requirements.lock").read_text()))
    assert {f"pypi/{name}": version for name, version in locked.items()}.items() <= listed.items()


def test_the_dockerfile_installs_what_is_locked_and_nothing_at_run_time() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    installs = [line for line in text.splitlines() if "pip" in line and " install " in line]
    assert installs
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    last = text.split("\nFROM ")[-1]
    assert not re.search(r"\b(curl|wget|clang|llvm|pip)\b", last.partition("\n")[2].replace("no pip", ""))
    assert text.count("FROM ") == text.count("${BASE}") == 3
