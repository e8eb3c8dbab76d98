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
	__uint(max_entries, 2 * MAX_DISKS); /* a row's latest claim, and while it is claimed the one before */
	__type(key, __u64);		    /* claims << 32 | row */
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

/* Rounded down. Without branches, for the verifier's sake: a subtraction's sign compares. */
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

/* The row of a disk that its first row does not show at once: another disk is there, or none yet. */
static __noinline struct disk_io *search_row(struct gendisk *disk, __u64 number)
{
	struct disk_identity wanted = {.disk = number}, *owner;
	__u64 free_rows = 0, claims, key;
	struct disk_io *row;
	__u32 index;

	BPF_CORE_READ_STR_INTO(&wanted.name, disk, disk_name);
	for (__u32 i = 0; i < MAX_DISKS; i++) {
		row = &disks[(first_row(number) + i) & (MAX_DISKS - 1)];
		if (!difference(row->disk, row->name, &wanted)) {
			row->instance = disk_instance(disk);
			return row;
		}
		free_rows |= (row->disk - 1 & ~row->disk) >> 63 << i; /* the sign, again: only of 0 is it set */
	}
	if (!free_rows)
		return NULL;
	index = (first_row(number) + log2_of(free_rows & -free_rows)) & (MAX_DISKS - 1);
	row = &disks[index];
	/* Another disk may be quicker: then this one finds a row with its next request. */
	claims = *(volatile __u64 *)&row->claims;
	if (*(volatile __u64 *)&row->disk)
		return NULL;
	key = claims << 32 | index;
	if (bpf_map_update_elem(&disk_rows, &key, &wanted, BPF_NOEXIST)) {
		owner = bpf_map_lookup_elem(&disk_rows, &key);
		return owner && !difference(owner->disk, owner->name, &wanted) ? row : NULL;
	}
	__builtin_memcpy(row->name, wanted.name, sizeof(wanted.name));
	row->instance = disk_instance(disk);
	*(volatile __u64 *)&row->disk = number;
	*(volatile __u64 *)&row->claims = claims + 1;
	if (claims) {
		key -= 1ULL << 32;
		bpf_map_delete_elem(&disk_rows, &key);
	}
	return row;
}

/* Bucket i holds what took at most 2^(i+1) microseconds and more than the bucket before. */
static __always_inline __u32 latency_bucket(__u64 latency_ns)
{
	__u32 bucket = log2_of((latency_ns - 1) / 1000);

	return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

/*
 * An index right where it is used. clang knows that it is in bounds and would leave the check out; the verifier, which
 * wants it, forgets bounds of what is put on the stack meanwhile (5.10).
 */
#define BOUNDED(index, limit)                                                                                          \
	({                                                                                                             \
		__u64 index_ = (index);                                                                                \
		asm volatile("" : "+r"(index_));                                                                       \
		index_ < (limit) ? index_ : 0;                                                                         \
	})

static __always_inline void count_request(struct gendisk *disk, enum io_operation operation, bool timed,
					  __u64 latency_ns, bool failed, struct hook_misses *misses)
{
	__u64 number = (__u64)disk->major << 32 | (__u32)disk->first_minor;
	struct disk_io *row = &disks[first_row(number)];
	__u64 bucket;

	if (row->disk != number || row->instance != disk_instance(disk))
		row = search_row(disk, number);
	if (!row) {
		__sync_fetch_and_add(&misses->disk_table_full, 1);
		return;
	}
	if (timed) {
		bucket = operation * LATENCY_BUCKETS + latency_bucket(latency_ns);
		__sync_fetch_and_add(&row->latency[BOUNDED(bucket, DISK_LATENCY_VALUES)], 1);
		__sync_fetch_and_add(&row->sum_ns[BOUNDED(operation, IO_OPERATIONS)], latency_ns);
	}
	if (failed)
		__sync_fetch_and_add(&row->errors[BOUNDED(operation, IO_OPERATIONS)], 1);
}

#endif
