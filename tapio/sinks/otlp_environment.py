"""The standard variables OTEL_*, read and checked before the SDK sees them: it swallows bad values silently.

Each is one of a general and a per-signal form, of which the latter wins. An error names the variable and never
shows its value where that can hold credentials.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec
import requests

from tapio.errors import UsageError, is_utf8
from tapio.sinks.tls import TlsFiles

Signal = Literal["logs", "metrics"]

_DEFAULT_ENDPOINT = "http://localhost:4318"
_DEFAULT_TIMEOUT_S = 10.0
_DEFAULT_INTERVAL_S = 15.0
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Headers that say how a request is carried: they are the session's, and others would break every request.
_TRANSPORT = frozenset({
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "keep-alive",
    "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
# The specification counts in milliseconds, the Python SDK in seconds. No sensible timeout is below 300 ms or above
# 300 s, so both are understood.
_MILLISECONDS_FROM = 300.0


class OtlpSettings(msgspec.Struct, frozen=True):
    """Where and how one signal is sent."""

    endpoint: str  # as it is used, path included
    headers: dict[str, str]
    compression: Literal["gzip", "deflate", "none"]
    timeout_s: float
    tls: TlsFiles


def read_settings(environment: Mapping[str, str], signal: Signal, default_endpoint: str = "") -> OtlpSettings:
    """The settings of one signal; UsageError for a value that makes no sense.

    `default_endpoint` is the base URL where no variable names one; '' means the specification's.
    """

    def read(what: str) -> tuple[str, str]:
        """The variable that counts, and its value; '' when it is not set."""
        for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}"):
            if environment.get(name, "").strip():
                return name, environment[name].strip()
        return f"OTEL_EXPORTER_OTLP_{what}", ""

    name, protocol = read("PROTOCOL")
    if protocol not in ("", "http/protobuf"):
        raise UsageError(f"reading {name}: {_shown(protocol)}: only http/protobuf is spoken here: unset it")
    name, compression = read("COMPRESSION")
    if compression not in ("", "gzip", "deflate", "none"):
        raise UsageError(f"reading {name}: {_shown(compression)}: expected gzip, deflate or none")
    name, preference = read("TEMPORALITY_PREFERENCE") if signal == "metrics" else ("", "")
    if preference.lower() not in ("", "cumulative", "delta", "lowmemory"):
        raise UsageError(f"reading {name}: {_shown(preference)}: expected cumulative, delta or lowmemory")
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        raise UsageError("reading OTEL_SDK_DISABLED: true, but the sink otlp is chosen: unset one of them")
    ca, certificate, key = read("CERTIFICATE"), read("CLIENT_CERTIFICATE"), read("CLIENT_KEY")
    if key[1] and not certificate[1]:
        raise UsageError(f"reading {key[0]}: a key without a certificate: set …_CLIENT_CERTIFICATE too")
    endpoint = _endpoint(*read("ENDPOINT"), signal, default_endpoint)
    headers = dict(_pairs(*read("HEADERS"), header=True))
    if "@" in urlsplit(endpoint).netloc and "authorization" in map(str.lower, headers):
        name, _ = read("HEADERS")
        raise UsageError(f"reading {name}: Authorization, but the endpoint's URL has credentials too: remove either")
    return OtlpSettings(
        endpoint=endpoint,
        headers=headers,
        compression=compression or "gzip",  # type: ignore[arg-type]  # checked above
        timeout_s=_timeout_s(*read("TIMEOUT")),
        tls=TlsFiles(ca[1], certificate[1], key[1]),
    )


def read_resource(environment: Mapping[str, str]) -> dict[str, str]:
    """OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME as resource attributes; UsageError for a malformed list."""
    name = "OTEL_RESOURCE_ATTRIBUTES"
    attributes = dict(_pairs(name, environment.get(name, "").strip(), header=False))
    if environment.get("OTEL_SERVICE_NAME", "").strip():
        attributes["service.name"] = environment["OTEL_SERVICE_NAME"].strip()
        if not is_utf8(attributes["service.name"]):
            raise UsageError("reading OTEL_SERVICE_NAME: it is not UTF-8")
    return attributes


def read_metric_interval_s(environment: Mapping[str, str]) -> float:
    """OTEL_METRIC_EXPORT_INTERVAL, which is in milliseconds; UsageError unless it is 100 or more."""
    name = "OTEL_METRIC_EXPORT_INTERVAL"
    value = environment.get(name, "").strip()
    if not value:
        return _DEFAULT_INTERVAL_S
    if not value.isdecimal() or len(value) > 8 or not 100 <= int(value) <= 86_400_000:
        raise UsageError(f"reading {name}: {_shown(value)}: expected milliseconds, 100 to 86400000")
    return int(value) / 1000


def check_url(source: str, url: str) -> str:
    """`url` if it can be sent to; UsageError that names `source`, and not the password in the URL."""
    problem = ""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            problem = "expected http://HOST:PORT or https://HOST:PORT"
        elif parts.port == 0 or parts.fragment or re.search(r"[\s\x00-\x1f\x7f\\]", url) or not can_be_asked(url):
            problem = "not a URL that can be sent to"
    except ValueError:  # its text may show the password
        problem = "not a URL: expected http://HOST:PORT or https://HOST:PORT"
    if problem:
        raise UsageError(f"reading {source}: {problem}")
    return url


def can_be_asked(url: str) -> bool:
    """Whether requests and the resolver would accept the host, be it unknown."""
    try:
        host = urlsplit(str(requests.Request("POST", url).prepare().url)).hostname or ""
        host.encode("idna")
    except (requests.RequestException, UnicodeError):
        return False
    # An IPv6 address with a zone (%) is one that requests takes and never reaches.
    return re.fullmatch(r"[0-9A-Fa-f:.]+|[0-9A-Za-z._-]+", host) is not None


def _endpoint(name: str, value: str, signal: Signal, default: str) -> str:
    if value and signal.upper() in name:
        return check_url(name, value)
    base = check_url(name, value) if value else check_url("[otlp] endpoint", default or _DEFAULT_ENDPOINT)
    parts = urlsplit(base)
    return parts._replace(path=f"{parts.path.rstrip('/')}/v1/{signal}").geturl()


def _timeout_s(name: str, value: str) -> float:
    if not value:
        return _DEFAULT_TIMEOUT_S
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    seconds = number / 1000 if number >= _MILLISECONDS_FROM else number
    if not 0 < seconds <= _MILLISECONDS_FROM:
        raise UsageError(f"reading {name}: {_shown(value)}: expected milliseconds up to 300000, as 10000")
    return seconds


def _pairs(name: str, value: str, *, header: bool) -> list[tuple[str, str]]:
    """`key=value,…` with values in percent encoding."""
    pairs = []
    for number, item in enumerate(value.split(","), 1):
        if not item.strip():
            continue
        key, equals, raw = (part.strip() for part in item.partition("="))
        problem = ""
        if not equals or not key:
            problem = "expected KEY=VALUE"
        elif header and not _TOKEN.fullmatch(key):
            problem = "the name is not one of an HTTP header"
        elif header and key.lower() in _TRANSPORT:
            problem = "this header is set by Tapio alone"
        try:
            text = unquote(raw, errors="strict")
        except UnicodeDecodeError:
            text, problem = "", "the percent encoding is not UTF-8"
        if header and re.search(r"[^\t\x20-\x7e]", text):
            problem = "the value has a line break or another character that no HTTP header can hold"
        elif header and text != text.strip():
            problem = "the value begins or ends with a blank, which no HTTP header can hold"
        elif not is_utf8(key + text):
            problem = "it is not UTF-8"
        if problem:
            raise UsageError(f"reading {name}: item {number}: {problem}")
        pairs.append((key, text))
    return pairs


def _shown(value: str) -> str:
    return repr(value[:40])
