// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Network observer: connections that fail, resets, retransmits, and the round-trip time of living connections.
 *
 * Healthy connections never leave the kernel, apart from one RTT sample a second. What is told from what:
 * reference in ebpf/README.md. Counting over time and the baselines are the agent's (tapio/observers/network*.py).
 */
#include "ring.h"
#include "sampler.h"

/*
 * What the running kernel passes to its tracepoints; the loader reads it from the kernel's BTF
 * (tapio/kernel/features.py).
 */
const volatile bool retransmit_passes_error = true; /* 6.17: called for failed attempts too */

#define EACCES 13
#define ETIMEDOUT 110
#define ECONNREFUSED 111
#define EHOSTDOWN 112
#define EHOSTUNREACH 113
#define ENETUNREACH 101
#define SHUTDOWN_MASK 3 /* sock.sk_shutdown: the application has closed it */

DEFINE_COUNTERS(inet_sock_set_state);
DEFINE_COUNTERS(tcp_receive_reset);
DEFINE_COUNTERS(tcp_retransmit_skb);
DEFINE_COUNTERS(tcp_probe);

/* clang drops types that no global names. */
const struct connection_failed_record *anchor_connection_failed_record __attribute__((unused));
const struct reset_record *anchor_reset_record __attribute__((unused));
const struct retransmit_record *anchor_retransmit_record __attribute__((unused));
const struct rtt_record *anchor_rtt_record __attribute__((unused));
const enum record_kind anchor_record_kind __attribute__((unused));
const enum connection_side anchor_connection_side __attribute__((unused));

static __always_inline bool is_unanswered(int error)
{
	return error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH || error == EHOSTDOWN ||
	       error == EACCES; /* ICMPv6: prohibited by a firewall */
}

/*
 * Whether the kernel, and not the application, ended it. Aborts have no error or ECONNRESET, accepted sockets that
 * never got established come from SYN_RECV, and a socket that the application closed before is nobody's loss.
 */
static __always_inline bool has_failed(struct sock *sk, int old_state, int error)
{
	if (old_state == TCP_SYN_SENT)
		return error == ECONNREFUSED || is_unanswered(error);
	return old_state != TCP_SYN_RECV && old_state != TCP_LISTEN && is_unanswered(error) &&
	       sk->sk_shutdown != SHUTDOWN_MASK;
}

static __always_inline void report_failure(struct sock *sk, int old_state, int error, struct hook_counters *counters)
{
	struct inet_connection_sock *connection = (void *)sk;
	enum urgency urgency = error == ECONNREFUSED ? ORDINARY : URGENT; /* storms are of refused ones */
	struct reservation r = reserve(sizeof(struct connection_failed_record), counters, urgency);
	struct connection_failed_record *record = r.record;
	__u8 probes;

	if (!record)
		return;
	record->kind = RECORD_CONNECTION_FAILED;
	record->error = error;
	record->boot_ns = bpf_ktime_get_boot_ns();
	identify_socket(&record->socket, sk, counters);
	record->old_state = old_state;
	if (old_state == TCP_SYN_SENT)
		record->socket.side = SIDE_CONNECTED;
	if (error != ECONNREFUSED) {
		record->retries = BPF_CORE_READ(connection, icsk_retransmits);
		probes = BPF_CORE_READ(connection, icsk_probes_out);
		if (probes > record->retries)
			record->retries = probes;
	}
	submit(r, counters);
}

SEC("tp_btf/inet_sock_set_state")
int inet_sock_set_state(__u64 *ctx)
{
	struct hook_counters *counters = counters_of(inet_sock_set_state_counters);
	struct sock *sk = (struct sock *)ctx[0];
	int old_state = ctx[1], new_state = ctx[2];
	bool is_tcp = sk && sk->sk_protocol == IPPROTO_TCP;

	counters->hits++;
	if (is_tcp && new_state == TCP_CLOSE && has_failed(sk, old_state, sk->sk_err)) {
		report_failure(sk, old_state, sk->sk_err, counters);
		forget_owner(sk, counters);
		return 0;
	}
	counters->filtered++;
	if (!is_tcp)
		return 0;
	if (new_state == TCP_SYN_SENT)
		remember_owner(sk, counters);
	else if (new_state == TCP_LISTEN)
		remember_own_listener(sk);
	else if (new_state == TCP_CLOSE || old_state == TCP_SYN_RECV)
		forget_owner(sk, counters); /* from SYN_RECV: should a CLOSE have been missed, as pointers are reused */
	return 0;
}

/*
 * Whether a reset cut something off. After the peer's FIN or our own close resets are a common way to say goodbye
 * (TLS, half-read answers).
 */
static __always_inline bool has_cut_off(struct sock *sk, __u8 state)
{
	if (state != TCP_ESTABLISHED && state != TCP_FIN_WAIT1 && state != TCP_FIN_WAIT2)
		return false;
	return sk->sk_shutdown != SHUTDOWN_MASK;
}

/* A peer that connected to us and with whom no byte was exchanged: a port scan, a load balancer's health check. */
static __always_inline bool is_silent_stranger(struct sock *sk, struct hook_counters *counters)
{
	__u64 address = address_of(sk, counters);

	if (BPF_CORE_READ((struct tcp_sock *)sk, bytes_received) || BPF_CORE_READ((struct tcp_sock *)sk, bytes_acked) ||
	    is_owned(owner_slot(address), address))
		return false;
	return socket_side(sk) != SIDE_CONNECTED;
}

SEC("tp_btf/tcp_receive_reset")
int tcp_receive_reset(__u64 *ctx)
{
	struct hook_counters *counters = counters_of(tcp_receive_reset_counters);
	struct sock *sk = (struct sock *)ctx[0];
	struct reset_record *record;
	struct reservation r;
	__u8 state;

	counters->hits++;
	if (!sk) {
		counters->filtered++;
		return 0;
	}
	state = sk->__sk_common.skc_state;
	if (!has_cut_off(sk, state) || is_silent_stranger(sk, counters)) {
		counters->filtered++;
		return 0;
	}
	r = reserve(sizeof(*record), counters, ORDINARY);
	record = r.record;
	if (!record)
		return 0;
	record->kind = RECORD_RESET;
	record->state = state;
	record->boot_ns = bpf_ktime_get_boot_ns();
	identify_socket(&record->socket, sk, counters);
	submit(r, counters);
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int tcp_retransmit_skb(__u64 *ctx)
{
	struct hook_counters *counters = counters_of(tcp_retransmit_skb_counters);
	struct sock *sk = (struct sock *)ctx[0];
	struct sk_buff *skb = (struct sk_buff *)ctx[1];
	struct tcp_sock *tcp = (void *)sk;
	struct retransmit_record *record;
	struct reservation r;
	__u8 state;

	counters->hits++;
	if (!sk || !skb) {
		counters->filtered++;
		return 0;
	}
	state = sk->__sk_common.skc_state;
	if ((retransmit_passes_error && (int)ctx[2]) || state == TCP_SYN_SENT || state == TCP_SYN_RECV) {
		counters->filtered++;
		return 0;
	}
	r = reserve(sizeof(*record), counters, ORDINARY);
	record = r.record;
	if (!record)
		return 0;
	record->kind = RECORD_RETRANSMIT;
	record->boot_ns = bpf_ktime_get_boot_ns();
	identify_socket(&record->socket, sk, counters);
	record->segments = BPF_CORE_READ((struct tcp_skb_cb *)skb->cb, tcp_gso_segs);
	record->total_retrans = BPF_CORE_READ(tcp, total_retrans);
	record->segs_out = BPF_CORE_READ(tcp, segs_out);
	record->snd_cwnd = BPF_CORE_READ(tcp, snd_cwnd);
	record->srtt_us = BPF_CORE_READ(tcp, srtt_us) >> 3;
	submit(r, counters);
	return 0;
}

SEC("tp_btf/tcp_probe")
int tcp_probe(__u64 *ctx)
{
	struct hook_counters *counters = counters_of(tcp_probe_counters);
	struct sock *sk = (struct sock *)ctx[0];
	__u64 jiffies = bpf_jiffies64();
	struct tcp_sock *tcp = (void *)sk;
	struct rtt_record *record;
	__u32 index, age, ack_delayed = 0;
	struct sample_slot *slot;
	struct reservation r;

	counters->hits++;
	if (!sk)
		goto filtered;
	index = sk->__sk_common.skc_hash & ((1 << SAMPLE_BITS) - 1);
	slot = bpf_map_lookup_elem(&samples, &index);
	if (!slot || is_later(slot->due_jiffies, jiffies) || !settings.samples_per_s)
		goto filtered;
	if (!ctx[1] || !should_sample(slot, sk, (struct sk_buff *)ctx[1], jiffies, &age, &ack_delayed, counters))
		goto filtered;
	r = reserve(sizeof(*record), counters, ORDINARY);
	record = r.record;
	if (!record)
		return 0;
	record->kind = RECORD_RTT;
	record->boot_ns = bpf_ktime_get_boot_ns() - (__u64)age * settings.jiffy_ns;
	identify_socket(&record->socket, sk, counters);
	record->srtt_us = BPF_CORE_READ(tcp, srtt_us) >> 3;
	record->rtt_us = BPF_CORE_READ(tcp, rack.rtt_us);
	record->ack_delayed = ack_delayed;
	submit(r, counters);
	return 0;
filtered:
	counters->filtered++;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
