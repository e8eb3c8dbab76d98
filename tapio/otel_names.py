"""Names of attributes and metrics. Made by `make names` from otel/schema: change them there."""

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

SERVICE_NAME = "service.name"
SERVICE_VERSION = "service.version"
SERVICE_INSTANCE_ID = "service.instance.id"
HOST_NAME = "host.name"
K8S_CLUSTER_NAME = "k8s.cluster.name"
K8S_NODE_NAME = "k8s.node.name"
K8S_NAMESPACE_NAME = "k8s.namespace.name"
K8S_POD_NAME = "k8s.pod.name"
K8S_POD_UID = "k8s.pod.uid"
K8S_CONTAINER_NAME = "k8s.container.name"
CONTAINER_ID = "container.id"
K8S_DEPLOYMENT_NAME = "k8s.deployment.name"
K8S_REPLICASET_NAME = "k8s.replicaset.name"
K8S_STATEFULSET_NAME = "k8s.statefulset.name"
K8S_DAEMONSET_NAME = "k8s.daemonset.name"
K8S_JOB_NAME = "k8s.job.name"
K8S_CRONJOB_NAME = "k8s.cronjob.name"
LOG_RECORD_UID = "log.record.uid"
ERROR_TYPE = "error.type"
PROCESS_PID = "process.pid"
PROCESS_PARENT_PID = "process.parent_pid"
PROCESS_EXECUTABLE_NAME = "process.executable.name"
PROCESS_EXIT_CODE = "process.exit.code"
NETWORK_PEER_ADDRESS = "network.peer.address"
NETWORK_PEER_PORT = "network.peer.port"
NETWORK_LOCAL_ADDRESS = "network.local.address"
NETWORK_LOCAL_PORT = "network.local.port"
NETWORK_TRANSPORT = "network.transport"
NETWORK_TYPE = "network.type"
SYSTEM_DEVICE = "system.device"
DISK_IO_DIRECTION = "disk.io.direction"
CPU_LOGICAL_NUMBER = "cpu.logical_number"
TAPIO_OUTCOME = "tapio.outcome"
TAPIO_ANOMALY_COUNT = "tapio.anomaly.count"
TAPIO_CGROUP_ID = "tapio.cgroup.id"
TAPIO_ATTRIBUTION = "tapio.attribution"
TAPIO_OBSERVER = "tapio.observer"
TAPIO_LOSS_REASON = "tapio.loss.reason"
TAPIO_ERRNO = "tapio.errno"
TAPIO_SIGNAL = "tapio.signal"
TAPIO_OOM_SCOPE = "tapio.oom.scope"
TAPIO_CONNECTION_PHASE = "tapio.connection.phase"
TAPIO_DISK_OPERATION = "tapio.disk.operation"

# Attribute of a record: the field of `data` that it is.
DATA_ATTRIBUTES = {
    "process.pid": "pid",
    "process.parent_pid": "ppid",
    "process.executable.name": "comm",
    "process.exit.code": "exit_code",
    "network.peer.address": "dst_ip",
    "network.peer.port": "dst_port",
    "network.local.address": "src_ip",
    "network.local.port": "src_port",
    "network.transport": "protocol",
    "network.type": "family",
    "system.device": "device",
    "disk.io.direction": "operation",
    "cpu.logical_number": "cpu",
    "tapio.anomaly.count": "count",
    "tapio.cgroup.id": "cgroup_id",
    "tapio.attribution": "attribution",
    "tapio.observer": "observer",
    "tapio.loss.reason": "reason",
    "tapio.errno": "errno",
    "tapio.signal": "signal",
    "tapio.oom.scope": "oom_scope",
    "tapio.connection.phase": "phase",
    "tapio.disk.operation": "operation",
}

# Attribute of a pod's resource: the field of `data` that it is.
POD_DATA = {
    "k8s.pod.uid": "pod_uid",
    "container.id": "container_id",
}

# Kind of entity: the attribute of a pod's resource that its name is.
ENTITY_NAMES = {
    "pod": "k8s.pod.name",
    "container": "k8s.container.name",
    "deployment": "k8s.deployment.name",
    "replicaset": "k8s.replicaset.name",
    "statefulset": "k8s.statefulset.name",
    "daemonset": "k8s.daemonset.name",
    "job": "k8s.job.name",
    "cronjob": "k8s.cronjob.name",
}

# Metric: its unit.
METRIC_UNITS = {
    "tapio.events": "{record}",
    "tapio.kernel.events": "{event}",
    "tapio.kernel.records": "{record}",
    "tapio.kernel.filtered": "{event}",
    "tapio.kernel.missed": "{event}",
    "tapio.kernel.overwritten": "{entry}",
    "tapio.kernel.limited": "{sample}",
    "tapio.kernel.unreadable": "{event}",
    "tapio.lost_events": "{event}",
    "tapio.canary.round_trip": "s",
    "tapio.canary.missed": "{event}",
    "tapio.suppressed_records": "{record}",
    "tapio.evicted": "{entry}",
    "tapio.anomalies": "{anomaly}",
    "tapio.invalid_anomalies": "{anomaly}",
    "tapio.enriched": "{anomaly}",
    "tapio.enrichment.not_held": "{anomaly}",
    "tapio.unattributed": "{anomaly}",
    "tapio.occurrences": "{occurrence}",
    "tapio.folded": "{anomaly}",
    "tapio.overflow_folded": "{anomaly}",
    "tapio.sink.occurrences": "{occurrence}",
    "tapio.sink.queue": "{occurrence}",
    "tapio.observer.up": "{observer}",
    "tapio.observer.off.info": "{observer}",
    "tapio.sandbox.up": "{mechanism}",
    "tapio.uncounted_cpus": "{cpu}",
    "tapio.enrichment.misses": "{anomaly}",
    "tapio.k8s.pods": "{pod}",
    "tapio.k8s.watch_up": "{watch}",
    "tapio.bpf.run": "s",
    "tapio.build.info": "{build}",
    "tapio.disk.latency": "s",
    "tapio.disk.errors": "{request}",
    "tapio.cpu.cycles": "{cycle}",
    "tapio.cpu.instructions": "{instruction}",
    "tapio.cpu.stalled_cycles": "{cycle}",
    "tapio.cpu.ipc": "1",
    "process.memory.usage": "By",
    "process.cpu.time": "s",
}

# Metric on /metrics: its OTel name.
PROMETHEUS_NAMES = {
    "tapio_events_total": "tapio.events",
    "tapio_kernel_events_total": "tapio.kernel.events",
    "tapio_kernel_records_total": "tapio.kernel.records",
    "tapio_kernel_filtered_total": "tapio.kernel.filtered",
    "tapio_kernel_missed_total": "tapio.kernel.missed",
    "tapio_kernel_overwritten_total": "tapio.kernel.overwritten",
    "tapio_kernel_limited_total": "tapio.kernel.limited",
    "tapio_kernel_unreadable_total": "tapio.kernel.unreadable",
    "tapio_lost_events_total": "tapio.lost_events",
    "tapio_canary_round_trip_seconds": "tapio.canary.round_trip",
    "tapio_canary_missed_total": "tapio.canary.missed",
    "tapio_suppressed_records_total": "tapio.suppressed_records",
    "tapio_evicted_total": "tapio.evicted",
    "tapio_anomalies_total": "tapio.anomalies",
    "tapio_invalid_anomalies_total": "tapio.invalid_anomalies",
    "tapio_enriched_total": "tapio.enriched",
    "tapio_enrichment_not_held_total": "tapio.enrichment.not_held",
    "tapio_unattributed_total": "tapio.unattributed",
    "tapio_occurrences_total": "tapio.occurrences",
    "tapio_folded_total": "tapio.folded",
    "tapio_overflow_folded_total": "tapio.overflow_folded",
    "tapio_sink_occurrences_total": "tapio.sink.occurrences",
    "tapio_sink_queue": "tapio.sink.queue",
    "tapio_observer_up": "tapio.observer.up",
    "tapio_observer_off_info": "tapio.observer.off.info",
    "tapio_sandbox_up": "tapio.sandbox.up",
    "tapio_uncounted_cpus": "tapio.uncounted_cpus",
    "tapio_enrichment_misses_total": "tapio.enrichment.misses",
    "tapio_k8s_pods": "tapio.k8s.pods",
    "tapio_k8s_watch_up": "tapio.k8s.watch_up",
    "tapio_bpf_run_seconds_total": "tapio.bpf.run",
    "tapio_build_info": "tapio.build.info",
    "tapio_disk_latency_seconds": "tapio.disk.latency",
    "tapio_disk_errors_total": "tapio.disk.errors",
    "tapio_cpu_cycles_total": "tapio.cpu.cycles",
    "tapio_cpu_instructions_total": "tapio.cpu.instructions",
    "tapio_cpu_stalled_cycles_total": "tapio.cpu.stalled_cycles",
    "tapio_cpu_ipc": "tapio.cpu.ipc",
    "process_memory_usage_bytes": "process.memory.usage",
    "process_cpu_time_seconds_total": "process.cpu.time",
}
