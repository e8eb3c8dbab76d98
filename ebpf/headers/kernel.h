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
enum bpf_func_id { BPF_FUNC_skc_to_tcp_sock = 137 /* 5.9 */, BPF_FUNC_get_current_task_btf = 158 /* 5.11 */ };
enum { AF_INET = 2, AF_INET6 = 10, IPPROTO_TCP = 6 };
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_SYN_RECV = 3,
	TCP_FIN_WAIT1 = 4,
	TCP_FIN_WAIT2 = 5,
	TCP_CLOSE = 7,
	TCP_CLOSE_WAIT = 8,
	TCP_LISTEN = 10,
};

struct bpf_pidns_info {
	__u32 pid;
	__u32 tgid;
};
enum { BPF_ANY = 0, BPF_NOEXIST = 1 };

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

enum cgroup_subsys_id { memory_cgrp_id = 4, io_cgrp_id = 5 };

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

struct oom_control {
	struct mem_cgroup *memcg; /* whose limit was hit; NULL: the node is out of memory */
	struct task_struct *chosen;
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

struct in6_addr {
	__u8 in6_u[16];
};

struct net;

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	unsigned int skc_hash;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock_cgroup_data {
	struct cgroup *cgroup; /* since 5.15 (8520e224f547) */
};

struct sock {
	struct sock_common __sk_common;
	int sk_err;
	__u16 sk_protocol;
	__u8 sk_shutdown;
	__u32 sk_max_ack_backlog;
	struct sock_cgroup_data sk_cgrp_data;
};

struct sock_cgroup_data___before_5_15 {
	__u64 val; /* a pointer to the cgroup; 0 or one of the two low bits set: none */
};

struct sock___before_5_15 {
	struct sock_cgroup_data___before_5_15 sk_cgrp_data;
};

struct inet_sock {
	struct sock sk;
	__be16 inet_sport;
};

struct inet_bind_bucket {
	signed char fastreuse; /* -1: made by connect() */
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct inet_bind_bucket *icsk_bind_hash;
	__u8 icsk_retransmits;
	__u8 icsk_probes_out;
};

struct tcp_rack {
	__u32 rtt_us; /* of the newest segment that the latest ACK acknowledged */
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 snd_una;
	__u32 snd_nxt;
	__u32 mss_cache;
	__u32 srtt_us; /* eight times the smoothed RTT */
	__u32 snd_cwnd;
	__u32 segs_out;
	__u32 total_retrans;
	__u64 bytes_received;
	__u64 bytes_acked;
	struct tcp_rack rack;
};

struct sk_buff {
	char cb[48];
};

struct tcp_skb_cb { /* what TCP keeps in sk_buff.cb */
	__u32 ack_seq;
	__u16 tcp_gso_segs;
};

/* The block layer. */

struct gendisk {
	int major;
	int first_minor;
	char disk_name[32];
	__u64 diskseq; /* since 5.15 (cf179948554a): another number for each disk, and for each attachment of a loop */
	void *private_data;
};

struct elevator_queue;

struct request_queue {
	struct elevator_queue *elevator; /* NULL: no I/O scheduler */
	struct gendisk *disk;		 /* since 5.15 (d152c682f03c) */
};

struct blkcg {
	struct cgroup_subsys_state css;
};

struct blkcg_gq {
	struct blkcg *blkcg;
};

struct bio {
	struct blkcg_gq *bi_blkg; /* only with CONFIG_BLK_CGROUP */
};

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	unsigned int __data_len;
	__u64 __sector;
	struct bio *bio;
	__u64 start_time_ns;	/* 0 where the disk keeps no statistics; may be that of the plug's first request */
	unsigned long deadline; /* 0 until it has been issued */
};

struct request___before_5_17 {
	struct gendisk *rq_disk; /* until f3fa33acca9f */
};

struct block_device {
	struct gendisk *bd_disk;
};

struct super_block {
	struct block_device *s_bdev;
};

struct inode {
	unsigned short i_mode;
	unsigned int i_rdev;
	struct super_block *i_sb;
};

struct file {
	struct inode *f_inode;
};

struct loop_device { /* private to drivers/block/loop.c; absent while its module is not loaded */
	struct file *lo_backing_file;
};

enum rqf_flags { __RQF_STARTED = 0 }; /* since 6.11 (5f89154e8e9e) */

struct gendisk___since_6_10 {
	void *zone_wplugs_hash; /* dd291d77cc90, with CONFIG_BLK_DEV_ZONED */
};

#pragma clang attribute pop

#endif
