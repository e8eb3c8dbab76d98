"""The DaemonSet's container, run by a real OCI runtime (runc) from deploy/tapio.yaml, on the image's file system.

As in a pod: its namespaces, a read-only root, the capabilities and mounts of the manifest, the runtime's default
seccomp profile, no_new_privs, masked paths. Other than in a pod: no kubelet, no AppArmor or SELinux, and the package
`tapio` and the objects are the checkout's, so that the image need not be built anew for each change.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from helpers.helm import agent_toml, container, of_kind, tool
from helpers.programs import ROOT, missing, running
from tapio.config import CHECKOUT_EBPF_DIR

MANIFEST = ROOT / "deploy" / "tapio.yaml"
SECCOMP = Path("/usr/share/containers/seccomp.json")
_MASKED = ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
           "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"]  # fmt: skip
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_POD_IP = "127.0.0.1"

Json = dict[str, Any]


def seccomp_profile(capabilities: Sequence[str], *, as_containerd: bool = True) -> Json:
    """The default profile of containers-common, as CRI-O has it, in the words of the OCI runtime specification.

    containerd's (since 1.7) and Docker's (since 23) lets CAP_BPF call bpf() and CAP_PERFMON perf_event_open(); in the
    one that Debian 12 has, both take CAP_SYS_ADMIN.
    """
    profile = json.loads(SECCOMP.read_text())
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]

    def applies(rule: Json) -> bool:
        inside, outside = rule.get("includes") or {}, rule.get("excludes") or {}
        return (
            all(name in capabilities for name in inside.get("caps", []))
            and not any(name in capabilities for name in outside.get("caps", []))
            and machine in inside.get("arches", [machine])
            and machine not in outside.get("arches", [])
        )

    own = {"bpf": "CAP_BPF", "perf_event_open": "CAP_PERFMON"} if as_containerd else {}
    rules = []
    for rule in filter(applies, profile["syscalls"]):
        names = [name for name in rule["names"] if own.get(name) not in capabilities]
        rules.append({key: rule[key] for key in ("action", "args", "errnoRet") if rule.get(key)} | {"names": names})
    allowed = [name for name, capability in own.items() if capability in capabilities]
    if allowed:
        rules.append({"names": allowed, "action": "SCMP_ACT_ALLOW"})
    architecture = {"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}[machine]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [architecture],
        "syscalls": rules,
    }


class Pod:
    """One run of the agent's container; its volumes are folders under `folder`."""

    def __init__(self, folder: Path, *, config: str = "", environment: dict[str, str] | None = None) -> None:
        for program in ("runc", SECCOMP):
            if shutil.which(str(program)) is None and not Path(program).exists():
                missing(f"{program} is missing: run 'make deploy-tools'", "TAPIO_REQUIRE_DEPLOY")
        self.folder = folder
        self.rootfs = tool("build-image", "--rootfs")
        documents = [one for one in yaml.safe_load_all(MANIFEST.read_text()) if one]
        self._spec = of_kind(documents, "DaemonSet")["spec"]["template"]["spec"]
        self._container = container(documents)
        self._toml = config or agent_toml(documents)
        self._environment = environment or {}
        self.capabilities = [f"CAP_{name}" for name in self._container["securityContext"]["capabilities"]["add"]]
        self.seccomp: Json | None = seccomp_profile(self.capabilities)
        self.args: list[str] = list(self._container["args"])
        self.namespaces = ["pid", "mount", "ipc", "uts", "network", "cgroup"]
        self.port = 9464
        self.account: Path | None = None  # token and CA of the service account
        self.entrypoint = ["/opt/tapio/venv/bin/tapio-agent"]
        self.name = f"tapio-pod-{uuid.uuid4().hex[:8]}"
        self.data = folder / "data"
        self.log = folder / "log"
        self.output = folder / "output"

    def bundle(self) -> Path:
        """Write the OCI bundle; the folder."""
        context = self._container["securityContext"]
        known = {"POD_IP": _POD_IP, "HOST_IP": _POD_IP, "NODE_NAME": "worker-3"}
        variables = {one["name"]: one["value"] for one in self._container["env"] if "value" in one}
        variables = {k: re.sub(r"\$\((\w+)\)", lambda n: known[n[1]], v) for k, v in variables.items()}
        image = json.loads((self.rootfs / ".image.json").read_text())["OCIv1"]["config"]
        environment = dict(one.split("=", 1) for one in image["Env"]) | known | variables | self._environment
        args = [arg.replace("$(POD_IP)", _POD_IP).replace("]:9464", f"]:{self.port}") for arg in self.args]
        process = {
            "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"],
                     "additionalGids": [self._spec["securityContext"]["fsGroup"]]},
            "args": [*self.entrypoint, *args],
            "env": [f"{key}={value}" for key, value in environment.items()],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), self.capabilities),
            "noNewPrivileges": not context["allowPrivilegeEscalation"],
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        }  # fmt: skip
        linux = {
            "namespaces": [{"type": kind} for kind in self.namespaces],
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
            **({"seccomp": self.seccomp} if self.seccomp else {}),
        }
        document = {
            "ociVersion": "1.0.2",
            "process": process,
            "root": {"path": str(self.rootfs), "readonly": context["readOnlyRootFilesystem"]},
            "hostname": "tapio",
            "mounts": self._mounts(),
            "linux": linux,
        }
        self.folder.mkdir(exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps(document))
        return self.folder

    def _mounts(self) -> list[Json]:
        (self.folder / "etc").mkdir(parents=True)
        (self.folder / "etc/tapio.toml").write_text(self._toml)
        self.data.mkdir(mode=0o755)
        sources = {"config": self.folder / "etc", "data": self.data}
        for volume in self._spec["volumes"]:
            sources.setdefault(volume["name"], Path(volume.get("hostPath", {}).get("path", "")))
        strict = ["nosuid", "noexec", "nodev"]
        (packages,) = (self.rootfs / "opt/tapio/venv/lib").glob("python3*/site-packages")
        own = {
            ROOT / "tapio": "/" + str((packages / "tapio").relative_to(self.rootfs)),
            CHECKOUT_EBPF_DIR: "/opt/tapio/ebpf",
        }
        return [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": strict},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*strict, "ro"]},
            *({"destination": target, "source": str(source), "options": ["bind", "ro"]}
              for source, target in own.items()),
            *({"destination": one["mountPath"], "source": str(sources[one["name"]]),
               "options": ["rbind", "rprivate", "ro" if one.get("readOnly") else "rw"]}
              for one in self._container["volumeMounts"]),
            *({"destination": "/run/secrets/kubernetes.io/serviceaccount", "source": str(folder),
               "options": ["bind", "ro"]} for folder in self._token_folder()),
        ]  # fmt: skip

    def _token_folder(self) -> list[Path]:
        """A copy of the account with the rights that the kubelet gives it where there is an fsGroup."""
        if self.account is None:
            return []
        copy = shutil.copytree(self.account, self.folder / "account")
        group = self._spec["securityContext"]["fsGroup"]
        for path in (copy, *copy.iterdir()):
            os.chown(path, 0, group)
            path.chmod(0o750 if path.is_dir() else 0o640)
        return [copy]

    def command(self) -> list[str]:
        """How the container is started; call `bundle` first."""
        return ["runc", "run", f"--bundle={self.folder}", self.name]

    def delete(self) -> None:
        """Remove what runc remembers of it."""
        subprocess.run(["runc", "delete", "--force", self.name], capture_output=True, check=False)

    def execute(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`kubectl exec` in the running container."""
        return subprocess.run(["runc", "exec", self.name, *arguments], capture_output=True, text=True, check=False)

    def page(self, path: str) -> tuple[int, str]:
        """A page of the agent, as the kubelet asks for it."""
        script = (
            "import sys,urllib.request as r,urllib.error as e\n"
            f"try: a=r.urlopen('http://{_POD_IP}:{self.port}{path}',timeout=5)\n"
            "except e.HTTPError as error: a=error\n"
            "print(a.status); print(a.read().decode())"
        )
        done = self.execute("/usr/bin/python3", "-c", script)
        status, _, body = done.stdout.partition("\n")
        return int(status or 0), body

    def occurrences(self, cgroup_id: int) -> list[Json]:
        """What the file sink wrote about a cgroup."""
        texts = [path.read_text() for path in sorted((self.data / "occurrences").glob("0*.json"))]
        return [one for one in map(json.loads, texts) if one["data"].get("cgroup_id") == cgroup_id]


@contextlib.contextmanager
def running_pod(pod: Pod) -> Iterator[subprocess.Popen[bytes]]:
    """The container, ready as its readiness probe says; gone at the end."""
    pod.bundle()
    try:
        with running(pod.command(), pod.log, lambda: pod.page("/readyz")[0] == 200, output=pod.output) as process:
            yield process
    finally:
        pod.delete()
