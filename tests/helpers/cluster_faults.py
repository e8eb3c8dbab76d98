"""Real faults on this machine, as four pods of a small shop would meet them, in rounds. Counts are exact."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from helpers import clients, victims
from helpers.cgroups import ScratchCgroup, scratch_cgroup
from helpers.collector import free_port
from helpers.loops import MIB, Loop, ext4, frozen, loop, run, tmpfs
from helpers.tunnel import Tunnel, carries_data, is_tcp, tunnel

_PODS = {
    "checkout": {"k8s.namespace.name": "shop", "k8s.pod.name": "checkout-api-7f8b9c6d5-x2x4k",
                 "k8s.container.name": "api", "k8s.deployment.name": "checkout-api",
                 "k8s.replicaset.name": "checkout-api-7f8b9c6d5"},
    "search": {"k8s.namespace.name": "shop", "k8s.pod.name": "search-5d9f7b8c4-9zq7l",
               "k8s.container.name": "search", "k8s.deployment.name": "search",
               "k8s.replicaset.name": "search-5d9f7b8c4"},
    "postgres": {"k8s.namespace.name": "data", "k8s.pod.name": "postgres-0", "k8s.container.name": "postgres",
                 "k8s.statefulset.name": "postgres"},
    "report": {"k8s.namespace.name": "batch", "k8s.pod.name": "report-29374560-b7x2p", "k8s.container.name": "report",
               "k8s.job.name": "report-29374560", "k8s.cronjob.name": "report"},
}  # fmt: skip


class Faults:
    """The pods' cgroups and their disks and wire. `caused` counts what each round must have shown, by error type."""

    def __init__(self, cgroups: dict[str, ScratchCgroup], wire: Tunnel, small: Loop, mount: Path, slow: Loop) -> None:
        self.pods = {cgroups[name].id: pod for name, pod in _PODS.items()}
        self.caused: Counter[str] = Counter()
        self._cgroups = cgroups
        self._wire, self._small, self._mount, self._slow = wire, small, mount, slow
        self._database = free_port()  # where nobody listens

    def refuse(self, times: int) -> None:
        """The checkout's database is away."""
        command = clients.command("connect", "10.77.0.2", self._database, times, 111)
        self._cgroups["checkout"].run(self._wire.command("left", command))
        self.caused["CONNECTION_REFUSED"] += times

    def exit(self, times: int) -> None:
        """The report fails, and the checkout crashes once."""
        for _ in range(times):
            self._cgroups["report"].run(["/bin/sh", "-c", "exit 3"])
        self._cgroups["checkout"].run(victims.command("die_by", 11))
        self.caused["ABNORMAL_EXIT"] += times + 1

    def kill_for_memory(self) -> None:
        """The search runs into its limit."""
        self._cgroups["search"].run(victims.command("eat_memory", 3))
        self.caused["OOM_KILL"] += 1

    def fill_disk(self, times: int) -> None:
        """The database's disk has no room."""
        for index in range(times):
            self._cgroups["postgres"].run(self._small.write_command(16 * MIB + index * MIB, MIB // 4))
        self.caused["IO_ERROR"] += times
        self.caused["ABNORMAL_EXIT"] += times  # the writer itself

    def slow_disk(self, seconds: float) -> None:
        """One write of the database takes so long."""
        with frozen(self._mount):
            writer = self._cgroups["postgres"].start(self._slow.write_command(0, MIB // 16))
            time.sleep(seconds)
        writer.wait()
        self.caused["LATENCY_SPIKE"] += 1

    def no_answer(self, times: int) -> None:
        """The checkout's payment provider does not answer."""
        self._wire.set("left", "net.ipv4.tcp_syn_retries", 1)
        self._wire.drop = lambda _sender, packet: is_tcp(packet)
        command = clients.command("connect_at_once", "10.77.0.2", 8443, times, 110)
        self._cgroups["checkout"].run(self._wire.command("left", command))
        self._wire.drop = lambda _sender, _packet: False
        self.caused["CONNECTION_TIMEOUT"] += times

    def reset(self, times: int) -> None:
        """The search's peer resets each connection."""

        def serve(server: socket.socket) -> None:
            for _ in range(times):
                connection, _ = server.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=serve, args=(server,), daemon=True)
            thread.start()
            self._cgroups["search"].run(clients.command("await_reset", "127.0.0.1", server.getsockname()[1], times))
            thread.join()
        self.caused["RST_STORM"] += 1  # if all are within one window: at least one

    def lose_packets(self) -> None:
        """The postgres' replica is behind a bad wire."""
        lottery = random.Random(23)  # noqa: S311  # the same loss in each run
        self._wire.drop = lambda sender, p: sender == "left" and carries_data(p) and lottery.random() < 0.3
        with self._wire.listener("right") as server:
            command = clients.command("send", "10.77.0.2", server.getsockname()[1], 200)
            client = self._cgroups["postgres"].start(self._wire.command("left", command))
            connection, _ = server.accept()
            with connection:
                while connection.recv(65536):
                    pass
            client.wait()
        self._wire.drop = lambda _sender, _packet: False
        self.caused["RETRANSMIT_SPIKE"] += 1

    @contextlib.contextmanager
    def long_call(self, seconds: int) -> Iterator[None]:
        """A connection of the checkout that lives meanwhile; `slow_path` makes it slow."""

        def echo(server: socket.socket) -> None:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(65536):
                    connection.sendall(data)

        self._wire.delay_s = lambda: 0.0025
        with self._wire.listener("right") as server:
            threading.Thread(target=echo, args=(server,), daemon=True).start()
            command = clients.command("call", "10.77.0.2", server.getsockname()[1], seconds, 20)
            client: subprocess.Popen[bytes] = self._cgroups["checkout"].start(self._wire.command("left", command))
            try:
                yield
            finally:
                client.kill()
                client.wait()
                self.caused["ABNORMAL_EXIT"] += 1

    def slow_path(self) -> None:
        """From now on 90 ms in place of 5."""
        self._wire.delay_s = lambda: 0.045
        self.caused["RTT_DEGRADATION"] += 1


@contextlib.contextmanager
def cluster_faults(folder: Path) -> Iterator[Faults]:
    """Cgroups, a wire and disks; all removed at the end."""
    with contextlib.ExitStack() as stack:
        cgroups = {name: stack.enter_context(scratch_cgroup()) for name in _PODS}
        cgroups["search"].limit_memory(32 * MIB)
        wire = stack.enter_context(tunnel())
        full = stack.enter_context(tmpfs(folder / "full", "8m"))
        small = stack.enter_context(loop(full / "image", 64 * MIB))
        room = stack.enter_context(tmpfs(folder / "room", "192m"))
        lower = stack.enter_context(loop(room / "lower", 96 * MIB))
        mount = stack.enter_context(ext4(lower, folder / "mount"))
        slow = stack.enter_context(loop(mount / "slow", 16 * MIB))
        with (full / "filler").open("wb") as filler, contextlib.suppress(OSError):
            filler.write(bytes(16 * MIB))
        run("sync", "-f", mount)
        yield Faults(cgroups, wire, small, mount, slow)
