/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What each disk did: requests by operation and latency, and errors. The agent maps `disks` and reads it.
 *
 * A row belongs to a disk's number *and* name: numbers are given to another disk when the first is gone. Rows are
 * claimed in a hash map, because that is the one atomic "only if it is free" that kernels from 5.8 on offer.
 */
#ifndef TAPIO_DISKS_H
#define TAPIO_DISKS_H

#include "events.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct disk_io disks[MAX_DISKS] SEC(".bss");

struct disk_identity {
	__u64 disk;
	char name[DISK_NAME_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DISKS);
	__type(key, __u32); /* the row */
	__type(value, struct disk_identity);
} disk_rows SEC(".maps");

/* 0 if the row is the disk's. Without branches: in a loop they would be too many ways for the verifier. */
static __always_inline __u64 difference(__u64 row_disk, const char *row_name, const struct disk_identity *wanted)
{
	const __u64 *a = (const __u64 *)row_name, *b = (const __u64 *)wanted->name;

	return (row_disk ^ wanted->disk) | (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]);
}

static __always_inline __u64 disk_instance(struct gendisk *disk)
{
	return bpf_core_field_exists(disk->diskseq) ? disk->diskseq : (__u64)disk;
}

static __always_inline __u32 first_row(__u64 number)
{
	return (number ^ number >> 4 ^ number >> 32) & (MAX_DISKS - 1);
}

/* The row of a disk that its first row does not show at once: another disk is there, or none yet. */
static __noinline struct disk_io *search_row(struct gendisk *disk, __u64 number)
{
	struct disk_identity wanted = {.disk = number}, *owner;
	struct disk_io *row = NULL;
	__u32 index = 0;

	BPF_CORE_READ_STR_INTO(&wanted.name, disk, disk_name);
	for (__u32 i = 0; i < MAX_DISKS; i++) {
		index = (first_row(number) + i) & (MAX_DISKS - 1);
		row = &disks[index];
		if (!difference(row->disk, row->name, &wanted)) {
			row->instance = disk_instance(disk);
			return row;
		}
		if (!row->disk)
			break;
	}
	if (!row || row->disk)
		return NULL;
	bpf_map_update_elem(&disk_rows, &index, &wanted, BPF_NOEXIST);
	owner = bpf_map_lookup_elem(&disk_rows, &index);
	/* Another disk may have been quicker: this one finds a row with its next request. */
	if (!owner || difference(owner->disk, owner->name, &wanted))
		return NULL;
	__builtin_memcpy(row->name, wanted.name, sizeof(wanted.name));
	row->instance = disk_instance(disk);
	row->disk = number;
	return row;
}

/* Rounded down; `value` is below 2^63. Without branches, for the verifier's sake: a subtraction's sign compares. */
static __always_inline __u32 log2_of(__u64 value)
{
	__u32 result = 0;

#pragma unroll
	for (__u32 step = 32; step; step >>= 1) {
		__u32 shift = (((1ULL << step) - 1 - value) >> 63) * step;

		value >>= shift;
		result += shift;
	}
	return result;
}

/* Bucket i holds what took at most 2^(i+1) microseconds and more than the bucket before. */
static __always_inline __u32 latency_bucket(__u64 latency_ns)
{
	__u32 bucket = log2_of((latency_ns - 1) / 1000);

	return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

static __always_inline void count_request(struct gendisk *disk, enum io_operation operation, bool timed,
					  __u64 latency_ns, bool failed, struct hook_misses *misses)
{
	__u64 number = (__u64)disk->major << 32 | (__u32)disk->first_minor;
	struct disk_io *row = &disks[first_row(number)];
	__u64 bucket; /* 64 bits wide, so that what is checked is what is used */

	if (row->disk != number || row->instance != disk_instance(disk))
		row = search_row(disk, number);
	if (!row) {
		__sync_fetch_and_add(&misses->disk_table_full, 1);
		return;
	}
	bucket = operation * LATENCY_BUCKETS + latency_bucket(latency_ns);
	asm volatile("" : "+r"(bucket)); /* or clang drops the check below, which the verifier wants */
	if (operation >= IO_OPERATIONS || bucket >= DISK_LATENCY_VALUES)
		return;
	if (timed) {
		__sync_fetch_and_add(&row->latency[bucket], 1);
		__sync_fetch_and_add(&row->sum_ns[operation], latency_ns);
	}
	if (failed)
		__sync_fetch_and_add(&row->errors[operation], 1);
}

#endif
