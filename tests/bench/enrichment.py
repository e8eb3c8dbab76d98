"""What enrichment costs: the agent's memory and CPU time with 250 pods and 50 changes a second.

Run as root: `.venv/bin/python tests/bench/enrichment.py [SECONDS]`. All observers, the sinks file and otlp (to an
address where nobody listens), pods of about 10 KiB each and of 100 KiB each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.api_server import api_server, make_pod
from helpers.kubepods import NODE, new_id
from helpers.running_agent import AGENT
from loads import cpu_s, resident_mib

PODS, CHANGES_PER_S = 250, 50


def measure(pod_kib: int, seconds: float) -> None:
    """One agent, idle but for its watch; without enrichment for pods of 0 KiB."""
    enriched = bool(pod_kib)
    folder = Path(tempfile.mkdtemp(prefix="tapio-bench-"))
    folder.chmod(0o755)
    with api_server(folder) as api:
        fill = [{"manager": "kubelet", "fieldsV1": {f"f:{index}": {"f:name": {}} for index in range(38 * pod_kib)}}]
        pods = []
        for number in range(PODS):
            pod = make_pod(
                f"pod-{number}", containers={"api": new_id()}, node=NODE, podIPs=[{"ip": f"10.1.0.{number}"}]
            )
            pod["metadata"]["managedFields"] = fill
            pods.append(api.put("pods", pod))
        config = folder / "tapio.toml"
        config.write_text(f'[kubernetes]\nservice_account_dir = "{api.account}"\nenabled = {str(enriched).lower()}\n')
        command = [AGENT, "--sink=file", "--sink=otlp", f"--data-dir={folder}/data", "--metrics-address=127.0.0.1:0"]
        environment = {**os.environ, **api.environment, "NODE_NAME": NODE,
                       "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}  # fmt: skip
        log = (folder / "log").open("w")
        agent = subprocess.Popen([*command, f"--config={config}"], env=environment, stderr=log)
        try:
            time.sleep(8)
            before, began, changes = cpu_s(agent.pid), time.monotonic(), 0
            while (elapsed := time.monotonic() - began) < seconds:
                while enriched and changes < elapsed * CHANGES_PER_S:
                    api.put("pods", pods[changes % PODS])
                    changes += 1
                time.sleep(0.02)
            used = cpu_s(agent.pid) - before
            what = f"{PODS} pods of {pod_kib} KiB, {changes / seconds:.0f} changes/s"
            print(
                f"{what if enriched else 'without enrichment'}: VmRSS {resident_mib(agent.pid):.1f} MiB, "
                f"peak {resident_mib(agent.pid, 'VmHWM'):.1f} MiB, "
                f"CPU {used / seconds * 100:.2f} % of one CPU over {seconds:.0f} s"
            )
        finally:
            agent.terminate()
            agent.wait()


if __name__ == "__main__":
    for pod_kib in (0, 10, 100):
        measure(pod_kib, float(sys.argv[1]) if len(sys.argv) > 1 else 30)
