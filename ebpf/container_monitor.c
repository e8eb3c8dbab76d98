// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Container observer: processes that end badly, and processes that the kernel kills for memory.
 *
 * One record per *process*: threads that exit, clean exits and ignored exits never leave the kernel.
 */
#include "memcg.h"
#include "ring.h"

/*
 * What the running kernel passes to its tracepoints; the loader reads it from the kernel's BTF, because
 * distributions backport the changes and a version number tells nothing (tapio/kernel/features.py).
 */
const volatile bool process_exit_passes_group_dead = true; /* 6.16 */
const volatile bool mark_victim_passes_task = true;	   /* 6.9 */

/* Written by the agent while it runs. */
struct settings {
	__u64 ignored_exit_codes[4]; /* a bit for each exit code from 0 to 255 */
	__u64 own_pidns_inode;	     /* 0: the agent is in the initial pid namespace */
	__u32 own_pidns_device;
	__u32 own_tgid;		 /* in its own pid namespace */
	__u32 main_process_only; /* 1: a container's first process, and fatal signals */
	__u32 pad;
} settings SEC(".data");

DEFINE_COUNTERS(sched_process_exit);
DEFINE_COUNTERS(mark_victim);
DEFINE_COUNTERS(out_of_memory);

/* clang drops types that no global names. */
const struct exit_record *anchor_exit_record __attribute__((unused));
const struct oom_record *anchor_oom_record __attribute__((unused));
const enum record_kind anchor_record_kind __attribute__((unused));
const enum limit_evidence anchor_limit_evidence __attribute__((unused));

static __always_inline bool is_ignored(__u32 status, struct task_struct *task)
{
	__u32 signal = status & 0x7f;
	__u32 code = signal ? 128 + signal : (status >> 8) & 0xff;
	struct namespace_pid own;

	if (settings.ignored_exit_codes[(code >> 6) & 3] & (1ULL << (code & 63)))
		return true;
	if (!settings.main_process_only || signal)
		return false;
	own = own_namespace_pid(task);
	return own.level == 0 || own.pid != 1;
}

/*
 * Whether the agent made this process, which is the current one: its canary, which no setting may filter out. A
 * parent is in the same pid namespace as the child or in one above; the same level is the same one.
 */
static __always_inline bool is_own_child(struct task_struct *task)
{
	struct task_struct *parent = task->group_leader->real_parent;
	struct bpf_pidns_info inside = {};
	struct namespace_pid of_parent;

	if (!settings.own_pidns_inode)
		return (__u32)parent->tgid == settings.own_tgid;
	of_parent = own_namespace_pid(parent);
	return of_parent.pid == settings.own_tgid && of_parent.level == own_namespace_pid(task).level &&
	       bpf_get_ns_current_pid_tgid(settings.own_pidns_device, settings.own_pidns_inode, &inside,
					   sizeof(inside)) == 0;
}

SEC("tp_btf/sched_process_exit")
int sched_process_exit(__u64 *ctx)
{
	struct hook_counters *counters = counters_of(sched_process_exit_counters);
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct signal_struct *signal = task->signal;
	struct exit_record *record;
	struct reservation r;
	bool is_process, is_victim, is_own, ignored;
	__u32 status;

	counters->hits++;
	if (process_exit_passes_group_dead) {
		is_process = ctx[1] & 0xff;
	} else {
		/* The last two threads can both see 0 here: the decoder drops the second record. */
		is_process = signal->live.counter == 0;
	}
	if (!is_process || task->flags & PF_KTHREAD) {
		counters->filtered++;
		return 0;
	}

	if (signal->flags & SIGNAL_GROUP_EXIT)
		status = signal->group_exit_code;
	else
		status = task->group_leader->exit_code;
	/* Where marks carry only a pid, this record is all that is known of an OOM kill: it must not be ignored. */
	is_victim = signal->oom_mm != NULL;
	is_own = status && is_own_child(task);
	ignored = status && is_ignored(status, task);
	if (status == 0 || (ignored && !is_victim && !is_own)) {
		counters->filtered++;
		return 0;
	}

	r = reserve(sizeof(*record), counters, is_victim ? URGENT : ORDINARY);
	record = r.record;
	if (!record)
		return 0;
	record->kind = RECORD_EXIT;
	record->status = status;
	record->boot_ns = bpf_ktime_get_boot_ns();
	identify(&record->task, task, true);
	record->kills = kills_counted(memcg_of(memory_css(task, true)));
	record->oom_victim = is_victim;
	record->ignored = ignored;
	record->own_child = is_own;
	submit(r, counters);
	return 0;
}

static __always_inline __u64 resident_pages(struct mm_struct *mm)
{
	struct mm_struct___before_6_2 *old = (void *)mm;
	__s64 file, anon, shmem;

	if (bpf_core_field_exists(old->rss_stat.count)) {
		file = BPF_CORE_READ(old, rss_stat.count[0].counter);
		anon = BPF_CORE_READ(old, rss_stat.count[1].counter);
		shmem = BPF_CORE_READ(old, rss_stat.count[3].counter);
	} else {
		file = BPF_CORE_READ(mm, rss_stat[0].count);
		anon = BPF_CORE_READ(mm, rss_stat[1].count);
		shmem = BPF_CORE_READ(mm, rss_stat[3].count);
	}
	/* Each is a sum of per-CPU parts and can be slightly below zero. */
	return (file > 0 ? file : 0) + (anon > 0 ? anon : 0) + (shmem > 0 ? shmem : 0);
}

/* The one hook that is no tracepoint: the loader leaves it out where the kernel does not offer it. */
SEC("fentry/out_of_memory")
int out_of_memory(__u64 *ctx)
{
	struct hook_counters *counters = counters_of(out_of_memory_counters);
	struct oom_control *control = (struct oom_control *)ctx[0];

	counters->hits++;
	counters->filtered++; /* the marks tell */
	oom_decision.memcg = (__u64)BPF_CORE_READ(control, memcg);
	oom_decision.control = (__u64)control;
	oom_decision.task = bpf_get_current_task();
	return 0;
}

SEC("tp_btf/mark_victim")
int mark_victim(__u64 *ctx)
{
	struct hook_counters *counters = counters_of(mark_victim_counters);
	struct task_struct *trigger = (struct task_struct *)bpf_get_current_task();
	__u64 trigger_id = bpf_get_current_pid_tgid();
	struct task_struct *victim = NULL;
	struct oom_record *record;
	struct reservation r;

	counters->hits++;
	if (mark_victim_passes_task)
		victim = (struct task_struct *)ctx[0];
	else if ((__u32)ctx[0] == (__u32)trigger_id)
		victim = trigger;
	else if ((__u32)ctx[0] == trigger_id >> 32)
		victim = BPF_CORE_READ(trigger, group_leader);
	else
		victim = chosen_victim(trigger, ctx[0]);
	if (!victim) {
		/* Only a pid, of somebody else: the victim's exit record will tell (oom_victim). */
		counters->unreadable++;
		return 0;
	}

	r = reserve(sizeof(*record), counters, URGENT);
	record = r.record;
	if (!record)
		return 0;
	record->kind = RECORD_OOM;
	record->boot_ns = bpf_ktime_get_boot_ns();
	record->status = BPF_CORE_READ(victim, signal, group_exit_code);
	identify(&record->victim, victim, false);
	record->tid = BPF_CORE_READ(victim, pid);
	record->rss_pages = resident_pages(BPF_CORE_READ(victim, mm));
	record->oom_score_adj = BPF_CORE_READ(victim, signal, oom_score_adj);
	record->kills = kills_at_mark(victim);
	find_limit(record, victim, trigger);
	record->group_cgroup_id = dying_group(record, victim);
	record->trigger_pid = trigger_id >> 32;
	bpf_get_current_comm(&record->trigger_comm, sizeof(record->trigger_comm));
	submit(r, counters);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
