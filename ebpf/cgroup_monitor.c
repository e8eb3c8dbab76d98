// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Cgroups as they come and go, for enrichment: an id means nothing without its path, and a container that lives
 * for half a second is gone before anybody could look its cgroup up.
 */
#include "ring.h"

#include <bpf/bpf_core_read.h>

/* Written by the agent while it runs. */
struct settings {
	__u64 hierarchies; /* a bit for each hierarchy whose ids other records carry; 0: cgroup v2 */
} settings SEC(".data");

DEFINE_COUNTERS(cgroup_mkdir);
DEFINE_COUNTERS(cgroup_rmdir);

/* clang drops types that no global names. */
const struct cgroup_record *anchor_cgroup_record __attribute__((unused));
const enum record_kind anchor_record_kind __attribute__((unused));

static __always_inline int report(__u64 *ctx, __u32 kind, struct hook_counters *counters)
{
	struct cgroup *cgroup = (struct cgroup *)ctx[0];
	__u32 hierarchy = BPF_CORE_READ(cgroup, root, hierarchy_id);
	struct cgroup_record *record;
	struct reservation r;

	counters->hits++;
	if (hierarchy > 63 || !(settings.hierarchies & 1ULL << hierarchy)) {
		counters->filtered++;
		return 0;
	}
	r = reserve(sizeof(*record), counters, ORDINARY);
	record = r.record;
	if (!record)
		return 0;
	record->kind = kind;
	record->hierarchy = hierarchy;
	record->boot_ns = bpf_ktime_get_boot_ns();
	record->cgroup_id = BPF_CORE_READ(cgroup, kn, id);
	bpf_probe_read_kernel_str(&record->path, sizeof(record->path), (const char *)ctx[1]);
	submit(r, counters);
	return 0;
}

SEC("tp_btf/cgroup_mkdir")
int cgroup_mkdir(__u64 *ctx)
{
	return report(ctx, RECORD_CGROUP_MADE, counters_of(cgroup_mkdir_counters));
}

SEC("tp_btf/cgroup_rmdir")
int cgroup_rmdir(__u64 *ctx)
{
	return report(ctx, RECORD_CGROUP_REMOVED, counters_of(cgroup_rmdir_counters));
}

char LICENSE[] SEC("license") = "GPL";
