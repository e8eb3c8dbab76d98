// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Storage observer: block requests that fail or that take long, and what each disk does.
 *
 * A request is remembered when the driver gets it and looked up when it completes, by its address: addresses of
 * live requests are unique, while device and sector are not. A request that comes back and is issued again
 * is timed anew. Only failed and slow requests leave the kernel; all are counted in `disks`.
 */
#include "block.h"
#include "disks.h"
#include "ring.h"

/* Read by the loader from the kernel's BTF (tapio/kernel/features.py). */
const volatile bool issue_passes_queue = false; /* until 5.11, and not in distributions that backported */

/* Written by the agent while it runs. */
struct settings {
	__u64 slow_ns;	   /* the lowest threshold of any disk */
	__u64 keep_issues; /* how many entries of `in_flight` may stay when their request is done */
} settings SEC(".data") = {.slow_ns = 50 * 1000 * 1000}; /* until the agent has written its own */

DEFINE_COUNTERS(block_rq_issue);
DEFINE_COUNTERS(block_rq_complete);
DEFINE_MISSES(block_rq_issue);
DEFINE_MISSES(block_rq_complete);

/* clang drops types that no global names. */
const struct request_record *anchor_request_record __attribute__((unused));
const enum record_kind anchor_record_kind __attribute__((unused));
const enum request_facts anchor_request_facts __attribute__((unused));

struct issue {
	__u64 issue_ns; /* monotonic: a suspended machine is not a slow disk; 0: the request is not in flight */
	struct cgroup_subsys_state *issuer_css;
	__u64 issuer_cgroup_id;
	__u64 sector;
	__u32 bytes;
	__u32 pid;
	__u32 for_others;
	char comm[COMM_LEN];
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192); /* the loader sets it from the configuration */
	__type(key, __u64);	   /* the address of the request */
	__type(value, struct issue);
} in_flight SEC(".maps");

__u64 issues_kept SEC(".bss"); /* entries of `in_flight` */

/*
 * Who issues, read through typed pointers where the kernel hands out the current task as one: on 6.18 that takes
 * 190 ns less than copying each field.
 */
static __always_inline void identify_issuer(struct issue *issue)
{
	bool has_io = bpf_core_enum_value_exists(enum cgroup_subsys_id, io_cgrp_id);
	__u64 io = has_io ? bpf_core_enum_value(enum cgroup_subsys_id, io_cgrp_id) * sizeof(void *) : 0;
	struct cgroup_subsys_state **css;
	struct task_struct *task;
	struct css_set *cgroups;

	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)) {
		task = bpf_get_current_task_btf();
		cgroups = task->cgroups;
		css = (void *)cgroups + bpf_core_field_offset(struct css_set, subsys) + io;
		issue->issuer_css = has_io ? *css : NULL;
		issue->issuer_cgroup_id = cgroups->dfl_cgrp->kn->id;
		issue->pid = task->tgid;
		issue->for_others = (task->flags & PF_KTHREAD) != 0;
		__builtin_memcpy(&issue->comm, task->comm, sizeof(issue->comm));
	} else {
		task = (struct task_struct *)bpf_get_current_task();
		cgroups = BPF_CORE_READ(task, cgroups);
		if (has_io)
			bpf_probe_read_kernel(&issue->issuer_css, sizeof(issue->issuer_css),
					      (void *)cgroups + bpf_core_field_offset(struct css_set, subsys) + io);
		issue->issuer_cgroup_id = BPF_CORE_READ(cgroups, dfl_cgrp, kn, id);
		issue->pid = BPF_CORE_READ(task, tgid);
		issue->for_others = (BPF_CORE_READ(task, flags) & PF_KTHREAD) != 0;
		bpf_get_current_comm(&issue->comm, sizeof(issue->comm));
	}
}

static __always_inline void add(__u64 key, struct issue *issue)
{
	if (bpf_map_update_elem(&in_flight, &key, issue, BPF_ANY))
		__sync_fetch_and_add(&block_rq_issue_misses.table_full, 1);
	else
		__sync_fetch_and_add(&issues_kept, 1);
}

/*
 * An entry of another request, which had the same memory: this one was never issued before (its deadline is set right
 * after that), or is younger. The other has ended, and no program was run for it: whether it failed is not known, so it
 * counts as lost. Its memory may also have been freed without an end, when a driver sent it back and it was merged into
 * another: seldom, and it would count, too.
 */
static __always_inline void drop_left_over(struct request *rq, struct issue *known)
{
	if (known->issue_ns && (!rq->deadline || rq->start_time_ns > known->issue_ns)) {
		__sync_fetch_and_add(&block_rq_complete_misses.unseen, 1);
		known->issue_ns = 0;
	}
}

/*
 * Drivers use the same requests again and again. Writing over an entry takes 250 ns less than adding and deleting
 * one, so entries stay as long as half of the table is left for requests that are new.
 */
static __always_inline void forget(__u64 key, struct issue *known)
{
	if (issues_kept <= settings.keep_issues)
		known->issue_ns = 0;
	else if (!bpf_map_delete_elem(&in_flight, &key))
		__sync_fetch_and_add(&issues_kept, -1);
}

struct completion {
	struct request *rq;
	struct gendisk *disk;
	struct issue *issue;
	__u64 now_ns; /* monotonic */
	__u64 latency_ns;
	__s32 status;
	__u32 error;
	__u32 bytes;
	bool failed;
};

static __always_inline void report(struct completion *done, struct hook_counters *counters)
{
	struct reservation r = reserve(sizeof(struct request_record), counters, done->failed ? URGENT : ORDINARY);
	struct request_record *record = r.record;
	struct gendisk *disk = done->disk;
	struct issue *issue = done->issue;
	struct request *rq = done->rq;

	if (!record)
		return;
	record->kind = RECORD_REQUEST;
	record->boot_ns = bpf_ktime_get_boot_ns() - (bpf_ktime_get_ns() - done->now_ns);
	record->operation = BPF_CORE_READ(rq, cmd_flags) & REQ_OP_MASK;
	record->failed = done->failed;
	record->error = done->error;
	record->status = done->status < 0 ? -done->status : done->status;
	record->major = BPF_CORE_READ(disk, major);
	record->minor = BPF_CORE_READ(disk, first_minor);
	BPF_CORE_READ_STR_INTO(&record->device, disk, disk_name);
	find_lower(record, disk);
	record->sector = BPF_CORE_READ(rq, __sector);
	record->bytes = done->bytes;
	if (issue) {
		record->facts = REQUEST_ISSUE_SEEN;
		if (issue->for_others)
			record->facts |= REQUEST_FOR_OTHERS;
		record->latency_ns = done->latency_ns;
		if (!done->failed) { /* a failed part has a place of its own */
			record->sector = issue->sector;
			record->bytes = issue->bytes;
		}
		record->issuer_cgroup_id = issue->issuer_cgroup_id;
		record->pid = issue->pid;
		__builtin_memcpy(&record->comm, &issue->comm, sizeof(record->comm));
	}
	blame(record, rq, issue ? issue->issuer_css : NULL);
	submit(r, counters);
}

/* The first program of the object, so attached first: whatever is seen to be issued is seen to complete. */
SEC("tp_btf/block_rq_complete")
int block_rq_complete(__u64 *ctx)
{
	struct hook_counters *counters = counters_of(block_rq_complete_counters);
	struct completion done = {.rq = (struct request *)ctx[0], .status = (__s32)ctx[1], .bytes = (__u32)ctx[2]};
	__u64 key = (__u64)done.rq;
	struct issue *known;
	__u32 operation;
	bool last, slow;

	counters->hits++;
	operation = done.rq->cmd_flags & REQ_OP_MASK;
	if (operation >= REQ_OP_PASSTHROUGH) {
		counters->filtered++;
		return 0;
	}
	known = bpf_map_lookup_elem(&in_flight, &key);
	if (known) {
		drop_left_over(done.rq, known);
		if (known->issue_ns)
			done.issue = known;
	}
	/*
	 * A write with a flush before or after it, and a lone flush, end with a completion of their own that moved no
	 * data and was never issued: its parts were, and each was seen.
	 */
	if (!done.issue && !done.bytes) {
		counters->filtered++;
		return 0;
	}
	done.now_ns = bpf_ktime_get_ns();
	if (!done.issue)
		__sync_fetch_and_add(&block_rq_complete_misses.unmatched, 1);
	else
		done.latency_ns = done.now_ns - done.issue->issue_ns;

	done.error = done.status ? errno_of(done.status) : 0;
	/* EAGAIN answers a request that asked not to wait. */
	done.failed = done.status && done.error != EAGAIN && !is_unsupported(operation, done.error);
	last = done.bytes >= done.rq->__data_len;
	slow = done.issue && last && done.latency_ns >= settings.slow_ns;
	done.disk = disk_of(done.rq);
	if (done.issue || done.failed)
		count_request(done.disk, io_operation_of(operation), done.issue && last, done.latency_ns, done.failed,
			      &block_rq_complete_misses);
	if (done.failed || slow)
		report(&done, counters);
	else
		counters->filtered++;
	if (last && known)
		forget(key, known);
	return 0;
}

SEC("tp_btf/block_rq_issue")
int block_rq_issue(__u64 *ctx)
{
	struct hook_counters *counters = counters_of(block_rq_issue_counters);
	struct issue *known, *issue, fresh = {};
	struct request *rq;
	__u64 key;

	counters->hits++;
	counters->filtered++; /* it leaves when it completes, if at all */
	if (issue_passes_queue)
		rq = (struct request *)ctx[1];
	else
		rq = (struct request *)ctx[0];
	if ((rq->cmd_flags & REQ_OP_MASK) >= REQ_OP_PASSTHROUGH)
		return 0;
	key = (__u64)rq;
	known = bpf_map_lookup_elem(&in_flight, &key);
	issue = known ? known : &fresh;
	if (known)
		drop_left_over(rq, known);
	/* The driver may have sent it back. Mostly a kernel worker issues it again: it stays the first issuer's. */
	if (!issue->issue_ns) {
		identify_issuer(issue);
		/* A scheduler hands out what others have queued to whoever comes to dispatch. */
		if (rq->q->elevator)
			issue->for_others = 1;
	}
	issue->sector = rq->__sector;
	issue->bytes = rq->__data_len;
	issue->issue_ns = bpf_ktime_get_ns();
	if (!known)
		add(key, &fresh);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
