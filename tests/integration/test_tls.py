"""HTTPS with a private CA, mutual TLS, and what must not have a say in it."""

from __future__ import annotations

import base64
import contextlib
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.certificates import Authority
from helpers.occurrences import occurrences
from helpers.raw_server import drip, raw_server
from helpers.receiver import Receiver, receiver
from helpers.running_agent import wait_for

from tapio.errors import UsageError
from tapio.sinks.delivery import Backoff
from tapio.sinks.otlp import OtlpSink
from tapio.sinks.otlp_environment import read_settings
from tapio.sinks.tls import TlsFiles, make_context

PREFIX = "OTEL_EXPORTER_OTLP_"


def make_sink(target: Receiver | str, directory: int, **variables: object) -> OtlpSink:
    url = target if isinstance(target, str) else target.url
    environment = {
        f"{PREFIX}{name}": str(value) for name, value in {"ENDPOINT": url, "TIMEOUT": "2", **variables}.items()
    }
    return OtlpSink(read_settings(environment, "logs"), {}, directory, 1 << 20, Backoff(0.02, 0.1))


def delivers(sink: OtlpSink, number: int = 3) -> bool:
    """Whether `number` occurrences arrive; closes the sink."""
    for one in occurrences(number):
        sink.send(one)
    flushed = sink.flush(time.monotonic() + 5)
    sink.close()
    return flushed and sink.results["accepted"] == number


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


def test_a_private_ca_is_trusted(authority: Authority, directory: int) -> None:
    with receiver(authority.server_context()) as collector:
        assert delivers(make_sink(collector, directory, CERTIFICATE=authority.ca))


def test_another_ca_is_refused(authority: Authority, directory: int, tmp_path: Path) -> None:
    """Nothing is sent, nothing is lost, the reason is named."""
    other = Authority(tmp_path / "other")
    with receiver(authority.server_context()) as collector:
        sink = make_sink(collector, directory, CERTIFICATE=other.ca)
        assert not delivers(sink)
        assert collector.requests == []
        assert "certificate is not good" in sink.last_error
        assert sink.results == {"accepted": 0, "rejected": 0, "dropped": 0}
        assert sink.backlog == 3


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("expired", "certificate has expired"),
        ("wrong name", "not valid for '127.0.0.1'"),
        ("self-signed", "self-signed certificate"),
        ("TLS 1.1", "TLS: "),
        ("plain HTTP", "TLS: "),
        ("reset", "connection reset by peer"),
        ("closed", "TLS: "),
        ("silent", "timed out"),
        ("dripping", "timed out"),
    ],
)
def test_a_server_that_cannot_be_trusted(authority: Authority, directory: int, server: str, said: str) -> None:
    """Nothing is sent, nothing is lost, the reason is named, and the time is bounded."""
    context = authority.server_context()
    if server == "expired":
        context.load_cert_chain(*authority.issue("old", days=-1))
    elif server == "wrong name":
        context.load_cert_chain(*authority.issue("elsewhere", address="127.0.0.2"))
    elif server == "self-signed":
        context.load_cert_chain(authority.folder / "ca.pem", authority.folder / "ca.key")
        authority = Authority(authority.folder / "another")
    elif server == "TLS 1.1":
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
    odd: dict[str, Callable[[socket.socket], object]] = {
        "reset": lambda client: client.recv(1),  # closed with unread bytes
        "closed": lambda client: client.recv(65536),
        "silent": lambda _client: time.sleep(3),
        "dripping": drip(b"\x16\x03\x03\x40\x00" + bytes(100), 0.1),
    }
    with receiver(None if server == "plain HTTP" else context) as good, raw_server(odd.get(server, print)) as bad:
        url = f"https://127.0.0.1:{bad.port if server in odd else good.port}"
        sink = make_sink(url, directory, CERTIFICATE=authority.ca, TIMEOUT=1)
        for one in occurrences(3):
            sink.send(one)
        started = time.monotonic()
        wait_for(lambda: sink.last_error, 10)
        assert time.monotonic() - started < 4
        assert said in sink.last_error
        sink.close()
        assert good.requests == []
        assert (sink.results, sink.backlog) == ({"accepted": 0, "rejected": 0, "dropped": 0}, 3)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_requests_ca_bundle_has_no_say(
    authority: Authority, directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Neither does a foreign bundle break what is configured, nor does a good one replace it."""
    other = Authority(tmp_path / "other")
    with receiver(authority.server_context()) as collector:
        monkeypatch.setenv(variable, str(other.ca))
        assert delivers(make_sink(collector, directory, CERTIFICATE=authority.ca))
        monkeypatch.setenv(variable, str(authority.ca))
        assert not delivers(make_sink(collector, directory, CERTIFICATE=other.ca))


def test_mutual_tls(authority: Authority, directory: int, tmp_path: Path) -> None:
    """With the client's certificate it goes through, without or with a foreign one it does not."""
    other = Authority(tmp_path / "other")
    certificate, key = authority.issue("client")
    foreign_certificate, foreign_key = other.issue("client")
    with receiver(authority.server_context(clients_of=authority)) as collector:
        assert delivers(
            make_sink(collector, directory, CERTIFICATE=authority.ca, CLIENT_CERTIFICATE=certificate, CLIENT_KEY=key)
        )
        count = len(collector.requests)
        assert not delivers(make_sink(collector, directory, CERTIFICATE=authority.ca))
        assert not delivers(
            make_sink(collector, directory, CERTIFICATE=authority.ca, CLIENT_CERTIFICATE=foreign_certificate,
                      CLIENT_KEY=foreign_key)
        )  # fmt: skip
        assert len(collector.requests) == count


def test_replaced_certificates_are_taken_over(authority: Authority, directory: int, tmp_path: Path) -> None:
    """A sink that was given the wrong CA delivers once the file is replaced, without a restart."""
    bundle = tmp_path / "bundle.pem"
    shutil.copy(Authority(tmp_path / "other").ca, bundle)
    with receiver(authority.server_context()) as collector:
        sink = make_sink(collector, directory, CERTIFICATE=bundle)
        for one in occurrences(3):
            sink.send(one)
        wait_for(lambda: "certificate" in sink.last_error)
        shutil.copy(authority.ca, bundle)
        wait_for(lambda: sink.results["accepted"] == 3, 10)
        sink.close()


@pytest.mark.parametrize("bad", ["missing", "not PEM", "foreign key", "encrypted key", "a folder"])
def test_files_that_cannot_be_used_are_an_error_of_one_line(authority: Authority, tmp_path: Path, bad: str) -> None:
    certificate, key = authority.issue("client")
    files = {
        "missing": TlsFiles(ca=str(tmp_path / "none.pem")),
        "not PEM": TlsFiles(ca=str(tmp_path / "text.pem")),
        "foreign key": TlsFiles(str(authority.ca), str(certificate), str(authority.folder / "ca.key")),
        "encrypted key": TlsFiles(str(authority.ca), str(certificate), str(tmp_path / "locked.key")),
        "a folder": TlsFiles(ca=str(tmp_path)),
    }[bad]
    (tmp_path / "text.pem").write_text("hello\n")
    locked = ["openssl", "ec", "-aes256", "-passout", "pass:secret", "-in", key, "-out", tmp_path / "locked.key"]
    subprocess.run(locked, check=True, capture_output=True)
    with pytest.raises(UsageError) as caught:
        make_context(files)
    assert "\n" not in str(caught.value)
    assert str(files.paths[1 if "key" in bad else 0]) in str(caught.value)
    make_context(TlsFiles(str(authority.ca), str(certificate), str(key)))


def test_netrc_is_not_read(
    directory: int, collector: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert delivers(make_sink(collector, directory))
    assert "authorization" not in collector.requests[0].headers


def test_a_proxy_is_used_and_no_proxy_is_honoured(
    directory: int, collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver plays the proxy: a proxied request names the whole URL."""
    monkeypatch.setenv("http_proxy", collector.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert delivers(make_sink("http://collector.example:4318", directory))
    assert collector.requests[-1].path == "http://collector.example:4318/v1/logs"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert delivers(make_sink(collector, directory))
    assert collector.requests[-1].path == "/v1/logs"


@pytest.mark.parametrize("refused", [False, True])
def test_the_credentials_of_a_proxy_go_to_the_proxy_alone(
    directory: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    authority: Authority,
    refused: bool,
) -> None:
    """And into no log, also when the proxy refuses them. Nothing is lost then."""
    caplog.set_level(logging.DEBUG)
    answer = b"HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
    with receiver(authority.server_context()) as collector, contextlib.ExitStack() as stack:
        if refused:
            proxy = stack.enter_context(raw_server(answer, close=True))
            port, asked = proxy.port, proxy.requests
        else:
            port, asked = stack.enter_context(connect_proxy(collector.port))
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:hunter2@127.0.0.1:{port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        sink = make_sink(collector, directory, CERTIFICATE=authority.ca)
        assert delivers(sink) is not refused
        assert sink.backlog == 3 * refused
        secret = base64.b64encode(b"user:hunter2")
        assert b"Proxy-Authorization: Basic " + secret in asked[0]
        assert all("proxy-authorization" not in request.headers for request in collector.requests)
    told = caplog.text + sink.last_error + repr(sink._session)
    assert "hunter2" not in told
    assert secret.decode() not in told


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:1", "http://u:hunter2@*bad:1", "http://u:hunter2@a:b", "ftp://a"]
)
def test_a_proxy_that_cannot_be_used_stops_the_start(
    directory: int, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="HTTP_PROXY") as caught:
        make_sink("http://collector.example:4318", directory)
    assert "hunter2" not in str(caught.value)


def test_https_through_a_proxy(directory: int, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy sees a CONNECT and no more; our own certificate authority counts at the other end."""
    with receiver(authority.server_context()) as collector, connect_proxy(collector.port) as (port, asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert delivers(make_sink(f"https://127.0.0.1:{collector.port}", directory, CERTIFICATE=authority.ca))
        assert asked[0].startswith(b"CONNECT 127.0.0.1:")


@contextlib.contextmanager
def connect_proxy(target: int) -> Iterator[tuple[int, list[bytes]]]:
    """A proxy whose every CONNECT leads to the port `target`; its port, and the requests that it saw."""
    asked: list[bytes] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                asked.append(client.recv(65536))
                server = socket.create_connection(("127.0.0.1", target))
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1], asked
        listener.shutdown(socket.SHUT_RDWR)


def test_headers_are_sent_and_never_logged(
    directory: int, collector: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Not by us, not by a library, not when it fails."""
    caplog.set_level(logging.DEBUG)
    secret = base64.b64encode(b"12345:glc_secret").decode()
    collector.script += ["401", "503", "302", "reset"]
    headers = f"X-Api-Key=Basic%20{secret},X-Scope-OrgID=tenant"
    with_password = collector.url.replace("//", "//user:hunter2@")
    sink = make_sink(with_password, directory, HEADERS=headers)
    for _ in range(5):
        sink.send(occurrences(1)[0])
        sink.flush(time.monotonic() + 2)
    wait_for(lambda: sink.backlog == 0, 10)
    sink.close()
    assert collector.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"user:hunter2").decode()
    assert collector.requests[0].headers["x-api-key"] == f"Basic {secret}"
    assert collector.requests[0].headers["x-scope-orgid"] == "tenant"
    told = caplog.text + sink.last_error + repr(sink._session)
    assert secret not in told
    assert "hunter2" not in told
    assert "answer 401" in told
