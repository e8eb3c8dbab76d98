// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Node observer: what each CPU's performance counters say, sampled on a timer.
 *
 * The program runs on every CPU by that CPU's own perf timer and passes totals on. The differences are taken in
 * Python, so that a sample that is lost, or left out because the CPU is idle, makes an interval longer and nothing
 * wrong.
 */
#include "ring.h"

#define BPF_F_CURRENT_CPU 0xffffffffULL
#define IDLE_SAMPLES_A_RECORD 10

/* Written by the agent while it runs. */
struct settings {
	__u32 counts_stalls; /* 1: there is a stall event */
	__u32 pad;
} settings SEC(".data");

/*
 * One event for each CPU, opened and put in by the loader (tapio/kernel/sampling.py). An entry vanishes with the
 * descriptor of the array by which it was put in, so the agent keeps that.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(max_entries, MAX_CPUS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} cycles SEC(".maps"), instructions SEC(".maps"), stalls SEC(".maps");

DEFINE_COUNTERS(cpu_sample);

struct cpu_state {
	__u64 busy_samples;
	__u64 unreported; /* idle samples since the last record */
} cpu_states[MAX_CPUS] SEC(".bss");

const struct cpu_record *anchor_cpu_record __attribute__((unused));
const enum record_kind anchor_record_kind __attribute__((unused));

/* On failure the helper writes zeros. */
#define READ(events, counter)                                                                                          \
	bpf_perf_event_read_value(&(events), BPF_F_CURRENT_CPU, (void *)&(counter), sizeof(counter))

SEC("perf_event")
int cpu_sample(void *ctx __attribute__((unused)))
{
	struct hook_counters *counters = counters_of(cpu_sample_counters);
	__u32 cpu = bpf_get_smp_processor_id();
	struct cpu_state *state = &cpu_states[cpu & (MAX_CPUS - 1)];
	bool idle = bpf_get_current_pid_tgid() == 0;
	struct cpu_record *record;
	struct reservation r;
	bool unreadable;

	counters->hits++;
	state->busy_samples += !idle;
	if (idle && ++state->unreported < IDLE_SAMPLES_A_RECORD) {
		counters->filtered++;
		return 0;
	}
	state->unreported = 0;

	r = reserve(sizeof(*record), counters, ORDINARY);
	record = r.record;
	if (!record)
		return 0;
	record->kind = RECORD_CPU;
	record->cpu = cpu;
	record->boot_ns = bpf_ktime_get_boot_ns();
	record->busy_samples = state->busy_samples;
	unreadable = READ(cycles, record->cycles) != 0;
	unreadable |= READ(instructions, record->instructions) != 0;
	if (settings.counts_stalls)
		unreadable |= READ(stalls, record->stalls) != 0;
	counters->unreadable += unreadable;
	submit(r, counters);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
