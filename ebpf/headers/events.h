/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The only place where a record is laid out. Python reads names, offsets and sizes from the object's BTF
 * (tapio/kernel/btf.py), so nothing mirrors these structs and nothing has to be kept in step by hand.
 *
 * Rules: fixed-width fields, largest first, no implicit padding, units in the names. The first field of every
 * record is `kind`. A field that a decoder needs (tapio/observers) and does not find stops the agent at start.
 */
#ifndef TAPIO_EVENTS_H
#define TAPIO_EVENTS_H

#include "kernel.h"

#define COMM_LEN 16
#define MAX_CPUS 1024 /* the loader refuses a machine with more possible CPUs */

enum record_kind {
	RECORD_EXIT = 1,
	RECORD_OOM = 2,
	RECORD_CPU = 30,
};

/*
 * Per hook and CPU, in .bss as `<hook>_counters`. One program owns a hook's row on a CPU: no atomics needed.
 * hits = submitted + lost + filtered + unreadable.
 */
struct hook_counters {
	__u64 hits;	  /* times the program ran */
	__u64 submitted;  /* records put into the ring */
	__u64 lost;	  /* no room in the ring */
	__u64 filtered;	  /* not an anomaly, or ignored by the settings */
	__u64 unreadable; /* the kernel did not show what a record needs */
	__u64 spare[3];	  /* a cache line per CPU */
};

/* Who a task is. Ids of the initial pid namespace. */
struct task_identity {
	__u64 start_boot_ns;
	__u64 cgroup_id;	/* cgroup v2; 0: unknown */
	__u64 memory_cgroup_id; /* in the hierarchy that owns the memory controller; 0: unknown */
	__u32 memory_hierarchy; /* that hierarchy's id; 0: cgroup v2 */
	__u32 pid;		/* thread group */
	__u32 ppid;
	__u32 uid;
	__u32 ns_pid;	/* pid in its own namespace; 1: a container's first process */
	__u32 ns_level; /* 0: the initial namespace */
	char comm[COMM_LEN];
};

struct exit_record {
	__u32 kind;
	__u32 status; /* as waitpid() sees it */
	__u64 boot_ns;
	struct task_identity task;
	__s64 kills;	  /* OOM kills that its memcg has counted; -1: unknown */
	__u32 oom_victim; /* 1: the OOM killer had marked this process */
	__u32 ignored;	  /* 1: only here because of oom_victim, the settings ignore such an exit */
};

/* What is known of the limit that was hit. */
enum limit_evidence {
	LIMIT_UNKNOWN = 0, /* the kernel does not show whether, or whose, limit was hit */
	LIMIT_HIT = 1,	   /* limit_* describe the memcg whose limit was hit */
	LIMIT_NONE = 2,	   /* no limit that trigger and victim share was near: the node ran out of memory */
};

struct oom_record {
	__u32 kind;
	__u32 status; /* the group exit status at the mark: 9 for a fresh kill */
	__u64 boot_ns;
	struct task_identity victim;
	__u64 rss_pages;	 /* file, anonymous and shared memory pages of the victim */
	__u64 limit_pages;	 /* of the memcg that was hit */
	__u64 limit_usage_pages; /* of the same memcg */
	__u64 limit_cgroup_id;	 /* in the memory hierarchy */
	__u64 group_cgroup_id;	 /* the memcg with memory.oom.group that dies as a whole; 0: none */
	__s64 kills;		 /* OOM kills that the victim's memcg has counted, a fresh one included; -1: unknown */
	__u32 limit_evidence;	 /* enum limit_evidence */
	__u32 limit_level;	 /* 0: the victim's own memcg, 1: its parent, ... */
	__u32 tid;		 /* the thread that was marked */
	__u32 trigger_pid;	 /* the process whose allocation failed */
	__s32 oom_score_adj;
	__u32 pad;
	char trigger_comm[COMM_LEN];
};

/* A perf event as the kernel reads it (struct bpf_perf_event_value). Counted only while running: scale. */
struct cpu_counter {
	__u64 value;
	__u64 enabled_ns;
	__u64 running_ns; /* 0, or not growing: no data */
};

/* Totals of one CPU at one moment; what happened is the difference of two. */
struct cpu_record {
	__u32 kind;
	__u32 cpu;
	__u64 boot_ns;
	__u64 busy_samples; /* those in which the timer did not interrupt the idle task */
	struct cpu_counter cycles;
	struct cpu_counter instructions;
	struct cpu_counter stalls;
};

#endif
