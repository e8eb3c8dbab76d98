"""Configuration: the TOML file, environment variables and flags become one frozen `Config`.

`tapio.toml` in this package documents every key with its default; a test keeps both in step.
"""

from __future__ import annotations

import difflib
import fnmatch
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tapio import named_files, perf_events
from tapio.errors import UsageError, describe_os_error

DEFAULT_PATH = Path("/etc/tapio/tapio.toml")
DOCUMENTED = Path(__file__).with_name("tapio.toml")
INSTALLED_EBPF_DIR = Path("/opt/tapio/ebpf")
CHECKOUT_EBPF_DIR = Path(__file__).resolve().parent.parent / "ebpf" / "build"

ObserverName = Literal["network", "container", "storage", "node"]
SinkName = Literal["stdout", "file", "otlp", "grafana", "polku"]
_ExitCode = Annotated[int, msgspec.Meta(ge=0, le=255)]
_FlushTime = Annotated[float, msgspec.Meta(ge=0, le=60)]
_MAX = 1 << 40
_COMM_MAX = 15  # TASK_COMM_LEN - 1
_Path = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*$")]
_Count = Annotated[int, msgspec.Meta(ge=1, le=_MAX)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=_MAX)]
_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=_MAX)]
_OBJECTS = {"node": "node_pmc"}  # observers whose object has another name
_Percent = Annotated[float, msgspec.Meta(ge=0.1, le=100)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Common rules of every section."""


class AgentConfig(_Section, frozen=True):
    """The agent's own process, and how it watches itself."""

    seccomp: Literal["on", "off"] = "on"
    canary_interval_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 30


class KernelConfig(_Section, frozen=True):
    """How the kernel's events are read."""

    drain_interval_ms: Annotated[int, msgspec.Meta(ge=10, le=1000)] = 75
    ring_kib: Literal[64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] = 512


class MetricsConfig(_Section, frozen=True):
    """Who may read /metrics; where it is, `metrics_address` says."""

    tls_cert: _Path = ""
    tls_key: _Path = ""
    client_ca: _Path = ""
    users_file: _Path = ""

    def __post_init__(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key go together")
        if self.client_ca and not self.tls_cert:
            raise ValueError("client_ca needs tls_cert and tls_key")


class NetworkConfig(_Section, frozen=True):
    """What the network observer reports."""

    window_s: _Seconds = 10
    retransmit_spike_count: _Count = 5
    rst_storm_count: _Count = 10
    rtt_spike_ratio: Annotated[float, msgspec.Meta(ge=1, le=1e6)] = 2
    rtt_min_delta_ms: _Milliseconds = 10
    rtt_spike_abs_ms: _Milliseconds = 500
    rtt_delayed_ack_ms: _Milliseconds = 40
    rtt_min_samples: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    rtt_relearn_s: _Seconds = 600
    rtt_sample_interval_ms: Annotated[int, msgspec.Meta(ge=1000, le=60_000)] = 1000
    rtt_samples_per_s: Annotated[int, msgspec.Meta(ge=0, le=2000)] = 2000
    ignore_ports: tuple[_Port, ...] = ()
    ignore_cidrs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for cidr in self.ignore_cidrs:
            try:
                ipaddress.ip_network(cidr)
            except ValueError as error:
                raise ValueError(f"ignore_cidrs: {error}") from error


class ContainerConfig(_Section, frozen=True):
    """What the container observer reports."""

    exit_scope: Literal["all", "main"] = "all"
    ignore_exit_codes: tuple[_ExitCode, ...] = ()
    ignore_comm: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in self.ignore_comm:
            if len(pattern.replace("*", "")) > _COMM_MAX and "[" not in pattern:
                raise ValueError(f"{pattern!r} can match no name: the kernel keeps {_COMM_MAX} characters of a name")


class DiskConfig(_Section, frozen=True):
    """Thresholds of the disks whose names match a pattern; what is not set is as for every disk."""

    warning_ms: Annotated[float, msgspec.Meta(gt=0, le=_MAX)] | None = None
    critical_ms: Annotated[float, msgspec.Meta(gt=0, le=_MAX)] | None = None


class StorageConfig(_Section, frozen=True):
    """What the storage observer reports."""

    warning_ms: Annotated[float, msgspec.Meta(gt=0, le=_MAX)] = 50
    critical_ms: Annotated[float, msgspec.Meta(gt=0, le=_MAX)] = 200
    ignore_devices: tuple[str, ...] = ("zram*", "ram*")
    max_in_flight: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 8192
    devices: dict[str, DiskConfig] = {}

    def __post_init__(self) -> None:
        if self.warning_ms > self.critical_ms:
            raise ValueError("critical_ms is below warning_ms")
        for pattern in self.devices:
            warning_ms, critical_ms = self.thresholds_of(pattern)
            if warning_ms > critical_ms:
                raise ValueError(f'critical_ms is below warning_ms for devices."{pattern}"')

    def ignores(self, device: str) -> bool:
        """Whether this disk is not watched."""
        return any(fnmatch.fnmatchcase(device, pattern) for pattern in self.ignore_devices)

    def thresholds_of(self, pattern: str) -> tuple[float, float]:
        """Warning and critical for the disks of this pattern, in milliseconds."""
        disk = self.devices[pattern]
        return (
            self.warning_ms if disk.warning_ms is None else disk.warning_ms,
            self.critical_ms if disk.critical_ms is None else disk.critical_ms,
        )


class NodeConfig(_Section, frozen=True):
    """What the node observer counts on each CPU, and what it reports."""

    interval_ms: Annotated[int, msgspec.Meta(ge=10, le=10_000)] = 100
    cycles: str = perf_events.AUTO
    instructions: str = perf_events.AUTO
    stalls: str = perf_events.AUTO
    per_cpu: bool | Literal["auto"] = "auto"
    busy_percent: _Percent = 50
    cpu_stall_percent: _Percent = 40
    memory_pressure_percent: _Percent = 20
    ipc_floor: Annotated[float, msgspec.Meta(ge=0.01, le=100)] = 1.0
    ipc_drop_ratio: Annotated[float, msgspec.Meta(ge=0.01, le=0.99)] = 0.5
    ipc_learning_s: Annotated[float, msgspec.Meta(ge=1, le=86400)] = 60
    sustained_intervals: Annotated[int, msgspec.Meta(ge=2, le=100_000)] = 50
    hysteresis_percent: Annotated[float, msgspec.Meta(ge=0, le=90)] = 10

    def __post_init__(self) -> None:
        if self.memory_pressure_percent > self.cpu_stall_percent:
            raise ValueError("cpu_stall_percent is below memory_pressure_percent")
        for counter, words in self.events.items():
            if words != perf_events.AUTO:
                try:
                    perf_events.parse(words)
                except ValueError as error:
                    raise ValueError(f"{counter}: {error}") from error

    @property
    def events(self) -> dict[str, str]:
        """The perf events by what they count."""
        return {"cycles": self.cycles, "instructions": self.instructions, "stalls": self.stalls}


class KubernetesConfig(_Section, frozen=True):
    """Which pod something happened in."""

    enabled: bool | Literal["auto"] = "auto"
    cluster_name: str = ""
    host_proc: _Path = "/host/proc"
    host_cgroup: _Path = "/host/sys/fs/cgroup"
    service_account_dir: _Path = "/var/run/secrets/kubernetes.io/serviceaccount"
    name_peers: Literal["off", "pods", "services"] = "pods"
    name_cronjobs: bool = False


class FileConfig(_Section, frozen=True):
    """How long occurrence files are kept."""

    max_files: Annotated[int, msgspec.Meta(ge=1, le=_MAX)] = 10_000
    max_mib: Annotated[int, msgspec.Meta(ge=1, le=_MAX)] = 64
    max_age_days: Annotated[float, msgspec.Meta(gt=0, le=36500)] = 7


class EpisodesConfig(_Section, frozen=True):
    """How bursts of equal anomalies are folded, and how many occurrences may leave."""

    individual: Annotated[int, msgspec.Meta(ge=1, le=_MAX)] = 5
    interval_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 10
    close_after_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 30
    max_keys: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 4096
    rate_per_s: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 20
    burst: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 500


class OtlpConfig(_Section, frozen=True):
    """Where OpenTelemetry data goes; the variables OTEL_* win, and say the rest."""

    endpoint: str = ""
    spool_mib: Annotated[int, msgspec.Meta(ge=1, le=_MAX)] = 64
    flush_s: _FlushTime = 3
    agent_metrics: bool = False


class PolkuConfig(_Section, frozen=True):
    """Where POLKU is."""

    endpoint: str = ""
    spool_mib: Annotated[int, msgspec.Meta(ge=1, le=_MAX)] = 64
    flush_s: _FlushTime = 3


class Config(_Section, frozen=True):
    """Everything that can be set."""

    sinks: Annotated[tuple[SinkName, ...], msgspec.Meta(min_length=1)] = ("stdout",)
    observers: Annotated[tuple[ObserverName, ...], msgspec.Meta(min_length=1)] = (
        "network",
        "container",
        "storage",
        "node",
    )
    data_dir: Annotated[_Path, msgspec.Meta(min_length=1)] = ".tapio/occurrences"
    ebpf_dir: _Path = ""
    metrics_address: str = "127.0.0.1:9464"
    user: Annotated[str, msgspec.Meta(min_length=1)] = "nobody"
    agent: AgentConfig = AgentConfig()
    kernel: KernelConfig = KernelConfig()
    metrics: MetricsConfig = MetricsConfig()
    network: NetworkConfig = NetworkConfig()
    container: ContainerConfig = ContainerConfig()
    storage: StorageConfig = StorageConfig()
    node: NodeConfig = NodeConfig()
    kubernetes: KubernetesConfig = KubernetesConfig()
    file: FileConfig = FileConfig()
    episodes: EpisodesConfig = EpisodesConfig()
    otlp: OtlpConfig = OtlpConfig()
    polku: PolkuConfig = PolkuConfig()

    def find_ebpf_dir(self) -> Path:
        """The folder with the BPF objects: the configured one, an installed one, or the checkout's."""
        if self.ebpf_dir:
            return Path(self.ebpf_dir)
        return INSTALLED_EBPF_DIR if INSTALLED_EBPF_DIR.is_dir() else CHECKOUT_EBPF_DIR

    def tables(self) -> dict[str, dict[str, int]]:
        """How many entries tables of the kernel side hold, by observer and map."""
        return {"storage": {"in_flight": self.storage.max_in_flight}}

    def find_objects(self) -> dict[str, Path]:
        """The BPF object of each observer."""
        folder = self.find_ebpf_dir()
        return {name: folder / f"{_OBJECTS.get(name, name)}_monitor.o" for name in self.observers}

    def metrics_endpoint(self) -> tuple[str, int] | None:
        """Host and port of /metrics, None when it is off; UsageError when the address makes no sense."""
        if not self.metrics_address:
            return None
        host, colon, port = self.metrics_address.rpartition(":")
        try:
            host.encode("idna")
        except UnicodeError:
            colon = ""
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise UsageError(f"reading metrics_address {self.metrics_address!r}: expected HOST:PORT, as 127.0.0.1:9464")
        return host.strip("[]"), int(port)


def load(
    path: Path | None, flags: Mapping[str, Any], environment: Mapping[str, str], *, default_path: Path = DEFAULT_PATH
) -> Config:
    """The configuration in force. `path` is the file that was asked for; None: the default one if it is there.

    `flags` holds keys that were given on the command line, those of a section as `section.key`. UsageError names
    the file, or the flag's key, and the path of what is wrong.
    """
    values: dict[str, Any] = {}
    if path is None and os.path.exists(default_path):  # noqa: PTH110  # Path.exists() raises in a closed folder
        path = default_path
    if path is not None:
        values = _read(path)
    checked = _convert(values, str(path))
    layered = _layer(values, {**_from_environment(environment), **flags})
    config = _convert(layered, "the command line") if layered != values else checked
    config.metrics_endpoint()
    return config


def _layer(values: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with what is in `over`; both stay as they are."""
    layered = dict(values)
    for path, value in over.items():
        section, dot, key = path.partition(".")
        layered[section] = {**layered.get(section, {}), key: value} if dot else value
    return layered


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    return {"data_dir": environment["TAPIO_DATA_DIR"]} if environment.get("TAPIO_DATA_DIR") else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(named_files.read(path).decode())
    except OSError as error:
        raise UsageError(f"reading {path}: {describe_os_error(error)}: check the path and its permissions") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError, an integer without end
        raise UsageError(f"reading {path}: not valid TOML: {error}") from error


def _convert(values: dict[str, Any], source: str) -> Config:
    try:
        return msgspec.convert(values, Config)
    except msgspec.ValidationError as error:
        raise UsageError(f"reading {source}: {_explain(str(error))}: {DOCUMENTED} shows what is possible") from error


def _keys_of(section: str) -> list[str]:
    """What may stand in a section; '' is the top."""
    defaults = Config() if not section else getattr(Config(), section, None)
    return list(defaults.__struct_fields__) if isinstance(defaults, msgspec.Struct) else []


def _explain(message: str) -> str:
    """Msgspec's 'Expected `int`, got `str` - at `$.file.max_mib`' as 'file.max_mib: expected int, got str'."""
    text, _, where = message.partition(" - at ")
    place = where.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.search(r"unknown field `(.*)`", text, re.DOTALL)
    if unknown:
        path = f"{place}.{unknown[1]}" if place else unknown[1]
        near = difflib.get_close_matches(unknown[1], _keys_of(place), 1)
        return f"{path}: there is no such key{f', perhaps {near[0]} is meant' if near else ''}"
    if "matching regex" in text:  # of _Path
        text = "a path cannot have a NUL character"
    text = text.replace("`", "")
    return f"{place}: {text[:1].lower()}{text[1:]}" if place else text
