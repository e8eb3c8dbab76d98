"""`tapio tune` replays exactly what the stored facts can tell; `tapio completion` knows every command and flag."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers.data_dirs import DataDir, tapio

from tapio.anomalies import CATALOGUE
from tapio.cli.thresholds import THRESHOLDS, in_force
from tapio.config import Config


def tune(data: DataDir, *settings: str, since: str = "24h") -> list[dict[str, Any]]:
    flags = [flag for setting in settings for flag in ("--set", setting)]
    ended = tapio(data.path, "tune", "--json", "--since", since, *flags)
    assert ended.returncode == 0, ended
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_a_stricter_count_is_told_exactly(data: DataDir) -> None:
    for retransmits in (5, 6, 7, 8, 9, 23):
        data.add("retransmit_spike", 60, retransmits=retransmits)
    data.add("retransmit_spike", 100_000, retransmits=23)
    data.add("rst_storm", 60, rst_count=10)
    found, _ = tune(data, "network.retransmit_spike_count=8")
    assert found["alerts"] == {"before": 6, "after": 3}
    assert found["anomalies"] == {"before": 6, "after": [3, 3]}
    assert found["complete"]


def test_a_laxer_count_is_a_lower_bound_and_says_so(data: DataDir) -> None:
    data.add("retransmit_spike", 60, retransmits=5)
    found, _ = tune(data, "network.retransmit_spike_count=3")
    assert found["alerts"] == {"before": 1, "after": 1}
    assert not found["complete"]
    assert "laxer than 5, which is in force" in found["remark"]


@pytest.mark.parametrize("setting", ["storage.warning_ms=50", "storage.warning_ms=20", "storage.critical_ms=200",
                                     "storage.critical_ms=100"])  # fmt: skip
def test_what_is_in_force_or_laxer_keeps_every_folded_anomaly(data: DataDir, setting: str) -> None:
    """All 40 passed what is in force, not the worst alone."""
    data.add("latency_spike", 60, count=40, latency_ms=300.0, severity="critical")
    found, _ = tune(data, setting)
    assert found["anomalies"] == {"before": 40, "after": [40, 40]}
    assert "hence a range" not in found["remark"]


def test_a_laxer_critical_threshold_takes_in_the_worst_warning(data: DataDir) -> None:
    data.add("latency_spike", 60, count=40, latency_ms=300.0, severity="critical")
    data.add("latency_spike", 60, count=7, latency_ms=150.0, severity="warning")
    found, _ = tune(data, "storage.critical_ms=100")
    assert found["anomalies"] == {"before": 40, "after": [41, 47]}


def test_together_with_a_laxer_one_the_stricter_one_decides(data: DataDir) -> None:
    data.add("abnormal_exit", 60, comm="sh", exit_code=1, count=11)
    *_, together = tune(data, "container.ignore_exit_codes=[]", 'container.ignore_comm=["sh"]')
    assert together["anomalies"] == {"before": 11, "after": [0, 0]}


def test_a_disk_with_a_threshold_of_its_own_keeps_it(data: DataDir, tmp_path: Path) -> None:
    config = tmp_path / "tapio.toml"
    config.write_text('[storage.devices."sd*"]\nwarning_ms = 5\n')
    data.add("latency_spike", 60, latency_ms=8.0)
    data.add("latency_spike", 60, latency_ms=60.0, device="nvme0n1")
    ended = tapio(data.path, "tune", "--json", "--config", str(config), "--set", "storage.warning_ms=100")
    found = json.loads(ended.stdout.splitlines()[0])
    assert found["alerts"] == {"before": 2, "after": 1}


def test_the_absolute_rtt_limit_is_that_of_the_configuration(data: DataDir, tmp_path: Path) -> None:
    """Of 400 ms after 250 it is not known by which rule it passed, when the limit is 300."""
    config = tmp_path / "tapio.toml"
    config.write_text("[network]\nrtt_spike_abs_ms = 300\n")
    data.add("rtt_degradation", 60, baseline_ms=250.0, current_ms=400.0)
    ended = tapio(data.path, "tune", "--json", "--config", str(config), "--set", "network.rtt_spike_ratio=3")
    found = json.loads(ended.stdout.splitlines()[0])
    assert (found["alerts"], found["anomalies"]["after"], found["complete"]) == (
        {"before": 1, "after": 1}, [0, 1], False,
    )  # fmt: skip


def test_a_delayed_ack_may_need_more_than_the_least_distance(data: DataDir) -> None:
    for current_ms in (45.0, 90.0):
        data.add("rtt_degradation", 60, baseline_ms=10.0, current_ms=current_ms)
    found, _ = tune(data, "network.rtt_min_delta_ms=30")
    assert (found["alerts"]["after"], found["anomalies"]["after"], found["complete"]) == (2, [1, 2], False)


def test_folded_anomalies_are_a_range(data: DataDir) -> None:
    """Of 40 folded ones only the worst is known."""
    data.add("latency_spike", 60, count=40, latency_ms=300.0)
    data.add("latency_spike", 60, count=40, latency_ms=80.0)
    data.add("latency_spike", 60, count=0, latency_ms=300.0)
    found, _ = tune(data, "storage.warning_ms=100")
    assert found["anomalies"] == {"before": 80, "after": [1, 40]}
    assert "hence a range" in found["remark"]


def test_the_critical_threshold_moves_anomalies_both_ways(data: DataDir) -> None:
    for latency_ms, severity in ((60.0, "warning"), (150.0, "warning"), (250.0, "critical"), (600.0, "critical")):
        data.add("latency_spike", 60, latency_ms=latency_ms, severity=severity)
    assert [tune(data, f"storage.critical_ms={ms}")[0]["alerts"] for ms in (100, 500)] == [
        {"before": 2, "after": 3},
        {"before": 2, "after": 1},
    ]


def test_exits_by_code_and_by_name_and_both_together(data: DataDir) -> None:
    for comm, code in (("sh", 1), ("sh", 2), ("grep", 1), ("api", 3)):
        data.add("abnormal_exit", 60, comm=comm, exit_code=code, count=11)
    codes, names, together = tune(data, "container.ignore_exit_codes=[1]", 'container.ignore_comm=["sh", "gr*"]')
    assert codes["anomalies"] == {"before": 44, "after": [22, 22]}
    assert names["anomalies"] == {"before": 44, "after": [11, 11]}
    assert together["anomalies"] == {"before": 44, "after": [11, 11]}
    assert codes["complete"]


def test_rtt_by_ratio(data: DataDir) -> None:
    for current_ms in (20.0, 50.0, 700.0):
        data.add("rtt_degradation", 60, baseline_ms=8.0, current_ms=current_ms)
    found, _ = tune(data, "network.rtt_spike_ratio=100")
    assert found["alerts"] == {"before": 3, "after": 1}  # 700 ms may have passed by the absolute limit
    assert "the facts of 1 alerts do not say" in found["remark"]


def test_a_mean_tells_only_what_surely_goes(data: DataDir) -> None:
    for stall_pct in (45.0, 80.0):
        data.add("cpu_stall", 60, stall_pct=stall_pct)
    found, _ = tune(data, "node.cpu_stall_percent=60")
    assert found["alerts"] == {"before": 2, "after": 1}
    assert not found["complete"]


@pytest.mark.parametrize("key", [key for key, threshold in THRESHOLDS.items() if threshold.cannot])
def test_what_cannot_be_told_is_said(data: DataDir, key: str) -> None:
    value = {"container.exit_scope": "main", "node.ipc_drop_ratio": "0.7"}.get(key, "7")
    found, _ = tune(data, f"{key}={value}")
    assert "alerts" not in found
    assert "the stored facts cannot tell" in found["remark"]
    assert "?" in tapio(data.path, "tune", "--set", f"{key}={value}").stdout


@pytest.mark.parametrize("setting", ["a=b", "network", "network.retransmit_spike_count=x", "storage.warning_ms=-1",
                                     "storage.warning_ms=true", "container.ignore_comm=[[1]]", "=1", "",
                                     "network.retransmit_spike_count=0", "network.retransmit_spike_count=2.5",
                                     "network.rtt_spike_ratio=0.5", "storage.warning_ms=1e400",
                                     "storage.warning_ms=NaN", "storage.warning_ms=300", "storage.critical_ms=20",
                                     "node.cpu_stall_percent=101",
                                     "container.ignore_exit_codes=[256]", "container.ignore_exit_codes=7",
                                     "container.ignore_comm=[1]", "container.exit_scope=7", "node.ipc_drop_ratio=7",
                                     "network.window_s=", "storage.warning_ms=" + "9" * 5000,
                                     "storage.warning_ms=" + "[" * 5000])  # fmt: skip
def test_wrong_settings_are_one_line(data: DataDir, setting: str) -> None:
    ended = tapio(data.path, "tune", f"--set={setting}")
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"tapio: --set {setting}: " if len(setting) < 200 else f"tapio: --set {setting[:200]}")
    assert re.search(r": [^:]*$", line)  # the reason, and what to do
    assert len(line) < 5000


def test_a_key_is_set_once(data: DataDir) -> None:
    ended = tapio(data.path, "tune", "--set=storage.warning_ms=60", "--set=storage.warning_ms=70")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("tapio: --set storage.warning_ms=70: storage.warning_ms is set twice: ")


def test_values_that_make_sense_only_together(data: DataDir) -> None:
    tune(data, "storage.warning_ms=300", "storage.critical_ms=900")
    ended = tapio(data.path, "tune", "--set=storage.warning_ms=190", "--set=storage.critical_ms=180")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "critical_ms is below warning_ms" in ended.stderr


def test_every_threshold_is_listed_and_means_a_type_of_the_catalogue(data: DataDir) -> None:
    listed = tapio(data.path, "tune").stdout
    for threshold in THRESHOLDS.values():
        assert threshold.key in listed
        assert set(threshold.types) <= set(CATALOGUE)
        assert threshold.types or threshold.cannot


def test_keys_of_sections_that_are_there_are_keys_of_the_configuration() -> None:
    """As observers come, their keys must be those that their sections have."""
    config = Config()
    for threshold in THRESHOLDS.values():
        section, name = threshold.key.split(".")
        if hasattr(config, section):
            assert hasattr(getattr(config, section), name), threshold.key
            if threshold.default is not None:
                assert in_force(threshold, config) == threshold.default


def test_what_is_in_force_comes_from_the_configuration(data: DataDir, tmp_path: Path) -> None:
    config = tmp_path / "tapio.toml"
    config.write_text('[container]\nignore_comm = ["sh"]\n')
    data.add("abnormal_exit", 60, comm="grep")
    flags = ["--json", "--config", str(config), "--set"]
    laxer = json.loads(tapio(data.path, "tune", *flags, 'container.ignore_comm=["grep"]').stdout.splitlines()[0])
    assert (laxer["in_force"], laxer["complete"]) == (["sh"], False)
    config.write_text("[container\n")
    ended = tapio(data.path, "tune", *flags, "container.ignore_comm=[]")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)


def complete(data: DataDir, *words: str) -> set[str]:
    """What bash offers after these words."""
    script = tapio(data.path, "completion", "bash").stdout
    listed = " ".join(f"'{word}'" for word in words)
    asked = f"COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _tapio; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    ended = subprocess.run(
        ["/bin/bash", "-c", f"compopt() {{ :; }}\n{script}\n{asked}"], capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
    return set(ended.stdout.split())


def test_completion_in_bash(data: DataDir) -> None:
    assert complete(data, "tapio", "re") == {"recent"}
    assert {"status", "watch", "recent", "health", "tune", "selftest", "mcp"} <= complete(data, "tapio", "")
    assert complete(data, "tapio", "recent", "--sin") == {"--since"}
    assert complete(data, "tapio", "--json", "health", "con") == {"container"}
    assert complete(data, "tapio", "recent", "--type", "oom") == {"oom_kill"}
    assert complete(data, "tapio", "watch", "--severity", "cr") == {"critical"}


def test_completion_for_other_shells(data: DataDir) -> None:
    for shell in ("zsh", "fish"):
        script = tapio(data.path, "completion", shell).stdout
        for word in ("recent", "since", "oom_kill", "container", "network.rst_storm_count"):
            assert word in script
    ended = tapio(data.path, "completion", "tcsh")
    assert (ended.returncode, ended.stderr) == (
        2, "tapio: completion tcsh: there is no such shell: choose from bash, zsh, fish\n",
    )  # fmt: skip
