"""Whose I/O a request is: by the block cgroup of its bio, and by the task that issued it.

The bio names the right cgroup also for pages that a kernel worker writes back, but only in the hierarchy that owns
block I/O, and only down to the level where that controller is enabled. The issuer names a cgroup of v2 exactly, but
is not always whose I/O it is: a kernel worker, or another task that happened to run the queue. So the issuer counts
where the bio confirms it, and nobody is named where the two say nothing certain.
"""

from __future__ import annotations

from typing import Any

from tapio.kernel.channel import Loaded
from tapio.observers.base import comm_text

BLAME_FIELDS = ("bio_cgroup_id", "bio_hierarchy", "issuer_cgroup_id", "pid", "comm")


class Blame:
    """From what is known of a request to its cgroup and its process."""

    def __init__(self, loaded: Loaded) -> None:
        def fact(name: str) -> int:
            return loaded.enum(f"REQUEST_{name}")

        self._issue_seen, self._for_others, self._has_bio = fact("ISSUE_SEEN"), fact("FOR_OTHERS"), fact("HAS_BIO")
        self._known, self._root, self._issuers = fact("BLKCG_KNOWN"), fact("BLKCG_ROOT"), fact("ISSUER_BLKCG")

    def is_by_process(self, record: Any) -> bool:
        """Whether the process that issued the request did so for itself."""
        facts = record.facts
        # Without block cgroups only the request itself speaks for its issuer; a flush serves many at once.
        confirmed = facts & (self._issuers if facts & self._known else self._has_bio)
        return bool(facts & self._issue_seen and not facts & self._for_others and confirmed)

    def named_cgroup(self, record: Any) -> tuple[int, int] | None:
        """Hierarchy and id of the block cgroup, if it names somebody.

        Every kernel worker is in the root, and so is all that no controller was enabled for.
        """
        named = record.facts & self._known and not record.facts & self._root
        return (record.bio_hierarchy, record.bio_cgroup_id) if named else None

    def data(self, record: Any) -> dict[str, Any]:
        """cgroup_id, cgroup_v1_id, attribution, pid and comm, as far as they are certain."""
        by_process, named = self.is_by_process(record), self.named_cgroup(record)
        data: dict[str, Any] = {}
        cgroup_id, attribution = 0, "none"
        if named and record.bio_hierarchy:
            data["cgroup_v1_id"] = record.bio_cgroup_id
            data["cgroup_v1_hierarchy"] = record.bio_hierarchy
            if by_process:
                cgroup_id, attribution = record.issuer_cgroup_id, "bio"
        elif named and (not by_process or record.issuer_cgroup_id == record.bio_cgroup_id):
            cgroup_id, attribution = record.bio_cgroup_id, "bio"
        elif by_process:
            cgroup_id, attribution = record.issuer_cgroup_id, "task"
        if cgroup_id:
            data["cgroup_id"] = cgroup_id
        data["attribution"] = attribution if cgroup_id else "none"
        if by_process:
            data |= {"pid": record.pid, "comm": comm_text(record.comm)}
        return data
