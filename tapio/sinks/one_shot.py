"""A requests.Session in which a request is one attempt with an exact outcome, within one deadline.

A plain session follows redirects, reads answers of any size for any time, and takes certificates, proxies and
passwords from wherever it finds them. The OTLP exporter on top of it retries by itself and takes a redirect or a
fully rejected batch for success. Here every request leaves an `Outcome`, and everything but a good answer ends in
an exception of ours, which no caller retries.
"""

from __future__ import annotations

import errno
import http.client
import io
import logging
import math
import os
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.connection import HTTPConnection, HTTPSConnection

from tapio.errors import UsageError
from tapio.sinks.delivery import ALL, Outcome
from tapio.sinks.otlp_environment import can_be_asked
from tapio.sinks.tls import TlsFiles, make_context

MAX_ANSWER = 64 << 10
_RETRYABLE = (429, 502, 503, 504)
_MAX_RETRY_AFTER_S = 3600.0
# A receiver may have taken what it answers so strangely, so trying for ever could fill it with duplicates.
_MOST_TRIES_OF_NONSENSE = 5

# What a good answer says: content type, body → how many were rejected, and why. ValueError: it makes no sense.
ReadAnswer = Callable[[str, bytes], tuple[int, str]]


class RequestEndedError(Exception):
    """A request that did not end in a good answer. The session's `outcome` says how."""


class OneShotSession(requests.Session):
    """Sends to one place. `outcome` is that of the latest request; None: none was made since it was set so."""

    def __init__(self, url: str, tls: TlsFiles, timeout_s: float, read_answer: ReadAnswer) -> None:
        """UsageError when TLS files cannot be used. `timeout_s` bounds a whole request, from connect to answer."""
        super().__init__()
        silence_libraries()
        parts = urlsplit(url)
        self.outcome: Outcome | None = None
        self.timeout_s = timeout_s
        self._where = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        self._tls = tls
        self._read_answer = read_answer
        # No .netrc, no REQUESTS_CA_BUNDLE; proxies are asked for by hand.
        self.trust_env = False
        self.proxies.update(_proxies(url))
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers["Accept-Encoding"] = "identity"
        self._uses_tls = parts.scheme == "https" or any(p.startswith("https:") for p in self.proxies.values())
        self._stamp = tls.stamp()
        # Files that are named are checked, used or not.
        self._mount(make_context(tls) if self._uses_tls or tls.paths else None)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """One attempt. RequestEndedError unless the answer is good."""
        kwargs.update(allow_redirects=False, stream=True, timeout=urllib3.Timeout(total=self.timeout_s))
        self._renew_context()
        try:
            response = super().request(method, url, *args, **kwargs)
            with response:
                self.outcome = self._judge(response)
        except Exception as error:  # noqa: BLE001  # whatever a network or a server comes up with: nothing is decided
            most_tries = _MOST_TRIES_OF_NONSENSE if _is_nonsense(error) else None
            self.outcome = Outcome(
                "retry", most_tries=most_tries, message=f"sending to {self._where}: {_describe(error)}"
            )
            raise RequestEndedError(self.outcome.message) from None
        if self.outcome.verdict != "settled" or response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
            raise RequestEndedError(self.outcome.message)
        return response

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002  # the signature is requests'
        """No redirect is looked at: requests would read the whole answer for it, and fail at an odd Location."""
        return

    def _judge(self, response: requests.Response) -> Outcome:
        status = response.status_code
        doing = f"sending to {self._where}: answer {status}"
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            try:
                body = _read_body(response)
                if len(body) > MAX_ANSWER:
                    raise ValueError("too long")
                rejected, why = self._read_answer(response.headers.get("Content-Type", ""), body)
            except (ValueError, OSError, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
                what = str(error) if type(error) is ValueError else _describe(error)
                message = f"{doing} that makes no sense ({what}): is this the right endpoint?"
                return Outcome("retry", most_tries=_MOST_TRIES_OF_NONSENSE, message=message)
            trouble = f"{doing}, {rejected} rejected: {_plain(why)}" if why or rejected else ""
            return Outcome("settled", rejected, message=trouble)
        if status in _RETRYABLE:
            wait_s = _retry_after_s(response.headers.get("Retry-After", ""))
            asked = "" if wait_s is None else f", to be tried again after {wait_s:.0f} s"
            return Outcome("retry", retry_after_s=wait_s, message=f"{doing}{asked}")
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return Outcome("split", message=f"{doing}: one occurrence alone is too large for it")
        hint = {301: _REDIRECT, 302: _REDIRECT, 307: _REDIRECT, 308: _REDIRECT, 401: _KEY, 403: _KEY, 404: _PATH,
                407: _PROXY_KEY}  # fmt: skip
        return Outcome("settled", ALL, message=f"{doing}: {hint.get(status, 'it refuses what it was sent')}")

    def _mount(self, context: ssl.SSLContext | None) -> None:
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(context))

    def _renew_context(self) -> None:
        """Take over certificates that were replaced. While they do not fit together the old ones stay."""
        stamp = self._tls.stamp()
        if self._uses_tls and stamp != self._stamp:
            try:
                context = make_context(self._tls)
            except UsageError:
                return
            self._stamp = stamp
            self.adapters["https://"].close()
            self._mount(context)


def _read_body(response: requests.Response) -> bytes:
    """The answer, at most a little more than MAX_ANSWER; ValueError when what is compressed is not whole."""
    body = cast("bytes", response.raw.read(MAX_ANSWER + 1, decode_content=False))
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "identity" or not body:
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"compressed as {_plain(encoding)}")
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, by its first bytes
    try:
        plain = decoder.decompress(body, MAX_ANSWER + 1)
    except zlib.error:
        raise ValueError(f"not {encoding}") from None
    if not decoder.eof:
        raise ValueError("compressed, and too long or cut off")
    return plain


_REDIRECT = "redirects are refused, because they would carry credentials elsewhere: name the final endpoint"
_KEY = "the credentials are missing or wrong: check the headers"
_PROXY_KEY = "the proxy wants credentials: name them in its URL"
_PATH = "no such page: check the path of the endpoint"


class _Adapter(HTTPAdapter):
    """HTTP with our TLS context and one deadline for the whole answer."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if proxy not in self.proxy_manager:
            manager = super().proxy_manager_for(
                proxy, ssl_context=self._context, proxy_ssl_context=self._context, **kwargs
            )
            manager.pool_classes_by_scheme = _POOLS
        return self.proxy_manager[proxy]

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}

    def cert_verify(self, *_args: Any) -> None:
        """The context has it all."""


class _BoundedAnswer(http.client.HTTPResponse):
    """An answer of which every byte, status line and headers included, has to come before one deadline."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_DeadlineReader(self.fp.detach(), sock))

    def begin(self) -> None:
        """The head of the final answer: what may come before it, as 103, decides nothing."""
        super().begin()
        while self.status < HTTPStatus.OK:
            if self.status == HTTPStatus.SWITCHING_PROTOCOLS:
                raise http.client.BadStatusLine("101")
            self.headers = self.msg = None  # type: ignore[assignment]  # as it is before the first one
            super().begin()
        lengths = {
            length.strip() for value in self.headers.get_all("Content-Length", ()) for length in value.split(",")
        }
        if len(lengths) > 1 or not all(length.isdecimal() for length in lengths):
            raise http.client.HTTPException("Content-Length")


class _DeadlineReader(io.RawIOBase):
    """The socket's stream, with the socket's timeout as the time for all of it."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw, self._sock = raw, sock
        self._deadline = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _HTTPConnection(HTTPConnection):
    response_class = _BoundedAnswer


class _HTTPSConnection(HTTPSConnection):
    response_class = _BoundedAnswer


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


def _proxies(url: str) -> dict[str, str]:
    """What HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say about `url`; UsageError for one we cannot use."""
    scheme = urlsplit(url).scheme
    found = get_environ_proxies(url, no_proxy=None)
    proxy = found.get(scheme) or found.get("all")
    if not proxy:
        return {}
    try:
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        parts = urlsplit(proxy)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and can_be_asked(proxy)
    except ValueError:  # its text may show the password
        usable = False
    if not usable:
        variables = f"{scheme.upper()}_PROXY or ALL_PROXY"
        raise UsageError(f"reading {variables}: it must be http://HOST:PORT or https://HOST:PORT: or set NO_PROXY")
    return {scheme: proxy}


def silence_libraries() -> None:
    """Keep the SDK and urllib3 out of the log. We tell what happened, once for each outage; they would for each try.

    And they would show the whole URL, with what it may hold of secrets.
    """
    for name in ("opentelemetry", "urllib3"):
        library = logging.getLogger(name)
        library.propagate = False
        if not library.handlers:
            library.addHandler(logging.NullHandler())


def _retry_after_s(value: str) -> float | None:
    """Seconds to wait, from seconds or an HTTP date; None when there is nothing usable."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None


def _plain(text: str) -> str:
    """Foreign text, fit for one line of a log."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def _causes(error: BaseException) -> list[BaseException]:
    """The error and all that it came from."""
    seen: list[BaseException] = []
    pending = [error]
    while pending:
        cause = pending.pop(0)
        if cause not in seen:
            seen.append(cause)
            inner = [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
            pending += [item for item in inner if isinstance(item, BaseException)]
    return seen


def _is_nonsense(error: BaseException) -> bool:
    """Whether it was an answer in HTTP, of which the head cannot be read: who answers may have taken the request."""
    return any(
        isinstance(cause, http.client.HTTPException)
        and not isinstance(cause, http.client.BadStatusLine | http.client.IncompleteRead)
        for cause in _causes(error)
    )


def _describe(error: BaseException) -> str:
    """The cause in a few words. Never the text of a request error: it can hold the URL, and with it credentials."""
    seen = _causes(error)
    for cause in reversed(seen):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not good: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {(cause.reason or 'failed').replace('_', ' ').lower()}"
        if isinstance(cause, socket.gaierror):
            return f"looking up the name: {(cause.strerror or 'failed').lower()}"
    for cause in reversed(seen):
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
            return os.strerror(cause.errno).lower()
        if isinstance(cause, http.client.BadStatusLine | http.client.IncompleteRead):
            return "the answer was cut off or is not HTTP"
        if isinstance(cause, http.client.HTTPException):
            return "the answer has headers that make no sense"
    if any(isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError) for cause in seen):
        return "timed out"
    return f"the connection failed ({type(seen[-1]).__name__})"
