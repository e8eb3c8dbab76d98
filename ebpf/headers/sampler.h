/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * When to look at a connection's round-trip time.
 *
 * tcp_probe fires for each segment that a connection receives, before the segment is processed. A sample takes
 * two of them: the first one shows whether its ACK may have been delayed by the peer, and the second one finds the
 * RTT that was measured from that ACK. In between and until the next sample is due, a hit costs one comparison.
 */
#ifndef TAPIO_SAMPLER_H
#define TAPIO_SAMPLER_H

#include "socket.h"

#define SAMPLE_BITS 15
#define STALE_INTERVALS 60 /* an ACK that no further segment followed for so long is given up */
#define ACK_DELAYED 1u
#define RETRY_DIVISOR 8 /* of the interval: when to look again after a segment that acknowledged nothing */

/* Direct-mapped by the socket's hash, which differs for the two ends of a loopback connection. */
struct sample_slot {
	__u32 due_jiffies;
	__u32 armed; /* hash of the connection whose ACK was seen; the lowest bit is ACK_DELAYED; 0: none */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << SAMPLE_BITS);
	__type(key, __u32);
	__type(value, struct sample_slot);
} samples SEC(".maps");

/* Jiffies wrap, and a fresh slot holds 0: only what lies in the near future is later. */
static __always_inline bool is_later(__u32 due_jiffies, __u32 now_jiffies)
{
	return due_jiffies - now_jiffies - 1 < 2 * settings.sample_interval_jiffies;
}

/* Samples of all CPUs in the current second. A race may let a sample more through, never block one for long. */
struct {
	__u64 second;
	__u64 taken;
} sample_budget SEC(".bss");

static __always_inline bool within_budget(__u64 jiffies)
{
	__u64 second = jiffies / (settings.jiffies_per_s ?: 1);

	if (sample_budget.second != second) {
		sample_budget.second = second;
		sample_budget.taken = 0;
	}
	if (sample_budget.taken >= settings.samples_per_s)
		return false;
	__sync_fetch_and_add(&sample_budget.taken, 1);
	return true;
}

/*
 * Linux acknowledges at once what exceeds one segment, and may delay the ACK of anything less for up to 40 ms, in
 * the hope that the application answers. False when the segment acknowledges nothing new.
 */
static __always_inline bool look_at_ack(struct sock *sk, struct sk_buff *skb, __u32 *ack_delayed)
{
	struct tcp_sock *tcp = (void *)sk;
	__u32 ack = BPF_CORE_READ((struct tcp_skb_cb *)skb->cb, ack_seq);
	__u32 acked = ack - BPF_CORE_READ(tcp, snd_una);
	__u32 sent = BPF_CORE_READ(tcp, snd_nxt);

	if ((__s32)acked <= 0 || (__s32)(sent - ack) < 0)
		return false;
	*ack_delayed = ack == sent && acked <= BPF_CORE_READ(tcp, mss_cache) ? ACK_DELAYED : 0;
	return true;
}

/*
 * Called when the slot is due. Whether a sample is to be taken now; then `*age_jiffies` says how old it is and
 * `*ack_delayed` belongs to it. The segment that completes one sample can begin the next, so that a connection
 * with one segment a second is sampled every second, too.
 */
static __always_inline bool should_sample(struct sample_slot *slot, struct sock *sk, struct sk_buff *skb, __u64 jiffies,
					  __u32 *age_jiffies, __u32 *ack_delayed, struct hook_counters *counters)
{
	__u32 interval = settings.sample_interval_jiffies, now = jiffies, armed = slot->armed, begun = 0;
	__u32 hash = sk->__sk_common.skc_hash & ~ACK_DELAYED;
	bool complete = false;

	*age_jiffies = now - slot->due_jiffies;
	if (armed && (armed & ~ACK_DELAYED) == hash && *age_jiffies <= STALE_INTERVALS * interval) {
		*ack_delayed = armed & ACK_DELAYED;
		slot->armed = 0;
		if (!within_budget(jiffies)) {
			counters->limited++;
			/* A new phase, so that it is not always the same connections that come too late. */
			slot->due_jiffies = now + interval / 2 + bpf_get_prandom_u32() % (settings.jiffies_per_s ?: 1);
			return false;
		}
		complete = true;
		if (*age_jiffies < interval) {
			slot->due_jiffies += interval;
			return true;
		}
	} else if (armed && *age_jiffies <= interval) {
		return false; /* another connection's turn */
	}
	if (look_at_ack(sk, skb, &begun)) {
		slot->armed = hash | begun;
		slot->due_jiffies = now;
	} else {
		slot->armed = 0;
		slot->due_jiffies = now + interval / RETRY_DIVISOR;
	}
	return complete;
}

#endif
