/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Who a task is and which cgroups it belongs to. */
#ifndef TAPIO_TASK_H
#define TAPIO_TASK_H

#include "events.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* The task's memory controller state, or NULL where the kernel has no memory controller. */
static __always_inline struct cgroup_subsys_state *memory_css(struct task_struct *task)
{
	struct css_set *cgroups = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state *css = NULL;
	__u64 index;

	if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return NULL;
	index = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	bpf_probe_read_kernel(&css, sizeof(css),
			      (void *)cgroups + bpf_core_field_offset(struct css_set, subsys) + index * sizeof(css));
	return css;
}

struct namespace_pid {
	__u32 pid;   /* 1: the namespace's first process, in a container its main process */
	__u32 level; /* 0: the initial namespace */
};

/* The task's pid in its own pid namespace. */
static __always_inline struct namespace_pid own_namespace_pid(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, signal, pids[PIDTYPE_TGID]);
	struct namespace_pid own = {.level = BPF_CORE_READ(pid, level)};
	struct upid number = {};

	bpf_probe_read_kernel(&number, sizeof(number),
			      (void *)pid + bpf_core_field_offset(struct pid, numbers) +
				  (__u64)(own.level & 0xff) * bpf_core_type_size(struct upid));
	own.pid = number.nr;
	return own;
}

static __always_inline void identify(struct task_identity *identity, struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct cgroup *memory = BPF_CORE_READ(memory_css(task), cgroup);
	struct namespace_pid own = own_namespace_pid(task);

	identity->start_boot_ns = BPF_CORE_READ(leader, start_boottime);
	identity->cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	identity->memory_cgroup_id = BPF_CORE_READ(memory, kn, id);
	identity->memory_hierarchy = BPF_CORE_READ(memory, root, hierarchy_id);
	identity->pid = BPF_CORE_READ(task, tgid);
	identity->ppid = BPF_CORE_READ(leader, real_parent, tgid);
	identity->uid = BPF_CORE_READ(leader, cred, uid.val);
	identity->ns_pid = own.pid;
	identity->ns_level = own.level;
	BPF_CORE_READ_STR_INTO(&identity->comm, leader, comm);
}

#endif
