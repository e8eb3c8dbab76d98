/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Whose memory limit killed a process.
 *
 * While the kernel kills for a memcg it holds `oom_lock` on that memcg and on all below it (mm/memcontrol*.c,
 * mem_cgroup_oom_trylock), so the topmost locked ancestor of the victim is the one whose limit was hit. Usage
 * against limit alone cannot tell: a container full of page cache always runs at its limit, also when the
 * *node* runs out of memory. Kernels from 6.12 on without CONFIG_MEMCG_V1 have no such lock: there the
 * ancestor with the smallest distance to its limit is taken.
 */
#ifndef TAPIO_MEMCG_H
#define TAPIO_MEMCG_H

#include "task.h"

#define MAX_MEMCG_DEPTH 16
#define UNLIMITED_PAGES (1ULL << 46) /* PAGE_COUNTER_MAX is 2^51 with 4 KiB pages, 2^47 with 64 KiB pages */
#define NEAR_LIMIT_PAGES 128	     /* a failed charge is at most 64 pages; other CPUs may give some back */

static __always_inline struct mem_cgroup *memcg_of(struct cgroup_subsys_state *css)
{
	return css ? (void *)css - bpf_core_field_offset(struct mem_cgroup, css) : NULL;
}

/*
 * OOM kills that the victim's memcg has counted. The kernel counts a kill just before it marks the victim, in the
 * memcg of the mm's owner, so a mark that finds the count unchanged is one of a task that was already exiting.
 * Unknown (-1) where the owner is in another memcg than the victim.
 */
static __always_inline __s64 kills_seen(struct task_struct *victim)
{
	struct mem_cgroup *memcg = memcg_of(memory_css(BPF_CORE_READ(victim, mm, owner)));
	atomic_long_t kills = {};
	__u64 index;

	if (!memcg || memcg != memcg_of(memory_css(victim)) || !bpf_core_field_exists(memcg->memory_events_local) ||
	    !bpf_core_enum_value_exists(enum memcg_memory_event, MEMCG_OOM_KILL))
		return -1;
	index = bpf_core_enum_value(enum memcg_memory_event, MEMCG_OOM_KILL);
	bpf_probe_read_kernel(&kills, sizeof(kills),
			      (void *)memcg + bpf_core_field_offset(struct mem_cgroup, memory_events_local) +
				  index * sizeof(kills));
	return kills.counter;
}

/* The memcg that is nearest to its limit, if any is near: evidence only where the kernel has no oom_lock. */
static __always_inline struct mem_cgroup *nearest_to_limit(struct cgroup_subsys_state *css, __u32 *nearest_level)
{
	__s64 smallest_gap = NEAR_LIMIT_PAGES + 1;
	struct mem_cgroup *nearest = NULL;

	for (__u32 level = 0; level < MAX_MEMCG_DEPTH && css; level++) {
		struct mem_cgroup *memcg = memcg_of(css);
		__u64 max = BPF_CORE_READ(memcg, memory.max);
		__s64 gap = max - BPF_CORE_READ(memcg, memory.usage.counter);

		if (max < UNLIMITED_PAGES && gap < smallest_gap) {
			smallest_gap = gap;
			nearest = memcg;
			*nearest_level = level;
		}
		css = BPF_CORE_READ(css, parent);
	}
	return nearest;
}

static __always_inline void find_limit(struct oom_record *record, struct task_struct *victim)
{
	struct cgroup_subsys_state *css = memory_css(victim);
	struct mem_cgroup *hit = NULL;
	__u32 level = 0;

	if (bpf_core_field_exists(struct mem_cgroup, oom_lock)) {
		struct cgroup_subsys_state *above = css;

		for (__u32 i = 0; i < MAX_MEMCG_DEPTH && above; i++) {
			if (!BPF_CORE_READ(memcg_of(above), oom_lock))
				break;
			hit = memcg_of(above);
			level = i;
			above = BPF_CORE_READ(above, parent);
		}
		if (!hit)
			record->limit_evidence = nearest_to_limit(css, &level) ? LIMIT_UNKNOWN : LIMIT_NONE;
	} else {
		hit = nearest_to_limit(css, &level);
		if (!hit)
			record->limit_evidence = LIMIT_NONE;
	}
	if (!hit)
		return;
	record->limit_evidence = LIMIT_HIT;
	record->limit_level = level;
	record->limit_pages = BPF_CORE_READ(hit, memory.max);
	record->limit_usage_pages = BPF_CORE_READ(hit, memory.usage.counter);
	record->limit_cgroup_id = BPF_CORE_READ(hit, css.cgroup, kn, id);
}

/* The highest memcg with memory.oom.group between the victim and the limit that was hit: it dies as a whole. */
static __always_inline __u64 dying_group(struct oom_record *record, struct task_struct *victim)
{
	struct cgroup_subsys_state *css = memory_css(victim);
	struct mem_cgroup *group = NULL;

	if (record->victim.memory_hierarchy != 0) /* cgroup v1 has no group kill */
		return 0;
	for (__u32 level = 0; level < MAX_MEMCG_DEPTH && css; level++) {
		if (record->limit_evidence == LIMIT_HIT && level > record->limit_level)
			break;
		if (BPF_CORE_READ(memcg_of(css), oom_group))
			group = memcg_of(css);
		css = BPF_CORE_READ(css, parent);
	}
	return BPF_CORE_READ(group, css.cgroup, kn, id);
}

#endif
