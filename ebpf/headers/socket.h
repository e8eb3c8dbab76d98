/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Whose a TCP socket is.
 *
 * Most TCP events run in softirq, where the current task is whoever was interrupted. The cgroup is therefore the
 * socket's own. The pid is the one that was current at connect(), remembered until the socket closes.
 */
#ifndef TAPIO_SOCKET_H
#define TAPIO_SOCKET_H

#include "task.h"

#include <bpf/bpf_endian.h>

#define ROOT_CGROUP_ID 1
#define OWNER_BITS 15

/* Written by the agent while it runs. */
struct settings {
	__u64 own_pidns_inode; /* 0: the agent is in the initial pid namespace */
	__u32 own_pidns_device;
	__u32 own_tgid; /* in its own pid namespace */
	__u32 samples_per_s;
	__u32 sample_interval_jiffies;
	__u32 jiffies_per_s;
	__u32 jiffy_ns;
} settings SEC(".data");

/* Who connected a socket. */
struct owner {
	__u64 socket;
	__u64 cgroup_id; /* where the socket's own cgroup says nothing; 0: not needed or unknown */
	__u16 hierarchy; /* of cgroup_id */
	__u16 own;	 /* 1: the agent */
	__u32 tgid;
	char comm[COMM_LEN];
};

/*
 * A slot belongs to the socket whose pointer it holds; another one with the same hash takes it over. An array and
 * not a hash map or socket storage, because those cost more than all the rest; not in .bss, because every byte
 * that the agent maps counts as its memory.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << OWNER_BITS);
	__type(key, __u32);
	__type(value, struct owner);
} owners SEC(".maps");

/* The agent's own listening socket, /metrics, by which its accepted connections are told. */
__u64 own_listener_net SEC(".bss");
__u32 own_listener_port SEC(".bss");

/* The verifier allows no arithmetic on a pointer to a kernel object: it becomes a number by way of memory. */
static __always_inline __u64 address_of(struct sock *sk, struct hook_counters *counters)
{
	volatile __u64 *scratch = &counters->scratch;

	*scratch = (__u64)sk;
	return *scratch;
}

/* Never NULL; only the verifier does not know. */
static __always_inline struct owner *owner_slot(__u64 address)
{
	__u32 index = (address * 0x9E3779B97F4A7C15ULL) >> (64 - OWNER_BITS);

	return bpf_map_lookup_elem(&owners, &index);
}

static __always_inline bool is_owned(struct owner *owner, __u64 address)
{
	return owner && owner->socket == address;
}

static __always_inline __u64 socket_cgroup_id(struct sock *sk)
{
	struct sock___before_5_15 *old = (void *)sk;
	__u64 value;

	if (!bpf_core_field_exists(sk->sk_cgrp_data))
		return 0;
	if (bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		return sk->sk_cgrp_data.cgroup->kn->id;
	value = BPF_CORE_READ(old, sk_cgrp_data.val);
	return value && !(value & 3) ? BPF_CORE_READ((struct cgroup *)value, kn, id) : 0;
}

static __always_inline bool current_is_agent(__u32 tgid)
{
	struct bpf_pidns_info inside = {};

	if (!settings.own_pidns_inode)
		return tgid == settings.own_tgid;
	return bpf_get_ns_current_pid_tgid(settings.own_pidns_device, settings.own_pidns_inode, &inside,
					   sizeof(inside)) == 0 &&
	       inside.tgid == settings.own_tgid;
}

/* What remember_cgroup does, at ten times its cost, for kernels before 5.11. */
static __always_inline void remember_cgroup_slowly(struct owner *owner, __u64 socket_cgroup)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct cgroup *memory;

	if (!socket_cgroup)
		owner->cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	if (owner->cgroup_id > ROOT_CGROUP_ID)
		return;
	memory = BPF_CORE_READ(memory_css(task, false), cgroup);
	owner->hierarchy = BPF_CORE_READ(memory, root, hierarchy_id);
	owner->cgroup_id = owner->hierarchy ? BPF_CORE_READ(memory, kn, id) : 0;
}

/*
 * The cgroup of the current task, where the socket's is of no use: the kernel did not keep it, or it is the root,
 * which is where every socket of a host with cgroup v1 alone is. The pointers are followed as BTF-typed ones: as
 * reads of kernel memory they would take half of the time that a connect may cost.
 */
static __always_inline void remember_cgroup(struct owner *owner, __u64 socket_cgroup)
{
	struct cgroup_subsys_state *css = NULL;
	struct task_struct *task;
	struct css_set *cgroups;
	struct cgroup *memory;
	__u64 index;

	if (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)) {
		remember_cgroup_slowly(owner, socket_cgroup);
		return;
	}
	task = (struct task_struct *)bpf_get_current_task_btf();
	cgroups = task->cgroups;
	if (!socket_cgroup)
		owner->cgroup_id = cgroups->dfl_cgrp->kn->id;
	if (owner->cgroup_id > ROOT_CGROUP_ID || !bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return;
	index = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	css = *(struct cgroup_subsys_state **)((void *)cgroups + bpf_core_field_offset(struct css_set, subsys) +
					       index * sizeof(css));
	memory = css->cgroup;
	owner->hierarchy = memory->root->hierarchy_id;
	owner->cgroup_id = owner->hierarchy ? memory->kn->id : 0;
}

static __always_inline bool current_is_kernel(void)
{
	struct task_struct *task;

	if (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)) {
		task = (struct task_struct *)bpf_get_current_task();
		return BPF_CORE_READ(task, flags) & PF_KTHREAD;
	}
	task = (struct task_struct *)bpf_get_current_task_btf();
	return task->flags & PF_KTHREAD;
}

/* The helper takes a fifth of what a connect may cost. */
static __always_inline void remember_comm(struct owner *owner)
{
	struct task_struct *task;

	if (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)) {
		bpf_get_current_comm(&owner->comm, sizeof(owner->comm));
		return;
	}
	task = (struct task_struct *)bpf_get_current_task_btf();
	__builtin_memcpy(&owner->comm, task->comm, sizeof(owner->comm));
}

static __always_inline void remember_owner(struct sock *sk, struct hook_counters *counters)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	__u64 address = address_of(sk, counters);
	struct owner *owner = owner_slot(address);
	bool own = current_is_agent(tgid);
	__u64 cgroup_id;

	if (!owner)
		return;
	if (owner->socket && owner->socket != address) {
		counters->overwritten++;
		if (owner->own && !own)
			return; /* the agent must know its own connections, others only lose a pid */
	}
	owner->socket = 0;
	barrier();
	owner->own = own;
	owner->tgid = 0;
	owner->cgroup_id = 0;
	owner->hierarchy = 0;
	/* Else a further path of MPTCP, NFS: a worker connects for somebody who is not known here. */
	if (!current_is_kernel()) {
		owner->tgid = tgid;
		remember_comm(owner);
		cgroup_id = socket_cgroup_id(sk);
		if (cgroup_id <= ROOT_CGROUP_ID)
			remember_cgroup(owner, cgroup_id);
	}
	barrier();
	owner->socket = address;
}

static __always_inline void forget_owner(struct sock *sk, struct hook_counters *counters)
{
	__u64 address = address_of(sk, counters);
	struct owner *owner = owner_slot(address);

	if (is_owned(owner, address))
		owner->socket = 0;
}

static __always_inline void remember_own_listener(struct sock *sk)
{
	if (!current_is_agent(bpf_get_current_pid_tgid() >> 32))
		return;
	own_listener_net = (__u64)sk->__sk_common.skc_net.net;
	own_listener_port = sk->__sk_common.skc_num;
}

static __always_inline void copy_owner(struct socket_identity *identity, __u64 address)
{
	struct owner *owner = owner_slot(address);

	if (!is_owned(owner, address))
		return;
	identity->task_cgroup_id = owner->cgroup_id;
	identity->task_hierarchy = owner->hierarchy;
	identity->pid = owner->tgid;
	identity->own = owner->own;
	if (owner->tgid)
		__builtin_memcpy(identity->comm, owner->comm, sizeof(identity->comm));
	barrier();
	if (owner->socket == address) {
		identity->side = SIDE_CONNECTED;
		return;
	}
	/* Another CPU took the slot over in between: what was read may be a mixture. */
	identity->task_cgroup_id = 0;
	identity->task_hierarchy = 0;
	identity->pid = 0;
	identity->own = 0;
	__builtin_memset(identity->comm, 0, sizeof(identity->comm));
}

/* An accepted socket inherits the listener's backlog; a port's bucket says whether connect() made it. */
static __always_inline __u8 socket_side(struct sock *sk)
{
	struct inet_bind_bucket *bucket;

	if (sk->sk_max_ack_backlog)
		return SIDE_ACCEPTED;
	bucket = BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_bind_hash);
	if (bucket && BPF_CORE_READ(bucket, fastreuse) < 0)
		return SIDE_CONNECTED;
	return SIDE_UNKNOWN;
}

/* skc_num is 0 by the time that a socket is closed. */
static __always_inline __u16 local_port(struct sock *sk)
{
	struct tcp_sock *tcp;

	if (!bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_skc_to_tcp_sock))
		return bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
	tcp = bpf_skc_to_tcp_sock(sk);
	return tcp ? bpf_ntohs(tcp->inet_conn.icsk_inet.inet_sport) : 0;
}

static __always_inline void copy_addresses(struct socket_identity *identity, struct sock *sk)
{
	struct in6_addr peer;
	__u32 *words = (__u32 *)&peer;

	identity->peer_port = bpf_ntohs(sk->__sk_common.skc_dport);
	identity->local_port = local_port(sk);
	identity->family = sk->__sk_common.skc_family;
	if (identity->family == AF_INET6) {
		BPF_CORE_READ_INTO(&peer, sk, __sk_common.skc_v6_daddr);
		if (words[0] || words[1] || words[2] != bpf_htonl(0xffff)) {
			__builtin_memcpy(identity->peer_address, &peer, sizeof(peer));
			bpf_probe_read_kernel(identity->local_address, sizeof(identity->local_address),
					      &sk->__sk_common.skc_v6_rcv_saddr);
			return;
		}
		identity->family = AF_INET;
	}
	*(__u32 *)identity->peer_address = sk->__sk_common.skc_daddr;
	*(__u32 *)identity->local_address = sk->__sk_common.skc_rcv_saddr;
}

static __always_inline void identify_socket(struct socket_identity *identity, struct sock *sk,
					    struct hook_counters *counters)
{
	identity->cgroup_id = socket_cgroup_id(sk);
	copy_addresses(identity, sk);
	copy_owner(identity, address_of(sk, counters));
	if (identity->side == SIDE_UNKNOWN)
		identity->side = socket_side(sk);
	if (identity->side == SIDE_ACCEPTED && identity->local_port == own_listener_port &&
	    (__u64)sk->__sk_common.skc_net.net == own_listener_net)
		identity->own = 1;
}

#endif
