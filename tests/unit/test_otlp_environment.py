"""The variables OTEL_*: what they mean, and that a bad one is an error and not a default."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tapio.errors import UsageError
from tapio.sinks.otlp_environment import _pairs, check_url, read_metric_interval_s, read_resource, read_settings
from tapio.sinks.tls import TlsFiles

P = "OTEL_EXPORTER_OTLP_"


def test_defaults() -> None:
    settings = read_settings({}, "logs")
    assert settings.endpoint == "http://localhost:4318/v1/logs"
    assert (settings.headers, settings.compression, settings.timeout_s) == ({}, "gzip", 10.0)
    assert settings.tls == TlsFiles()
    assert read_metric_interval_s({}) == 15.0


@pytest.mark.parametrize(
    ("variables", "config", "endpoint"),
    [
        ({"ENDPOINT": "http://c:4318"}, "", "http://c:4318/v1/logs"),
        ({"ENDPOINT": "https://gw.example/otlp/"}, "", "https://gw.example/otlp/v1/logs"),
        ({"ENDPOINT": "http://c:4318", "LOGS_ENDPOINT": "http://l:1/x"}, "", "http://l:1/x"),
        ({"LOGS_ENDPOINT": "http://l:1"}, "", "http://l:1"),
        ({"METRICS_ENDPOINT": "http://m:1/x"}, "", "http://localhost:4318/v1/logs"),
        ({}, "http://file:4318", "http://file:4318/v1/logs"),
        ({"ENDPOINT": "http://c:4318"}, "http://file:4318", "http://c:4318/v1/logs"),
        ({"ENDPOINT": "http://[::1]:4318"}, "", "http://[::1]:4318/v1/logs"),
        ({"ENDPOINT": "http://[::ffff:127.0.0.1]:4318"}, "", "http://[::ffff:127.0.0.1]:4318/v1/logs"),
        ({"ENDPOINT": "http://a_b.c-d.:4318"}, "", "http://a_b.c-d.:4318/v1/logs"),
        ({"ENDPOINT": "https://b\u00fccher.example/otlp"}, "", "https://b\u00fccher.example/otlp/v1/logs"),
        ({"ENDPOINT": "   "}, "", "http://localhost:4318/v1/logs"),
    ],
)
def test_endpoints(variables: dict[str, str], config: str, endpoint: str) -> None:
    """A signal's variable wins over the general one, that over the file; only the base gets a path."""
    assert read_settings({P + name: value for name, value in variables.items()}, "logs", config).endpoint == endpoint


def test_a_signals_variables_win() -> None:
    environment = {
        P + "HEADERS": "a=1,b=2", P + "LOGS_HEADERS": "c=3", P + "COMPRESSION": "gzip", P + "LOGS_COMPRESSION": "none",
        P + "TIMEOUT": "10000", P + "LOGS_TIMEOUT": "2500", P + "CERTIFICATE": "/g", P + "LOGS_CERTIFICATE": "/l",
        P + "CLIENT_CERTIFICATE": "/gc", P + "CLIENT_KEY": "/gk", P + "LOGS_CLIENT_KEY": "/lk",
    }  # fmt: skip
    logs, metrics = read_settings(environment, "logs"), read_settings(environment, "metrics")
    assert (logs.headers, logs.compression, logs.timeout_s) == ({"c": "3"}, "none", 2.5)
    assert logs.tls == TlsFiles("/l", "/gc", "/lk")
    assert (metrics.headers, metrics.compression, metrics.timeout_s) == ({"a": "1", "b": "2"}, "gzip", 10.0)
    assert metrics.tls == TlsFiles("/g", "/gc", "/gk")


@pytest.mark.parametrize(("value", "seconds"), [("10", 10), ("2.5", 2.5), ("10000", 10), ("300", 0.3), ("299", 299)])
def test_timeouts_in_milliseconds_as_specified_and_in_seconds_as_python_has_them(value: str, seconds: float) -> None:
    assert read_settings({P + "TIMEOUT": value}, "logs").timeout_s == seconds


def test_headers_are_percent_decoded() -> None:
    headers = read_settings({P + "HEADERS": "Authorization=Basic%20MTI6eA==, X-Scope-OrgID = a ,"}, "logs").headers
    assert headers == {"Authorization": "Basic MTI6eA==", "X-Scope-OrgID": "a"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROTOCOL", "grpc"), ("LOGS_PROTOCOL", "http/json"), ("COMPRESSION", "zstd"), ("TIMEOUT", "banana"),
        ("TIMEOUT", "0"), ("TIMEOUT", "-1"), ("TIMEOUT", "nan"), ("TIMEOUT", "inf"), ("TIMEOUT", "400000"),
        ("ENDPOINT", "collector:4318"), ("ENDPOINT", "grpc://c:4317"), ("ENDPOINT", "http://"),
        ("ENDPOINT", "http://c:99999"),
        ("ENDPOINT", "http://c:x"), ("ENDPOINT", "http://c/a b"), ("ENDPOINT", "http://[::1"), ("ENDPOINT", "http://c/#f"),
        ("HEADERS", "a: x"), ("HEADERS", "novalue"), ("HEADERS", "=x"), ("HEADERS", "a b=x"),
        ("HEADERS", "a=x%0d%0aB: y"),
        ("HEADERS", "a=x%00"), ("HEADERS", "a=%ff"), ("HEADERS", "a=\u00e4"),
        ("HEADERS", "a=x\ny"), ("CLIENT_KEY", "/k"),
        *(("HEADERS", f"a=b,{name}=1") for name in ("Content-Length", "transfer-encoding", "Expect", "Content-Encoding",
                                                   "content-type", "Connection", "TE", "Accept-Encoding")),
        *(("ENDPOINT", f"http://{host}:4318") for host in ("*bad", "a..b", ".a", "x" * 64, "a\u2025b", "a b", "a%20b",
                                                          "a;b", "a\\b", "[fe80::1%eth0]", "[fe80::1%25eth0]", "[::g]",
                                                          "[v1.a]", "a,b", "u@", "a\x00", "a\nb", "$(id)", "\udc80")),
    ],
)  # fmt: skip
def test_a_bad_value_is_an_error_of_one_line(name: str, value: str) -> None:
    """It names the variable."""
    with pytest.raises(UsageError) as caught:
        read_settings({P + name: value}, "logs")
    assert P + name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("HEADERS", "Authorization=hunter2%0a"), ("HEADERS", "hunter2"), ("ENDPOINT", "ftp://u:hunter2@c"),
     ("ENDPOINT", "http://u:hunter2@c:x"), ("ENDPOINT", "http://u:hunter2@c/ x")],
)  # fmt: skip
def test_an_error_shows_no_credentials(name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_settings({P + name: value}, "logs")
    assert "hunter2" not in str(caught.value)


def test_credentials_that_contradict_each_other_stop_the_start() -> None:
    """The library would let those of the URL win, silently."""
    with pytest.raises(UsageError, match="OTEL_EXPORTER_OTLP_HEADERS: Authorization") as caught:
        read_settings({P + "ENDPOINT": "http://u:hunter2@c", P + "HEADERS": "authorization=Basic%20hunter2"}, "logs")
    assert "hunter2" not in str(caught.value)


def test_resource_attributes() -> None:
    environment = {"OTEL_RESOURCE_ATTRIBUTES": "k8s.cluster.name=prod%2Ceu,team=a=b", "OTEL_SERVICE_NAME": "kernel"}
    assert read_resource(environment) == {"k8s.cluster.name": "prod,eu", "team": "a=b", "service.name": "kernel"}
    with pytest.raises(UsageError, match="OTEL_RESOURCE_ATTRIBUTES: item 2"):
        read_resource({"OTEL_RESOURCE_ATTRIBUTES": "a=b,c"})


@pytest.mark.parametrize("value", ["banana", "0", "-1", "1.5", "99", "99999999999"])
def test_a_bad_interval(value: str) -> None:
    with pytest.raises(UsageError, match="OTEL_METRIC_EXPORT_INTERVAL"):
        read_metric_interval_s({"OTEL_METRIC_EXPORT_INTERVAL": value})
    assert read_metric_interval_s({"OTEL_METRIC_EXPORT_INTERVAL": "60000"}) == 60.0


def test_what_belongs_to_the_sdk_is_checked_too() -> None:
    with pytest.raises(UsageError, match="TEMPORALITY_PREFERENCE"):
        read_settings({P + "METRICS_TEMPORALITY_PREFERENCE": "banana"}, "metrics")
    read_settings({P + "METRICS_TEMPORALITY_PREFERENCE": "banana"}, "logs")
    with pytest.raises(UsageError, match="OTEL_SDK_DISABLED"):
        read_settings({"OTEL_SDK_DISABLED": "true"}, "logs")


def test_the_sdk_is_not_heard_about_its_own_variables() -> None:
    """It falls back to its defaults, which are what is wanted here; a traceback in the log is not."""
    code = """
from tapio.config import Config
from tapio.sinks.chosen import ChosenSinks
ChosenSinks(Config(sinks=("otlp",)), {}, "node").need_metric_export()
"""
    environment = {**os.environ, "OTEL_PYTHON_CONTEXT": "banana", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "banana"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=60)
    assert done.stderr == b""


@pytest.mark.parametrize("url", ["http://user:Abc/SECRET@127.0.0.1:4318", "http://user:SEC\u2100RET@127.0.0.1:4318"])
def test_an_unusable_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_url("--polku-endpoint", url)
    assert not any(part in str(caught.value).lower() for part in ("abc", "sec", "user"))


@pytest.mark.parametrize("value", ["x-a=%20abc", "x-a=abc%09"])
def test_a_header_value_with_blanks_around_it_stops_the_start(value: str) -> None:
    with pytest.raises(UsageError, match="begins or ends with a blank"):
        _pairs("OTEL_EXPORTER_OTLP_HEADERS", value, header=True)


def test_a_resource_that_is_not_text_stops_the_start() -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        _pairs("OTEL_RESOURCE_ATTRIBUTES", "service.name=a\udcff", header=False)


def test_an_interval_without_end_stops_the_start() -> None:
    with pytest.raises(UsageError, match="expected milliseconds"):
        read_metric_interval_s({"OTEL_METRIC_EXPORT_INTERVAL": "9" * 5000})
