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
	RECORD_CONNECTION_FAILED = 10,
	RECORD_RESET = 11,
	RECORD_RETRANSMIT = 12,
	RECORD_RTT = 13,
	RECORD_REQUEST = 20,
	RECORD_CPU = 30,
	RECORD_CGROUP_MADE = 40,
	RECORD_CGROUP_REMOVED = 41,
};

/*
 * Per hook and CPU, in .bss as `<hook>_counters`. One program owns a hook's row on a CPU: no atomics needed.
 * hits = submitted + lost + filtered + unreadable, but for cpu_sample, which submits also what it could read in part.
 */
struct hook_counters {
	__u64 hits;	   /* times the program ran */
	__u64 submitted;   /* records put into the ring */
	__u64 lost;	   /* no room in the ring */
	__u64 filtered;	   /* not an anomaly, or ignored by the settings */
	__u64 unreadable;  /* the kernel did not show what a record needs */
	__u64 overwritten; /* what was remembered for a later event gave way to something newer */
	__u64 limited;	   /* of the filtered: to keep within a rate */
	__u64 woken;   /* 1: the backlog was above the quarter that wakes the agent, and this row's program woke it */
	__u64 scratch; /* of the program that owns the row */
};

/* In .bss as `<hook>_misses`, for hooks that have such: seldom, so all CPUs share them and add atomically. */
struct hook_misses {
	__u64 table_full;      /* no room in a table that a later event needs */
	__u64 unmatched;       /* the earlier event that this one belongs to was not seen */
	__u64 unseen;	       /* a run of this hook's program that the kernel left out, as a later event shows: lost */
	__u64 disk_table_full; /* no room among the disks that have counters of their own */
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
	__u32 ignored;	  /* 1: only here because of oom_victim or own_child, the settings ignore such an exit */
	__u32 own_child;  /* 1: a child of the agent */
	__u32 pad;
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

/* Which end opened a connection, if that is known: with it, which port is the service's. */
enum connection_side {
	SIDE_UNKNOWN = 0,
	SIDE_CONNECTED = 1,
	SIDE_ACCEPTED = 2,
};

/* A TCP socket and whose it is. Addresses in network order; an IPv4-mapped IPv6 address is shown as IPv4. */
struct socket_identity {
	__u64 cgroup_id;	/* cgroup v2, of the socket; 0: unknown, 1: the root */
	__u64 task_cgroup_id;	/* of the task that connected, where the socket's own says nothing; 0: unknown */
	__u32 task_hierarchy;	/* the hierarchy of task_cgroup_id; 0: cgroup v2 */
	__u32 pid;		/* the process that connected; 0: unknown */
	char comm[COMM_LEN];	/* of the thread that connected, if pid is known */
	char local_address[16]; /* the first four bytes for IPv4 */
	char peer_address[16];
	__u16 peer_port;
	__u16 family;
	__u8 side;	  /* enum connection_side */
	__u8 own;	  /* 1: a socket of the agent itself */
	__u16 local_port; /* 0: unknown */
};

struct connection_failed_record {
	__u32 kind;
	__u16 error;	/* errno */
	__u8 old_state; /* TCP_SYN_SENT, or a state of an established connection */
	__u8 retries;	/* of the segment or probe that was not answered */
	__u64 boot_ns;
	struct socket_identity socket;
};

struct reset_record {
	__u32 kind;
	__u32 state; /* in which the reset was received; never TCP_SYN_SENT */
	__u64 boot_ns;
	struct socket_identity socket;
};

struct retransmit_record {
	__u32 kind;
	__u32 segments; /* that were sent again now */
	__u64 boot_ns;
	struct socket_identity socket;
	__u32 total_retrans;
	__u32 segs_out;
	__u32 snd_cwnd;
	__u32 srtt_us;
};

struct rtt_record {
	__u32 kind;
	__u32 srtt_us;
	__u64 boot_ns; /* when the latest RTT was measured */
	struct socket_identity socket;
	__u32 rtt_us;	   /* the latest */
	__u32 ack_delayed; /* 1: the peer may have delayed the ACK of the latest */
};

#define DISK_NAME_LEN 32
#define MAX_DISKS 64 /* with counters of their own; a power of two */
#define IO_OPERATIONS 5
#define LATENCY_BUCKETS 25 /* 2 us, 4 us, ... 16.8 s, and everything above */
#define DISK_LATENCY_VALUES (IO_OPERATIONS * LATENCY_BUCKETS)

/* The operations that are told apart, as a row of `disk_io` has them. */
enum io_operation {
	IO_READ = 0,
	IO_WRITE = 1,
	IO_FLUSH = 2,
	IO_DISCARD = 3,
	IO_OTHER = 4,
};

/*
 * What one disk did so far. Written with atomic additions: several CPUs complete a disk's requests. The agent frees
 * the row of a disk that is gone: it sets everything but `claims` to 0, `disk` last (tapio/disks.py).
 */
struct disk_io {
	__u64 disk;	/* major << 32 | minor; 0: a free row */
	__u64 claims;	/* how many disks had this row so far */
	__u64 instance; /* of the disk that was seen last under this number and name */
	char name[DISK_NAME_LEN];
	__u64 latency[DISK_LATENCY_VALUES]; /* requests, by operation and bucket */
	__u64 sum_ns[IO_OPERATIONS];	    /* issue to completion */
	__u64 errors[IO_OPERATIONS];
};

/* What is known of a request; a bit each. */
enum request_facts {
	REQUEST_ISSUE_SEEN = 1,	   /* latency_ns and the issuer's fields are valid */
	REQUEST_HAS_BIO = 2,	   /* a flush has none */
	REQUEST_BLKCG_KNOWN = 4,   /* bio_cgroup_id and bio_hierarchy are valid */
	REQUEST_BLKCG_ROOT = 8,	   /* it is the root of its hierarchy */
	REQUEST_ISSUER_BLKCG = 16, /* it is also the issuer's */
	REQUEST_FOR_OTHERS = 32,   /* a kernel thread issued it, or an I/O scheduler chose it: for whom is not known */
};

/* A block request that failed or was slow. */
struct request_record {
	__u32 kind;
	__u32 facts;	  /* enum request_facts */
	__u64 boot_ns;	  /* of the completion */
	__u64 latency_ns; /* issue to completion */
	__u64 sector;
	__u64 bio_cgroup_id;	/* the block cgroup of the request's first bio */
	__u64 issuer_cgroup_id; /* cgroup v2; 0: unknown */
	__u32 bio_hierarchy;	/* of bio_cgroup_id; 0: cgroup v2 */
	__u32 bytes;
	__u32 operation; /* REQ_OP_* */
	__u32 failed;	 /* 0: slow, 1: failed */
	__u32 error;	 /* Linux errno; 0: a status whose meaning is not known */
	__u32 status;	 /* as the kernel passed it, made positive */
	__u32 major;
	__u32 minor;
	__u32 lower_major; /* the device under it, where the kernel tells; 0: unknown or none */
	__u32 lower_minor;
	__u32 pid; /* the issuer's thread group */
	__u32 pad;
	char comm[COMM_LEN];
	char device[DISK_NAME_LEN];
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

#define CGROUP_PATH_LEN 512 /* a longer path is cut off: what names pod and container is at its start */

/* A cgroup that came or went. */
struct cgroup_record {
	__u32 kind;
	__u32 hierarchy; /* 0: cgroup v2 */
	__u64 boot_ns;
	__u64 cgroup_id;
	char path[CGROUP_PATH_LEN]; /* from the root of the hierarchy, ends in a NUL */
};

#endif
