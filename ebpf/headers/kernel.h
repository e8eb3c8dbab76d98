/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The few kernel types that Tapio's programs read, with just the fields they use. CO-RE finds the true
 * offsets in the running kernel's BTF, so order and completeness do not matter here, names and types do.
 * Add a field when a program needs it; cite the commit when a kernel renamed or moved it.
 *
 * Every type here exists in every supported kernel. For a type that does not, libbpf searches the BTF of all
 * modules, which takes CAP_SYS_ADMIN: test a field of a type that exists (a ___flavour of it) instead.
 */
#ifndef TAPIO_KERNEL_H
#define TAPIO_KERNEL_H

typedef signed char __s8;
typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

/* UAPI values, fixed for ever. */
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_RINGBUF = 27 };
enum { BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };
enum { BPF_RB_AVAIL_DATA = 0 };

#define PF_KTHREAD 0x00200000 /* task_struct.flags: a kernel thread */
#define SIGNAL_GROUP_EXIT 4   /* signal_struct.flags: group_exit_code holds the code of the whole process */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	__s64 counter;
} atomic_long_t;

struct kernfs_node {
	__u64 id; /* the inode number of the cgroup's directory */
};

struct cgroup_root {
	int hierarchy_id; /* 0 is cgroup v2 */
};

struct cgroup {
	int level; /* 0: the root */
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};

enum cgroup_subsys_id { memory_cgrp_id = 4 };

struct css_set {
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp;
};

struct page_counter {
	atomic_long_t usage;
	unsigned long max;
};

enum memcg_memory_event { MEMCG_OOM_KILL = 4 };

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
	bool oom_group;
	bool oom_lock; /* absent from 6.12 on without CONFIG_MEMCG_V1 */
	atomic_long_t memory_events_local[1];
};

struct percpu_counter {
	__s64 count;
};

struct task_struct;

struct mm_struct {
	struct task_struct *owner;
	struct percpu_counter rss_stat[4]; /* since 6.2 (f1a7941243c1); file, anon, swap, shmem */
};

struct mm_rss_stat { /* until 6.2 */
	atomic_long_t count[4];
};

struct mm_struct___before_6_2 {
	struct mm_rss_stat rss_stat;
};

struct upid {
	int nr;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

enum pid_type { PIDTYPE_TGID = 1 };

struct signal_struct {
	atomic_t live;
	int group_exit_code;
	unsigned int flags;
	struct pid *pids[4];
	struct mm_struct *oom_mm;
	short oom_score_adj;
};

typedef struct {
	__u32 val;
} kuid_t;

struct cred {
	kuid_t uid;
};

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	int exit_code;
	__u64 start_boottime; /* real_start_time until 5.5 */
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct signal_struct *signal;
	struct mm_struct *mm;
	struct css_set *cgroups;
	const struct cred *cred;
	char comm[16];
};

#pragma clang attribute pop

#endif
