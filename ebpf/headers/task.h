/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Who a task is and which cgroups it belongs to. */
#ifndef TAPIO_TASK_H
#define TAPIO_TASK_H

#include "events.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/*
 * What `direct` reads, or by BPF_CORE_READ. A pointer whose type the verifier knows, such as a tracepoint's argument,
 * can be read directly, which takes a fraction of the time; `typed`, a constant, says whether this is one.
 */
#define READ_TASK(typed, direct, ...) ((typed) ? (direct) : BPF_CORE_READ(__VA_ARGS__))

/* The task's memory controller state, or NULL where the kernel has no memory controller. */
static __always_inline struct cgroup_subsys_state *memory_css(struct task_struct *task, bool typed)
{
	struct css_set *cgroups = READ_TASK(typed, task->cgroups, task, cgroups);
	struct cgroup_subsys_state *css = NULL, **known;
	__u64 index;

	if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return NULL;
	index = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	known = (void *)cgroups + bpf_core_field_offset(struct css_set, subsys) + index * sizeof(css);
	if (typed)
		return *known;
	bpf_probe_read_kernel(&css, sizeof(css), known);
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

static __always_inline void identify(struct task_identity *identity, struct task_struct *task, bool typed)
{
	struct task_struct *leader = READ_TASK(typed, task->group_leader, task, group_leader);
	struct cgroup_subsys_state *css = memory_css(task, typed);
	struct namespace_pid own = own_namespace_pid(task);

	identity->start_boot_ns = READ_TASK(typed, leader->start_boottime, leader, start_boottime);
	identity->cgroup_id = READ_TASK(typed, task->cgroups->dfl_cgrp->kn->id, task, cgroups, dfl_cgrp, kn, id);
	if (css) {
		identity->memory_cgroup_id = READ_TASK(typed, css->cgroup->kn->id, css, cgroup, kn, id);
		identity->memory_hierarchy =
		    READ_TASK(typed, css->cgroup->root->hierarchy_id, css, cgroup, root, hierarchy_id);
	}
	identity->pid = READ_TASK(typed, task->tgid, task, tgid);
	identity->ppid = READ_TASK(typed, leader->real_parent->tgid, leader, real_parent, tgid);
	identity->uid = READ_TASK(typed, leader->cred->uid.val, leader, cred, uid.val);
	identity->ns_pid = own.pid;
	identity->ns_level = own.level;
	if (typed)
		__builtin_memcpy(&identity->comm, leader->comm, sizeof(identity->comm));
	else
		BPF_CORE_READ_STR_INTO(&identity->comm, leader, comm);
}

#endif
