/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Block requests: which disk, which error, whose block cgroup, and what lies under a stacked disk. */
#ifndef TAPIO_BLOCK_H
#define TAPIO_BLOCK_H

#include "events.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* Operations, the same in every kernel since 4.10. */
#define REQ_OP_MASK 0xff
#define REQ_OP_READ 0
#define REQ_OP_WRITE 1
#define REQ_OP_FLUSH 2
#define REQ_OP_DISCARD 3
#define REQ_OP_SECURE_ERASE 5
#define REQ_OP_WRITE_ZEROES 9
#define REQ_OP_PASSTHROUGH 32 /* from here on: commands of users and drivers, whose failures are answers */

#define LOOP_MAJOR 7
#define S_IFMT 0170000
#define S_IFBLK 0060000
#define MINOR_BITS 20

/* errno values, the same on x86-64 and arm64. */
#define EIO 5
#define EAGAIN 11
#define ENOMEM 12
#define EBUSY 16
#define ENODEV 19
#define EINVAL 22
#define ENOSPC 28
#define EBADE 52
#define ENODATA 61
#define ETIME 62
#define ENOLINK 67
#define EOVERFLOW 75
#define EREMCHG 78
#define EILSEQ 84
#define EOPNOTSUPP 95
#define ETOOMANYREFS 109
#define ETIMEDOUT 110
#define EREMOTEIO 121

/* block/blk-core.c, blk_errors, numbered as since 6.10. */
#define BLOCK_STATUSES 20
const volatile __u8 errno_of_status[BLOCK_STATUSES] = {
    [1] = EOPNOTSUPP, [2] = ETIMEDOUT,	   [3] = ENOSPC,     [4] = ENOLINK, [5] = EREMOTEIO, [6] = EBADE,
    [7] = ENODATA,    [8] = EILSEQ,	   [9] = ENOMEM,     [10] = EIO,    [11] = EREMCHG,  [12] = EAGAIN,
    [13] = EBUSY,     [14] = ETOOMANYREFS, [15] = EOVERFLOW, [16] = ENODEV, [17] = ETIME,    [19] = EINVAL,
};

/*
 * The errno of a completion, 0 where the status is one that is not known. The tracepoint passes a negative errno
 * until 5.16 and a blk_status_t since then (8a7d267b4a2c); the sign tells.
 */
static __always_inline __u32 errno_of(__s32 status)
{
	bool numbered_as_since_6_10 = bpf_core_enum_value_exists(enum rqf_flags, __RQF_STARTED) ||
				      bpf_core_field_exists(struct gendisk___since_6_10, zone_wplugs_hash);
	__u32 index = status;

	if (status < 0)
		return -status;
	/* 6.10 removed BLK_STS_ZONE_RESOURCE, 14, and moved the four after it down. */
	if (!numbered_as_since_6_10 && index >= 15 && index <= 18)
		index--;
	return index < BLOCK_STATUSES ? errno_of_status[index] : 0;
}

/* A command that the device does not know is no failure of the device. SCSI says EREMOTEIO, loop EINVAL. */
static __always_inline bool is_unsupported(__u32 operation, __u32 error)
{
	if (operation == REQ_OP_READ || operation == REQ_OP_WRITE)
		return false;
	if (error == EOPNOTSUPP)
		return true;
	return (error == EREMOTEIO || error == EINVAL) &&
	       (operation == REQ_OP_DISCARD || operation == REQ_OP_SECURE_ERASE || operation == REQ_OP_WRITE_ZEROES);
}

static __always_inline enum io_operation io_operation_of(__u32 operation)
{
	return operation <= REQ_OP_DISCARD ? operation : IO_OTHER;
}

static __always_inline struct gendisk *disk_of(struct request *rq)
{
	struct request___before_5_17 *old = (void *)rq;

	if (bpf_core_field_exists(old->rq_disk))
		return old->rq_disk;
	return rq->q->disk;
}

/*
 * The block cgroup that the first bio is charged to: the writer's also when a kernel worker writes back its pages.
 * A bio holds a reference to it, so that `issuer_css`, taken at issue, is the same object if the pointers are equal.
 */
static __always_inline void blame(struct request_record *record, struct request *rq,
				  struct cgroup_subsys_state *issuer_css)
{
	struct bio *bio = BPF_CORE_READ(rq, bio);
	struct cgroup_subsys_state *css;
	struct blkcg *blkcg;

	if (!bio)
		return;
	record->facts |= REQUEST_HAS_BIO;
	if (!bpf_core_field_exists(bio->bi_blkg))
		return;
	blkcg = BPF_CORE_READ(bio, bi_blkg, blkcg);
	if (!blkcg)
		return;
	css = (void *)blkcg + bpf_core_field_offset(struct blkcg, css);
	record->bio_cgroup_id = BPF_CORE_READ(css, cgroup, kn, id);
	record->bio_hierarchy = BPF_CORE_READ(css, cgroup, root, hierarchy_id);
	if (!record->bio_cgroup_id)
		return;
	record->facts |= REQUEST_BLKCG_KNOWN;
	if (!BPF_CORE_READ(css, parent))
		record->facts |= REQUEST_BLKCG_ROOT;
	if (css == issuer_css)
		record->facts |= REQUEST_ISSUER_BLKCG;
}

/* The disk that holds a loop device's file. Others tell in sysfs what they stand on (tapio/observers/storage_stack). */
static __always_inline void find_lower(struct request_record *record, struct gendisk *disk)
{
	struct loop_device *loop;
	struct gendisk *lower;
	struct inode *inode;
	__u32 number;

	if (record->major != LOOP_MAJOR || !bpf_core_type_exists(struct loop_device))
		return;
	loop = BPF_CORE_READ(disk, private_data);
	inode = BPF_CORE_READ(loop, lo_backing_file, f_inode);
	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) == S_IFBLK) {
		number = BPF_CORE_READ(inode, i_rdev);
		record->lower_major = number >> MINOR_BITS;
		record->lower_minor = number & ((1 << MINOR_BITS) - 1);
		return;
	}
	lower = BPF_CORE_READ(inode, i_sb, s_bdev, bd_disk); /* none: tmpfs, network and multi-device filesystems */
	record->lower_major = BPF_CORE_READ(lower, major);
	record->lower_minor = BPF_CORE_READ(lower, first_minor);
}

#endif
