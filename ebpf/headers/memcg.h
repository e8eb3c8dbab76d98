/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Whose memory limit killed a process, as far as the kernel shows it.
 *
 * The tracepoint names only the victim. The kernel's out_of_memory() is told for which memcg it is to kill, and marks
 * its victims before it returns, one call at a time under a lock of its own. Where its entry can be watched, that is
 * the answer. It cannot on arm64 before 6.4, nor without CONFIG_FUNCTION_TRACER. There it is put together:
 *
 * The memcg that ran into its limit is an ancestor of the victim *and* of the task whose allocation failed (or one of
 * them itself). While the kernel kills for it, it usually holds `oom_lock` on it and on all below it
 * (mem_cgroup_oom_trylock), so the topmost locked common ancestor is taken.
 *
 * No lock does not mean that no limit was hit: a second thread that runs into the same limit fails to take the lock
 * and kills all the same. Nor does usage near a limit mean that it was hit: a container full of page cache is always
 * near its limit, also when the node runs out of memory. Without a lock the answer is therefore "unknown" as long as
 * some shared limit is not far away. That is always so on kernels from 6.12 on without CONFIG_MEMCG_V1, which have
 * no such lock. Two limits that are hit at the same moment can be mistaken for each other.
 */
#ifndef TAPIO_MEMCG_H
#define TAPIO_MEMCG_H

#include "task.h"

#define MAX_MEMCG_DEPTH 32
#define UNLIMITED_PAGES (1ULL << 46) /* PAGE_COUNTER_MAX is 2^51 with 4 KiB pages, 2^47 with 64 KiB pages */

/* Set by the loader: with cgroup_disable=memory the kernel counts no kills (tapio/kernel/features.py). */
const volatile bool memory_controller_disabled = false;

static __always_inline struct mem_cgroup *memcg_of(struct cgroup_subsys_state *css)
{
	return css ? (void *)css - bpf_core_field_offset(struct mem_cgroup, css) : NULL;
}

/* OOM kills that a memcg has counted; -1: unknown. */
static __always_inline __s64 kills_counted(struct mem_cgroup *memcg)
{
	atomic_long_t kills = {};
	__u64 index;

	if (!memcg || memory_controller_disabled || !bpf_core_field_exists(memcg->memory_events_local) ||
	    !bpf_core_enum_value_exists(enum memcg_memory_event, MEMCG_OOM_KILL))
		return -1;
	index = bpf_core_enum_value(enum memcg_memory_event, MEMCG_OOM_KILL);
	bpf_probe_read_kernel(&kills, sizeof(kills),
			      (void *)memcg + bpf_core_field_offset(struct mem_cgroup, memory_events_local) +
				  index * sizeof(kills));
	return kills.counter;
}

/*
 * The same at a mark. The kernel counts a kill just before it marks the victim, in the memcg of the mm's owner, so
 * a mark that finds the count unchanged is one of a task that was exiting anyway. Unknown where the owner is in
 * another memcg than the victim.
 */
static __always_inline __s64 kills_at_mark(struct task_struct *victim)
{
	struct mem_cgroup *memcg = memcg_of(memory_css(victim, false));

	if (memcg != memcg_of(memory_css(BPF_CORE_READ(victim, mm, owner), false)))
		return -1;
	return kills_counted(memcg);
}

/* The lowest common ancestor of two controller states, or NULL. `climbed`: how far above `a` it is. */
static __always_inline struct cgroup_subsys_state *common_ancestor(struct cgroup_subsys_state *a,
								   struct cgroup_subsys_state *b, __u32 *climbed)
{
	for (int i = 0; i < 2 * MAX_MEMCG_DEPTH && a && b; i++) {
		if (a == b)
			return a;
		if (BPF_CORE_READ(a, cgroup, level) >= BPF_CORE_READ(b, cgroup, level)) {
			a = BPF_CORE_READ(a, parent);
			(*climbed)++;
		} else {
			b = BPF_CORE_READ(b, parent);
		}
	}
	return NULL;
}

/* The call of out_of_memory() that was entered last; the kernel lets in one at a time. */
struct {
	__u64 task; /* 0: none yet, or its entry cannot be watched */
	__u64 memcg;
	__u64 control; /* struct oom_control, which lives as long as the call */
} oom_decision SEC(".bss");

/* The task that the current call has chosen, if that is its pid: a group's further victims are not chosen. */
static __always_inline struct task_struct *chosen_victim(struct task_struct *trigger, __u32 pid)
{
	struct oom_control *control = (void *)oom_decision.control;
	struct task_struct *chosen;

	if (oom_decision.task != (__u64)trigger)
		return NULL;
	chosen = BPF_CORE_READ(control, chosen);
	return chosen && (__u32)BPF_CORE_READ(chosen, pid) == pid ? chosen : NULL;
}

static __always_inline void tell_limit(struct oom_record *record, struct mem_cgroup *hit, __u32 level)
{
	if (BPF_CORE_READ(hit, memory.max) >= UNLIMITED_PAGES)
		return; /* cgroup v1 has other limits: of memory and swap, of kernel memory */
	record->limit_evidence = LIMIT_HIT;
	record->limit_level = level;
	record->limit_pages = BPF_CORE_READ(hit, memory.max);
	record->limit_usage_pages = BPF_CORE_READ(hit, memory.usage.counter);
	record->limit_cgroup_id = BPF_CORE_READ(hit, css.cgroup, kn, id);
}

static __always_inline void tell_decided_limit(struct oom_record *record, struct task_struct *victim)
{
	struct cgroup_subsys_state *css = memory_css(victim, false);

	if (!oom_decision.memcg) {
		record->limit_evidence = LIMIT_NONE;
		return;
	}
	for (__u32 level = 0; level < MAX_MEMCG_DEPTH && css; level++) {
		if ((__u64)memcg_of(css) == oom_decision.memcg) {
			tell_limit(record, memcg_of(css), level);
			return;
		}
		css = BPF_CORE_READ(css, parent);
	}
}

static __always_inline void find_limit(struct oom_record *record, struct task_struct *victim,
				       struct task_struct *trigger)
{
	struct cgroup_subsys_state *css;
	struct mem_cgroup *hit = NULL;
	bool is_locked = true, is_far = true;
	__u32 level = 0, hit_level = 0;

	if (oom_decision.task == (__u64)trigger) {
		tell_decided_limit(record, victim);
		return;
	}
	css = common_ancestor(memory_css(victim, false), memory_css(trigger, false), &level);
	if (!css)
		return;
	for (int i = 0; i < MAX_MEMCG_DEPTH && css; i++, level++) {
		struct mem_cgroup *memcg = memcg_of(css);
		__u64 max = BPF_CORE_READ(memcg, memory.max);
		__u64 usage = BPF_CORE_READ(memcg, memory.usage.counter);

		is_locked = is_locked && bpf_core_field_exists(memcg->oom_lock) && BPF_CORE_READ(memcg, oom_lock);
		if (is_locked) {
			hit = memcg;
			hit_level = level;
		}
		if (max < UNLIMITED_PAGES && usage + max / 8 > max)
			is_far = false;
		css = BPF_CORE_READ(css, parent);
	}
	if (css) /* nested deeper than anything sane */
		return;
	if (hit)
		tell_limit(record, hit, hit_level);
	else if (is_far)
		record->limit_evidence = LIMIT_NONE;
}

/* The highest memcg with memory.oom.group between the victim and the limit that was hit: it dies as a whole. */
static __always_inline __u64 dying_group(struct oom_record *record, struct task_struct *victim)
{
	struct cgroup_subsys_state *css = memory_css(victim, false);
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
