"""`tapio recent`: the newest first, filtered, and JSON as it was written."""

from __future__ import annotations

import json

import msgspec
from helpers.data_dirs import FACTS, DataDir, tapio


def test_recent_is_newest_first_and_filtered(data: DataDir) -> None:
    data.fill()

    def types(*arguments: str) -> list[str]:
        found = tapio(data.path, "recent", "--json", *arguments).stdout.splitlines()
        return [json.loads(line)["type"].rsplit(".")[-1] for line in found]

    everything = types()
    assert everything == ["connection_refused", *FACTS]
    assert types("--limit", "2") == everything[:2]
    assert types("--since", "100s") == everything[:3]
    assert types("--container") == ["oom_kill", "abnormal_exit"]
    assert types("--storage", "--node") == list(FACTS)[7:12]
    assert types("--network", "--type", "agent.events_lost") == ["events_lost"]  # the network observer's
    assert types("--severity", "critical") == ["oom_kill", "io_error", "cpu_stall"]
    assert types("--type", "oom_kill", "--type", "io_error") == ["oom_kill", "io_error"]
    assert types("--namespace", "shop", "--pod", "checkout-*", "--container") == ["oom_kill", "abnormal_exit"]
    assert types("--namespace", "other") == []
    assert "nothing of that kind" in tapio(data.path, "recent", "--namespace", "other").stdout


def test_json_is_the_occurrence_with_fields_that_nobody_knows(data: DataDir) -> None:
    document = data.document("oom_kill", pod="shop/api", something_new={"a": [1, "ü"]})
    data.write(f"{document['id']}.json", msgspec.json.encode(document))
    assert json.loads(tapio(data.path, "recent", "--json").stdout) == document
