"""/metrics by TLS, for clients with a certificate, for names with passwords; all of it under the agent's filter."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import os
import socket
import ssl
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from helpers.certificates import Authority

from tapio.config import MetricsConfig
from tapio.errors import UsageError
from tapio.web import PLAIN, Answer, WebServer
from tapio.web_access import WebAccess

BODY = b"x" * 300_000


def page() -> Answer:
    return HTTPStatus.OK, PLAIN, BODY


@contextlib.contextmanager
def serving(config: MetricsConfig) -> Iterator[tuple[WebServer, WebAccess]]:
    access = WebAccess(config)
    server = WebServer("127.0.0.1", 0, {"/metrics": page, "/healthz": page}, access, ("/healthz",))
    try:
        yield server, access
    finally:
        server.close()


def get(
    server: WebServer, context: ssl.SSLContext | None, path: str = "/metrics", login: str = ""
) -> tuple[int, bytes]:
    """Status and body."""
    headers = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=5, context=context)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def trusting(authority: Authority, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.ca)
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def files(authority: Authority) -> dict[str, str]:
    """tls_cert and tls_key."""
    certificate, key = authority.issue("server")
    key.chmod(0o600)
    return {"tls_cert": str(certificate), "tls_key": str(key)}


def passwords(folder: Path, text: str) -> str:
    path = folder / "users"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls(authority: Authority, files: dict[str, str], version: ssl.TLSVersion) -> None:
    """Large answers come whole, also a hundred in a row; plain HTTP gets nothing."""
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    with serving(MetricsConfig(**files)) as (server, _):
        for _ in range(100):
            assert get(server, context) == (200, BODY)
        with pytest.raises((OSError, http.client.HTTPException)):
            get(server, None)


def test_what_follows_a_request_costs_no_client_its_answer(authority: Authority, files: dict[str, str]) -> None:
    """The body of a POST comes in records of its own, after which a farewell in TLS cannot be said properly."""
    with serving(MetricsConfig(**files)) as (server, _):
        for method, status in (("POST", 405), ("GET", 200)):
            connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=5, context=trusting(authority))
            with contextlib.closing(connection):
                connection.request(method, "/metrics", body=b"x" * 200_000)
                answer = connection.getresponse()
                assert (answer.status, len(answer.read()) > 0) == (status, True)


def test_old_versions_of_tls_are_refused(authority: Authority, files: dict[str, str]) -> None:
    context = trusting(authority)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with serving(MetricsConfig(**files)) as (server, _), pytest.raises((ssl.SSLError, ConnectionError)):
        get(server, context)


def test_200_idle_slow_and_garbage_clients(authority: Authority, files: dict[str, str]) -> None:
    """A scrape by TLS gets its answer within a second whatever the others do."""
    words = (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00", b"GET /metrics HTTP/1.1\r\n\r\n", b"\xff" * 100)
    context = trusting(authority)
    with serving(MetricsConfig(**files)) as (server, _), contextlib.ExitStack() as stack:
        for said in itertools.islice(itertools.cycle(words), 200):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            with contextlib.suppress(OSError):
                client.sendall(said)
        for _ in range(10):
            started = time.monotonic()
            assert get(server, context) == (200, BODY)
            assert time.monotonic() - started < 1


def test_clients_with_a_certificate(authority: Authority, files: dict[str, str], tmp_path: Path) -> None:
    """/metrics for those of our authority alone; the probes for everybody, because kubelets have none."""
    other = Authority(tmp_path / "other")
    with serving(MetricsConfig(**files, client_ca=str(authority.ca))) as (server, _):
        assert get(server, trusting(authority, authority.issue("client"))) == (200, BODY)
        assert get(server, trusting(authority))[0] == 403
        assert get(server, trusting(authority), "/healthz") == (200, BODY)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            get(server, trusting(authority, other.issue("client")))


@pytest.mark.parametrize(
    ("login", "status"),
    [("prometheus:s3cret:with colon", 200), ("ops:ünïcode", 200), ("prometheus:wrong", 401), ("", 401), (":", 401),
     ("prometheus", 401), ("ops:s3cret:with colon", 401)],
)  # fmt: skip
def test_names_and_passwords(tmp_path: Path, login: str, status: int) -> None:
    users = passwords(tmp_path, "# who may scrape\nprometheus:s3cret:with colon\n\nops:ünïcode\n")
    with serving(MetricsConfig(users_file=users)) as (server, _):
        assert get(server, None, login=login)[0] == status
        assert get(server, None, "/healthz")[0] == 200


def test_an_authorization_that_is_none(tmp_path: Path) -> None:
    with serving(MetricsConfig(users_file=passwords(tmp_path, "a:b\n"))) as (server, _):
        for value in (b"Basic", b"Basic \xff", b"Basic YTp!i", b"Bearer YTpi", b"Basic " + b"A" * 4000):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
                client.sendall(b"GET /metrics HTTP/1.1\r\nauthorization: " + value + b"\r\n\r\n")
                answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
            assert b'WWW-Authenticate: Basic realm="tapio"' in answer


def test_renewed_files_are_taken_over(authority: Authority, files: dict[str, str], tmp_path: Path) -> None:
    """And bad ones are not: what is in force stays."""
    config = MetricsConfig(**files, users_file=passwords(tmp_path, "a:b\n"))
    renewed = Authority(tmp_path / "renewed")
    with serving(config) as (server, access):
        assert get(server, trusting(authority), login="a:b")[0] == 200
        certificate, key = renewed.issue("server")
        Path(files["tls_cert"]).write_bytes(certificate.read_bytes())
        with pytest.raises(UsageError, match="key values mismatch"):
            access.load(config)
        assert get(server, trusting(authority), login="a:b")[0] == 200
        Path(files["tls_key"]).write_bytes(key.read_bytes())
        passwords(tmp_path, "c:d\n")
        access.load(config)
        assert get(server, trusting(renewed), login="a:b")[0] == 401
        assert get(server, trusting(renewed), login="c:d") == (200, BODY)


def test_files_that_cannot_be_used(files: dict[str, str], tmp_path: Path) -> None:
    """One line that names the file and what to do."""
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    nonsense.chmod(0o600)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    world = tmp_path / "world"
    world.write_text("a:b")
    world.chmod(0o644)
    for config, message in (
        ({**files, "tls_key": str(world)}, "everybody can read or write it: chmod 600"),
        ({**files, "tls_cert": "/dev/zero"}, "it is not a regular file: check"),
        ({**files, "client_ca": str(fifo)}, "it is not a regular file: check"),
        ({"users_file": str(fifo)}, "it is not a regular file: check"),
        ({**files, "tls_key": str(tmp_path / "none")}, "no such file or directory: check"),
        ({**files, "tls_cert": str(nonsense)}, "check the PEM files"),
        ({**files, "client_ca": str(nonsense)}, f"loading {nonsense} for /metrics: .*: check the PEM files"),
        ({"users_file": str(world)}, "everybody can read"),
        ({"users_file": str(nonsense)}, "entry 1 is not name:password"),
        ({"users_file": passwords(tmp_path, "# nobody\n")}, "it names nobody"),
    ):
        with pytest.raises(UsageError, match=message) as raised:
            WebAccess(MetricsConfig(**config))
        assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(ValueError, match="go together"):
        MetricsConfig(tls_cert="x")
    with pytest.raises(ValueError, match="needs tls_cert"):
        MetricsConfig(client_ca="x")
