/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The ring buffer and the counters, the same for every observer.
 *
 * A record is reserved, zeroed, filled and submitted without a wake-up: the agent drains on a timer. Only the
 * record that crosses a quarter of the ring wakes it. The backlog is read once, before the reservation: the record
 * that crosses sees it by its own size. When several CPUs cross together none may see it; each then wakes the agent
 * at its next record, because it has not yet done so above the quarter (a spare wake-up is harmless).
 */
#ifndef TAPIO_RING_H
#define TAPIO_RING_H

#include "events.h"

#include <bpf/bpf_helpers.h>

#if defined(__TARGET_ARCH_x86)
#define TARGET_ARCH "x86_64"
#elif defined(__TARGET_ARCH_arm64)
#define TARGET_ARCH "aarch64"
#else
#error "compile with -D__TARGET_ARCH_x86 or -D__TARGET_ARCH_arm64"
#endif

/* Read by the loader, in the words of uname -m. */
const volatile char target_arch[8] = TARGET_ARCH;

/* Set by the loader from the size of the ring. */
const volatile __u32 ring_quarter_bytes = 1 << 16;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18); /* bytes; the loader sets it from the configuration */
} events SEC(".maps");

#define DEFINE_COUNTERS(hook) struct hook_counters hook##_counters[MAX_CPUS] SEC(".bss")

#define DEFINE_MISSES(hook) struct hook_misses hook##_misses SEC(".bss")

static __always_inline struct hook_counters *counters_of(struct hook_counters *rows)
{
	return &rows[bpf_get_smp_processor_id() & (MAX_CPUS - 1)];
}

#define RECORD_HEADER_BYTES 8 /* what the ring adds to a record */

struct reservation {
	void *record;
	bool wakes;
};

/* The last eighth of the ring is for rare records that must not drown in a storm of ordinary ones. */
enum urgency { ORDINARY, URGENT };

static __always_inline struct reservation reserve(__u64 size, struct hook_counters *counters, enum urgency urgency)
{
	__u64 backlog = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	struct reservation r = {};

	if (urgency == URGENT || backlog + size < ring_quarter_bytes * 7ULL / 2)
		r.record = bpf_ringbuf_reserve(&events, size, 0);
	if (!r.record) {
		counters->lost++;
		return r;
	}
	__builtin_memset(r.record, 0, size);
	if (backlog >= ring_quarter_bytes)
		r.wakes = !counters->woken;
	else
		r.wakes = backlog + RECORD_HEADER_BYTES + size >= ring_quarter_bytes;
	counters->woken = r.wakes || backlog >= ring_quarter_bytes;
	return r;
}

static __always_inline void submit(struct reservation r, struct hook_counters *counters)
{
	bpf_ringbuf_submit(r.record, r.wakes ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	counters->submitted++;
}

#endif
