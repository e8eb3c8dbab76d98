"""The shape of the code base: which way the data flows, and how large a module may be."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import tapio

PACKAGE = Path(tapio.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
SHARED = {"anomalies", "clock", "config", "cpus", "errors", "ids", "named_files", "occurrence", "otel_names",
          "perf_events", ""}  # fmt: skip
# What each stage may import beside what all share and itself: only what lies upstream of it.
UPSTREAM = {
    "kernel": set(),
    "observers": {"kernel"},
    "enrich": {"kernel", "observers", "episodes"},
    "sinks": {"store", "pmc_metrics"},
    "store": set(),
    "telemetry": {"sinks"},
    "pmc_metrics": set(),
    "prometheus": {"telemetry"},
    "heartbeat": {"telemetry", "store", "heartbeat_document"},
    "heartbeat_document": {"telemetry"},
    "web": {"web_access"},
    "web_access": set(),
    "episodes": set(),
    "losses": set(),
    "canary": {"kernel", "observers", "telemetry"},
    "cli": {"store", "heartbeat_document"},
}


def imports(module: Path) -> set[str]:
    """Dotted names of everything a module imports."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def stage_of(name: str) -> str:
    """'sinks' of 'tapio.sinks.file.FileSink'."""
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_data_flows_one_way(module: Path) -> None:
    stage = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if stage not in UPSTREAM and stage not in SHARED:
        return  # agent, agent_main and source put the stages together
    allowed = SHARED | {"__version__", stage} | UPSTREAM.get(stage, set())
    used = {stage_of(name) for name in imports(module) if name.split(".")[0] == "tapio"}
    assert used <= allowed


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_small_and_documented(module: Path) -> None:
    text = module.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))


def test_modules_of_tests_are_small_and_documented() -> None:
    """Their helpers, benchmarks and fuzzers too."""
    modules = sorted((PACKAGE.parent / "tests").rglob("*.py"))
    assert modules
    for module in modules:
        text = module.read_text()
        assert len(text.splitlines()) <= 400, module
        assert ast.get_docstring(ast.parse(text)), module


def test_only_the_loader_imports_bcc() -> None:
    users = {path.name for path in MODULES if any(name.split(".")[0] == "bcc" for name in imports(path))}
    assert users == {"loader.py"}


def test_bcc_is_in_no_requirement() -> None:
    """The package of that name on PyPI is another project. `bcc` as a word of its own, on lines that pip reads."""
    root = PACKAGE.parent
    files = [root / "pyproject.toml", *root.rglob("requirements*.lock"), *root.rglob("requirements*.txt")]
    for path in files:
        lines = [line.partition("#")[0] for line in path.read_text().splitlines()]
        assert not [line for line in lines if _NAMES_BCC.search(line)], path
    for path in [root / "Makefile", *root.glob("deploy/**/Dockerfile*"), *root.glob("tools/*")]:
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if re.search(r"\bpip3?\b", line)]
            assert not [line for line in lines if _NAMES_BCC.search(line)], path


_NAMES_BCC = re.compile(r"""(?:^|[\s"'\[,])bcc(?=$|[\s"'\],;=<>~!\[@])""", re.IGNORECASE)


@pytest.mark.parametrize(
    "line", ['"bcc"', "bcc==0.1.10", "pip install bcc", '["x", "BCC>=1"]', "bcc[extra]", "bcc @ x"]
)
def test_that_check_sees_a_requirement(line: str) -> None:
    assert _NAMES_BCC.search(line)


def test_every_locked_dependency_has_an_exact_version_and_hashes() -> None:
    for path in PACKAGE.parent.glob("requirements*.lock"):
        entries = re.split(r"\n(?=[a-z])", path.read_text())
        assert entries
        for entry in entries:
            assert re.match(r"[a-z0-9.\[\]_-]+==[^ ]+", entry, re.IGNORECASE), entry
            assert "--hash=sha256:" in entry, entry


def test_the_cli_installs_light() -> None:
    """Everything that only the agent or the MCP server needs is an extra."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert [requirement.split(">")[0] for requirement in project["dependencies"]] == ["msgspec"]
    third_party = {"msgspec", "mcp", "mcp_types", "anyio"}
    for module in (PACKAGE / "cli").glob("*.py"):
        foreign = {name.split(".")[0] for name in imports(module)} - set(sys.stdlib_module_names) - {"tapio"}
        assert foreign <= (third_party if module.name == "mcp.py" else {"msgspec"}), module
