"""`tapio mcp`, asked by the package's own client over stdio."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.data_dirs import FACTS, TAPIO, DataDir

from tapio.anomalies import CATALOGUE
from tapio.cli.type_docs import describe

mcp_client = pytest.importorskip("mcp.client.client")
pytestmark = pytest.mark.filterwarnings("ignore")  # the client's, not ours


def talk(data: DataDir, talk_with: Callable[[Any], Awaitable[None]]) -> None:
    """Start `tapio mcp` and let a client talk with it."""
    from mcp.client.stdio import StdioServerParameters, stdio_client

    server = StdioServerParameters(command=str(TAPIO), args=["mcp", "--data-dir", str(data.path)])

    async def main() -> None:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            async with mcp_client.Client(stdio_client(server, errlog=nowhere)) as client:
                await talk_with(client)

    asyncio.run(asyncio.wait_for(main(), 60))


async def call(client: Any, tool: str, **arguments: object) -> dict[str, Any]:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer
    document: dict[str, Any] = json.loads(answer.content[0].text)
    return document


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.heartbeat()
    return made


def test_tools_and_resources(data: DataDir) -> None:
    for index, what in enumerate(FACTS):
        data.add(what, 30 + 60 * index, pod="shop/api-1")

    async def conversation(client: Any) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"tapio_recent_anomalies", "tapio_node_health", "tapio_watch_stream"}
        assert all(tool.annotations.read_only_hint for tool in tools.values())
        resources = (await client.list_resources()).resources
        assert {resource.name for resource in resources} == set(CATALOGUE)
        text = (await client.read_resource("tapio://types/kernel.container.oom_kill")).contents[0].text
        assert text == describe("kernel.container.oom_kill")

        recent = await call(client, "tapio_recent_anomalies", minutes=60)
        assert recent["occurrences_in_all"] == len(FACTS)
        assert recent["agent"]["state"] == "running"
        assert recent["occurrences"][0]["type"] == "kernel.network.connection_refused"
        some = await call(client, "tapio_recent_anomalies", minutes=60, observer="storage", severity="critical")
        assert [found["type"] for found in some["occurrences"]] == ["kernel.storage.io_error"]
        health = await call(client, "tapio_node_health")
        assert health["health"] == "critical"
        assert health["worst"][0]["where"] == "shop/api-1"

        assert (await call(client, "tapio_watch_stream", seconds=0))["occurrences"] == []
        new = [data.add("oom_kill"), data.add("oom_kill", 3000)]
        seen: list[str] = []
        while len(seen) < len(new):
            streamed = await call(client, "tapio_watch_stream", seconds=10)
            seen += [found["id"] for found in streamed["occurrences"]]
        assert sorted(seen) == sorted(new)
        assert (await call(client, "tapio_watch_stream", seconds=0))["occurrences"] == []

    talk(data, conversation)


def test_wrong_questions_have_an_answer_of_one_line(data: DataDir) -> None:
    async def conversation(client: Any) -> None:
        for tool, arguments in (
            ("tapio_recent_anomalies", {"observer": "gpu"}),
            ("tapio_recent_anomalies", {"severity": "bad"}),
            ("tapio_recent_anomalies", {"minutes": 0}),
            ("tapio_recent_anomalies", {"minutes": "banana"}),
            ("tapio_watch_stream", {"seconds": 1e9}),
            ("tapio_recent_anomalies", {"minute": 60}),
            ("tapio_recent_anomalies", {"observers": ["network"]}),
            ("tapio_node_health", {"minutes": 5}),
            ("tapio_watch_stream", {"since": "5m"}),
            ("tapio_recent_anomalies", {"limit": 0}),
            ("tapio_recent_anomalies", {"limit": 101}),
            ("tapio_watch_stream", {"limit": -1}),
            ("tapio_recent_anomalies", {"minutes": float("nan")}),
        ):
            answer = await client.call_tool(tool, arguments)
            assert answer.is_error
            assert "Traceback" not in answer.content[0].text

    talk(data, conversation)


def test_arguments_are_those_of_the_schema(data: DataDir) -> None:
    async def conversation(client: Any) -> None:
        for tool in (await client.list_tools()).tools:
            assert tool.input_schema["additionalProperties"] is False
        answer = await client.call_tool("tapio_recent_anomalies", {"minute": 60})
        assert "minute" in answer.content[0].text

    talk(data, conversation)


def test_answers_are_bounded_and_say_so(data: DataDir) -> None:
    for index in range(211):
        data.add("oom_kill", 10 + index, note="x" * 3000)
    huge = data.add("io_error", 5, note="x" * 900_000)

    async def conversation(client: Any) -> None:
        recent = await call(client, "tapio_recent_anomalies", minutes=60, limit=100)
        assert recent["occurrences_in_all"] == 212
        assert (recent["occurrences"][0]["id"], recent["occurrences"][0]["too_large_bytes"] > 900_000) == (huge, True)
        assert 50 < len(recent["occurrences"]) < 100
        assert len(json.dumps(recent)) < 300_000
        assert recent["truncated"] == f"{212 - len(recent['occurrences'])} older ones are left out: narrow the question"
        few = await call(client, "tapio_recent_anomalies", minutes=60, limit=3)
        assert (len(few["occurrences"]), few["truncated"]) == (3, "209 older ones are left out: narrow the question")
        assert (await call(client, "tapio_recent_anomalies", minutes=60, observer="network"))["truncated"] == ""
        assert len(json.dumps(await call(client, "tapio_node_health"))) < 300_000

    talk(data, conversation)


def test_what_a_stream_holds_back_comes_with_the_next_call(data: DataDir) -> None:
    async def conversation(client: Any) -> None:
        await call(client, "tapio_watch_stream", seconds=0)
        new = [data.add("oom_kill") for _ in range(23)]
        seen: list[list[str]] = []
        while not seen or seen[-1]:
            streamed = await call(client, "tapio_watch_stream", seconds=0.3, limit=7)
            seen.append([found["id"] for found in streamed["occurrences"]])
            assert streamed["truncated"] == ("there may be more: call again" if len(seen[-1]) == 7 else "")
        assert max(map(len, seen)) == 7
        assert sorted(identity for part in seen for identity in part) == sorted(new)

    talk(data, conversation)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_server(data: DataDir, number: signal.Signals) -> None:
    """Also while it waits for a client that says nothing."""
    with subprocess.Popen(
        [TAPIO, "mcp", "--data-dir", data.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        assert b'"serverInfo"' in process.stdout.readline()
        process.send_signal(number)
        assert process.wait(10) == -number
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_dead_agent_is_not_a_quiet_node(data: DataDir) -> None:
    data.heartbeat(age_s=300)

    async def conversation(client: Any) -> None:
        recent = await call(client, "tapio_recent_anomalies")
        assert recent["agent"]["state"] == "stale"
        assert (await call(client, "tapio_node_health"))["health"] == "unknown"

    talk(data, conversation)


def test_every_type_is_documented_with_fields_of_the_schema() -> None:
    schema = yaml.safe_load((Path(__file__).parents[2] / "otel" / "schema" / "data.yaml").read_text())
    known = {field["id"].removeprefix("data.") for group in schema["groups"] for field in group["attributes"]}
    for name in CATALOGUE:
        text = describe(name)
        assert text.startswith(name)
        named = set(re.findall(r"\b[a-z]+(?:_[a-z0-9]+)+\b", text.split("\ndata: ")[1]))
        assert named - {"first_seen", "last_seen", "ring_full", "program_busy", "unseen", "not_read"} <= known


def test_without_the_package_one_line() -> None:
    code = "import sys; sys.modules['mcp'] = None; from tapio.cli.main import main; sys.exit(main(['mcp']))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "starting the MCP server: importing mcp" in line
    assert "install tapio with its extra 'mcp'" in line
