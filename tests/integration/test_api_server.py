"""The way to the API server: its address, its authority, the account's token, a connection that dies in silence."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from helpers.api_server import ApiServerDouble, api_server, make_pod
from helpers.running_agent import wait_for
from helpers.watched import Watched

from tapio.enrich.api_server import ApiServer
from tapio.errors import ClusterError, UsageError


@pytest.mark.parametrize(("missing", "message"), [("token", "token file"), ("ca.crt", "certification file")])
def test_a_service_account_that_is_not_whole(api: ApiServerDouble, missing: str, message: str) -> None:
    (api.account / missing).unlink()
    with pytest.raises(UsageError, match=f"reading the service account in .*{message}.*: mount its token and CA"):
        ApiServer(api.account, api.environment)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PORT", "https"), ("PORT", "0"), ("PORT", "99999"), ("PORT", "443/tcp"), ("HOST", "bad host"), ("HOST", "me@it"),
     ("HOST", "tcp://10.0.0.1")],
)  # fmt: skip
def test_an_address_that_is_none(api: ApiServerDouble, variable: str, value: str) -> None:
    """It is the environment that is named, not the token."""
    with pytest.raises(UsageError, match=rf"KUBERNETES_SERVICE_{variable} '{value}'.*: no host and port: set the "):
        ApiServer(api.account, {**api.environment, f"KUBERNETES_SERVICE_{variable}": value})


@pytest.mark.parametrize("content", ["hello\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_ca_that_is_none_stops_the_start(api: ApiServerDouble, content: str) -> None:
    (api.account / "ca.crt").write_text(content)
    with pytest.raises(UsageError, match=r"reading .*ca\.crt: it holds no certificate \(.+\): mount the cluster's CA"):
        ApiServer(api.account, api.environment)


def test_another_authority_is_not_trusted(api: ApiServerDouble, tmp_path: Path) -> None:
    with api_server(tmp_path / "other") as other:
        (api.account / "ca.crt").write_bytes(other.authority.ca.read_bytes())
    server = ApiServer(api.account, api.environment)
    with pytest.raises(ClusterError, match="CERTIFICATE_VERIFY_FAILED"):
        server.get("/api/v1/pods", {}, 5)
    assert api.asked == [], "the token was not sent"


def test_a_token_that_was_renewed_is_used_at_once(api: ApiServerDouble) -> None:
    """The old one is refused, the file has a new one: the next request has it."""
    watched = Watched(api)
    wait_for(lambda: api.watchers == 1)
    (api.account / "token").write_text("second-token\n")
    api.tokens = {"second-token"}
    api.drop_watches()
    pod = api.put("pods", make_pod())
    watched.wait_for(lambda: watched.knows(pod))
    assert [asked.token for asked in api.asked if asked.is_watch][-1] == "second-token"


def test_a_token_that_is_none_is_tried_again(api: ApiServerDouble, caplog: pytest.LogCaptureFixture) -> None:
    (api.account / "token").write_text("two\nlines")
    watched = Watched(api)
    watched.wait_for(lambda: any("reading the token: it has characters" in line for line in caplog.messages))
    assert api.asked == []


def test_a_way_that_is_gone_without_a_word_is_probed(api: ApiServerDouble) -> None:
    """A connection that says nothing, and one on which nothing is acknowledged, end after 30 s."""
    answer = ApiServer(api.account, api.environment).get("/api/v1/pods", {}, 5)
    sock = answer.connection.sock
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    idle_s, interval_s, probes, unacknowledged_ms = (sock.getsockopt(socket.IPPROTO_TCP, one) for one in options)
    assert idle_s + interval_s * probes == unacknowledged_ms / 1000 == 30
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    answer.close()
