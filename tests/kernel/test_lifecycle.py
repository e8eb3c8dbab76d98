"""The agent from start to end: rights, endings of every kind, what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers.cgroups import ScratchCgroup
from helpers.frozen import frozen_thread
from helpers.kernel_state import loaded_programs, programs_of
from helpers.loops import MIB, ext4, loop, run
from helpers.running_agent import AGENT, RunningAgent, running_agent, wait_for

from tapio.config import CHECKOUT_EBPF_DIR

pytestmark = pytest.mark.kernel


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def fill_disk(path: Path) -> None:
    """Write until ENOSPC."""
    with path.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(b"x" * 4096)


def test_no_rights_are_left_after_the_start(agent: RunningAgent) -> None:
    """Another uid, no capability in any set, no_new_privs, and that in every thread."""
    for thread in Path(f"/proc/{agent.pid}/task").iterdir():
        status = status_of(int(thread.name))
        assert status["Uid"].split() == ["65534"] * 4
        assert status["Gid"].split() == ["65534"] * 4
        assert status["Groups"] == ""
        assert {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
    assert int(status_of(agent.pid)["VmRSS"].split()[0]) < 50 * 1024


def test_the_loader_is_gone_and_the_programs_stay(agent: RunningAgent) -> None:
    # A canary may be one, for a moment.
    wait_for(lambda: Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text() == "")
    assert len(programs_of(agent.pid)) >= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_flushes_everything(tmp_path: Path, cgroup: ScratchCgroup, number: int) -> None:
    """Events of the last moment are in the files and on stdout; the end takes less than 2 s."""
    with running_agent(tmp_path / "data") as agent:
        held = programs_of(agent.pid)
        for code in range(1, 32):
            cgroup.run(["/bin/sh", "-c", f"exit {code}"])
        asked = time.monotonic()
        assert agent.stop(number) == 0
        assert time.monotonic() - asked < 2
        assert len(agent.of_cgroup(cgroup.id)) == 31
        names = {path.stem for path in agent.data_dir.glob("0*.json")}
        assert {item["id"] for item in agent.occurrences()} == names
        assert json.loads((agent.data_dir / ".agent.json").read_text())["state"] == "stopped"
        wait_for(lambda: not held & set(loaded_programs()))


def test_sigkill_leaves_nothing_attached_and_the_next_start_works(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    with running_agent(tmp_path / "data") as agent:
        held = programs_of(agent.pid)
        assert held <= set(loaded_programs())
        agent.process.kill()
        agent.process.wait()
        wait_for(lambda: not held & set(loaded_programs()))
    with running_agent(tmp_path / "data") as agent:
        cgroup.run(["/bin/false"])
        wait_for(lambda: len(agent.of_cgroup(cgroup.id)) == 1)


def test_a_second_agent_names_the_first(agent: RunningAgent) -> None:
    second = subprocess.run([AGENT, f"--data-dir={agent.data_dir}"], capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"another tapio-agent (pid {agent.pid}) uses it" in second.stderr
    assert len(second.stderr.splitlines()) == 1


def test_the_file_of_an_occurrence_is_its_line_on_stdout(agent: RunningAgent, cgroup: ScratchCgroup) -> None:
    cgroup.run(["/bin/false"])
    wait_for(lambda: agent.of_cgroup(cgroup.id))
    (item,) = agent.of_cgroup(cgroup.id)
    path = agent.data_dir / f"{item['id']}.json"
    wait_for(path.exists)
    assert json.loads(path.read_text()) == item


def test_heartbeat_and_pages(agent: RunningAgent) -> None:
    """The heartbeat is fresh and says what is attached; the pages answer, others do not exist."""
    path = agent.data_dir / ".agent.json"
    wait_for(path.exists)
    beat = json.loads(path.read_text())
    assert beat["schema_version"] == 1
    assert beat["pid"] == agent.pid
    assert (beat["state"], beat["trouble"]) == ("running", "")
    container = beat["observers"]["container"]
    assert container["up"]
    attached = {hook["name"]: hook["attached"] for hook in container["hooks"]}
    attached.pop("out_of_memory", None)  # not every kernel lets it be watched
    assert attached == {"sched_process_exit": True, "mark_victim": True}
    first = path.stat().st_mtime_ns
    wait_for(lambda: path.stat().st_mtime_ns > first)
    assert agent.get("/readyz") == (200, "ready\n")
    assert agent.get("/healthz") == (200, "alive\n")
    assert agent.get("/elsewhere")[0] == 404
    assert agent.metric('tapio_observer_up{observer="container"}') == 1
    assert agent.metric('tapio_kernel_events_total{hook="sched_process_exit",observer="container"}') > 0


def test_a_closed_pipe_ends_the_sink_and_not_the_agent(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    data_dir = tmp_path / "data"
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        command = [AGENT, "--sink=stdout", "--sink=file", f"--data-dir={data_dir}", "--metrics-address="]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
    assert process.stdout is not None
    process.stdout.close()
    try:
        wait_for(lambda: (data_dir / ".agent.json").exists(), 15)
        cgroup.run(["/bin/false"])
        wait_for(lambda: "this sink ends, the agent runs on" in log.read_text())
        wait_for(lambda: any(str(cgroup.id) in path.read_text() for path in data_dir.glob("0*.json")))
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_a_stalled_reader_of_stdout_does_not_stall_the_files(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """Nobody reads the pipe: it fills, the files go on, and the stop keeps its deadline."""
    data_dir = tmp_path / "data"
    reader, writer = os.pipe()
    command = [AGENT, "--sink=stdout", "--sink=file", f"--data-dir={data_dir}", "--metrics-address="]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        wait_for(lambda: (data_dir / ".agent.json").exists(), 15)
        cgroup.run(["/bin/sh", "-c", "for i in $(seq 251); do (exit $i); done; exit 0"])
        # 251 lines of about 450 bytes are more than the pipe holds.
        wait_for(lambda: sum(str(cgroup.id) in path.read_text() for path in data_dir.glob("0*.json")) == 251, 15)
        asked = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - asked < 3
    finally:
        process.kill()
        process.wait()
        os.close(reader)


def test_a_full_disk_is_counted_and_survived(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """ENOSPC while running: rejected and counted, stdout goes on; with space again files come again."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=200", "tapio-test", mount], check=True)
    try:
        with running_agent(mount / "data", output_dir=tmp_path) as agent:
            wait_for(lambda: (agent.data_dir / ".agent.json").exists())
            fill_disk(mount / "filler")
            for code in range(1, 14):
                cgroup.run(["/bin/sh", "-c", f"exit {code}"])
            wait_for(lambda: len(agent.of_cgroup(cgroup.id)) == 13)
            wait_for(lambda: agent.metric('tapio_sink_occurrences_total{result="rejected",sink="file"}') >= 13)
            assert "no space left on device" in agent.log.read_text()
            (mount / "filler").unlink()
            cgroup.run(["/bin/sh", "-c", "exit 14"])
            wait_for(lambda: any(str(cgroup.id) in path.read_text() for path in agent.data_dir.glob("0*.json")))
            assert agent.process.poll() is None
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def test_no_heartbeat_is_not_ready(tmp_path: Path) -> None:
    """A full disk, then a directory that is not the agent's any more: /readyz says which; well again, ready again."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=500", "tapio-test", mount], check=True)
    try:
        with running_agent(mount / "data", "--observer=storage", output_dir=tmp_path) as agent:
            wait_for(lambda: (agent.data_dir / ".agent.json").exists())
            for make, undo, why in (
                (lambda: fill_disk(mount / "filler"), (mount / "filler").unlink, "no space left on device"),
                (
                    lambda: os.chown(agent.data_dir, 0, 0),
                    lambda: os.chown(agent.data_dir, 65534, 65534),
                    "permission denied",
                ),
            ):
                make()
                wait_for(lambda: agent.get("/readyz")[0] == 503, 30, lambda: str(agent.get("/readyz")))
                assert f"writing the heartbeat: {why}" in agent.get("/readyz")[1].lower()
                assert agent.get("/healthz")[0] == 200
                undo()
                wait_for(agent.is_ready, 30, lambda: str(agent.get("/readyz")))
            assert json.loads((agent.data_dir / ".agent.json").read_text())["trouble"] == ""
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def test_a_disk_that_became_read_only_is_not_ready(tmp_path: Path, cgroup: ScratchCgroup) -> None:
    """As ext4 does after an error. An administrator's `remount,ro` is refused: the agent holds its lock open."""
    with loop(tmp_path / "image", 16 * MIB) as device, ext4(device, tmp_path / "disk") as mount:
        run("mount", "-o", "remount,errors=remount-ro", mount)
        with running_agent(mount / "data", "--observer=container", output_dir=tmp_path) as agent:
            refused = subprocess.run(["mount", "-o", "remount,ro", mount], capture_output=True, text=True, check=False)
            assert "busy" in refused.stderr
            (Path("/sys/fs/ext4") / device.name / "trigger_fs_error").write_text("a test of tapio")
            wait_for(lambda: agent.get("/readyz")[0] == 503, 30, lambda: str(agent.get("/readyz")))
            assert "writing the heartbeat: read-only file system" in agent.get("/readyz")[1].lower()
            cgroup.run(["/bin/sh", "-c", "exit 23"])
            wait_for(lambda: [one["data"]["exit_code"] for one in agent.of_cgroup(cgroup.id)] == [23], 15)
            wait_for(lambda: agent.metric('tapio_sink_occurrences_total{result="rejected",sink="file"}') >= 1, 15)
            assert agent.get("/healthz")[0] == 200
            assert agent.stop() == 0


def test_a_stuck_loop_is_not_ready(tmp_path: Path) -> None:
    """The other threads answer: neither alive nor ready while one thread, the loop's, is stopped by a debugger."""
    with running_agent(tmp_path / "data") as agent:
        with frozen_thread(agent.pid):
            wait_for(lambda: agent.get("/readyz")[0] == 503, 30)
            assert "not drained within the last 5 s" in agent.get("/readyz")[1]
            assert agent.get("/healthz")[0] == 503
        wait_for(agent.is_ready, 15)
        assert agent.get("/healthz")[0] == 200


@pytest.mark.parametrize("delay_s", [0.1, 0.2, 0.3, 0.5])
def test_a_signal_to_the_whole_group_during_the_start(tmp_path: Path, delay_s: float) -> None:
    """Systemd and terminals signal all processes: SIGHUP does no harm, SIGTERM is a clean stop."""
    command = [AGENT, "--sink=file", f"--data-dir={tmp_path / 'data'}", "--metrics-address="]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, start_new_session=True)
    try:
        time.sleep(delay_s)
        os.killpg(process.pid, signal.SIGHUP)
        time.sleep(0.05)
        assert process.poll() in (None, -signal.SIGHUP)  # before the interpreter runs our first line
        os.killpg(process.pid, signal.SIGTERM) if process.poll() is None else None
        assert process.wait(10) in (0, -signal.SIGTERM, -signal.SIGHUP)
    finally:
        process.kill()
        process.wait()
    assert "ended without an answer" not in (tmp_path / "log").read_text()


def test_no_configuration_file_can_end_a_running_agent(tmp_path: Path) -> None:
    config = tmp_path / "tapio.toml"
    config.write_text("")
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    with running_agent(tmp_path / "data", f"--config={config}") as agent:
        for number, text in enumerate((f"x = {'1' * 5000}", "x = " + "[" * 50_000, "\0", "x = 1", None), 1):
            config.write_text(text) if text is not None else config.unlink()
            agent.process.send_signal(signal.SIGHUP)
            wait_for(lambda expected=number: agent.log.read_text().count("the thresholds in force stay") == expected)
        assert agent.is_ready()


def test_a_type_that_the_kernel_lacks_takes_no_further_capability(tmp_path: Path) -> None:
    """Libbpf would search the BTF of modules for it, which takes CAP_SYS_ADMIN."""
    sources = tmp_path / "ebpf"
    shutil.copytree(CHECKOUT_EBPF_DIR.parent, sources, ignore=shutil.ignore_patterns("build"))
    program = sources / "container_monitor.c"
    text = program.read_text()
    absent = "struct in_no_kernel {\n\tint field;\n} __attribute__((preserve_access_index));\n\n"
    use = "\tif (bpf_core_type_exists(struct in_no_kernel))\n\t\treturn 0;\n"
    text = text.replace('SEC("tp_btf/mark_victim")', absent + 'SEC("tp_btf/mark_victim")')
    text = text.replace(
        "\tcounters->hits++;\n\tif (mark_victim_passes_task)",
        f"\tcounters->hits++;\n{use}\tif (mark_victim_passes_task)",
    )
    assert absent in text
    assert use in text
    program.write_text(text)
    subprocess.run(["make", "-s", "-C", sources, "SOURCES=container_monitor.c"], check=True)
    for bounding in ("-all,+bpf,+perfmon", "+all"):
        command = [
            "setpriv",
            f"--bounding-set={bounding}",
            AGENT,
            "--check",
            "--observer=container",
            f"--ebpf-dir={sources / 'build'}",
        ]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
        states = [line.split()[1:3] for line in checked.stdout.splitlines()]
        assert ["sched_process_exit", "attached"] in states
        assert ["mark_victim", "attached"] in states
