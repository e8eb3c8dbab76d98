"""The way to the Kubernetes API server, by the `kubernetes` package: address, CA, proxy, and a token that is read anew.

Of the package only the configuration and `ApiClient` are used, and requests go through its connection pool: the
typed APIs (`CoreV1Api`) and `watch` would load hundreds of models, 22 MiB.
"""

from __future__ import annotations

import datetime
import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import urllib3
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.incluster_config import InClusterConfigLoader
from urllib3.connection import HTTPConnection
from urllib3.util.ssl_ import create_urllib3_context

from tapio import __version__
from tapio.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

_CONNECT_S = 5.0
_MAX_ERROR_BYTES = 4096
# A server, or the way to it, that is gone without a word is found out within 30 s: by probes while nothing is to be
# sent, else by what is not acknowledged.
_SOCKET_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
]
_HINTS = {
    401: "the token is not accepted: see whether the service account still exists",
    403: "grant the service account list and watch",
    404: "see whether the API server knows this resource",
}


class ApiServer:
    """Makes GET requests as the pod's service account."""

    def __init__(self, account: Path, environment: Mapping[str, str]) -> None:
        """`account` is the folder with token and ca.crt. UsageError when something of it is missing or damaged."""
        self._token, self._ca = account / "token", account / "ca.crt"
        configuration = Configuration(host="https://localhost")
        configuration.retries = False
        _check_address(environment)
        make_loader: Any = InClusterConfigLoader  # it has no annotations
        self._loader = make_loader(str(self._token), str(self._ca), environ=environment)
        try:
            self._loader.load_and_set(configuration)
        except (ConfigException, OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"reading the service account in {account}: {str(error).rstrip('.')}: mount its token and CA, and set "
                "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT, or set kubernetes.enabled = false"
            ) from error
        self._configuration = configuration
        self._pool = ApiClient(configuration).rest_client.pool_manager
        # Python 3.13 refuses a CA without a key usage extension, as many a cluster has: the other clients take it.
        context = create_urllib3_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        try:
            context.load_verify_locations(self._ca)
        except ssl.SSLError as error:
            raise UsageError(
                f"reading {self._ca}: it holds no certificate ({error.reason or error}): mount the cluster's CA there"
            ) from error
        self._pool.connection_pool_kw["ssl_context"] = context
        self._pool.connection_pool_kw["socket_options"] = [*HTTPConnection.default_socket_options, *_SOCKET_OPTIONS]

    def check_readable(self) -> None:
        """UsageError unless the user that this process is now can read token and CA again."""
        for path in (self._token, self._ca):
            if not os.access(path, os.R_OK):
                raise UsageError(
                    f"reading {path} as uid {os.getuid()}: permission denied: set fsGroup of the pod to {os.getgid()}, "
                    "or make the file readable for that user"
                )

    def get(self, path: str, parameters: Mapping[str, str], read_timeout_s: float) -> BaseHTTPResponse:
        """The open answer to a GET, its body unread; ClusterError unless its status is 200."""
        host = self._configuration.host
        doing = f"asking {host}{path}"
        headers = {
            "Accept": "application/json",
            "Authorization": f"Bearer {self._read_token(doing)}",
            "User-Agent": f"tapio/{__version__}",
        }
        try:
            answer: BaseHTTPResponse = self._pool.request(
                "GET",
                f"{host}{path}?{urlencode(parameters)}",
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=read_timeout_s),
            )
        except urllib3.exceptions.ReadTimeoutError as error:
            raise ClusterError(f"{doing}: no answer within {read_timeout_s:g} s: it is tried again", 504) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:  # OSError: the CA cannot be read any more
            raise ClusterError(f"{doing}: {error}: it is tried again") from error
        if answer.status == 200:
            return answer
        raise self._refusal(doing, answer)

    def _read_token(self, doing: str) -> str:
        """The token of now: the package reads it anew each minute."""
        try:
            token = str(self._configuration.get_api_key_with_prefix("BearerToken") or "").split(" ", 1)[-1].strip()
            if not (token.isascii() and token.isprintable()):
                raise ValueError("it has characters that no token has")
        except (ConfigException, OSError, ValueError) as error:
            raise ClusterError(f"{doing}: reading the token: {error}: see {self._token}") from error
        return token

    def _refusal(self, doing: str, answer: BaseHTTPResponse) -> ClusterError:
        if answer.status == 401:  # a token that was renewed is read at once, not within a minute
            self._loader.token_expires_at = datetime.datetime.min
        try:
            words = answer.read(_MAX_ERROR_BYTES).decode("utf-8", "replace")
        except (urllib3.exceptions.HTTPError, OSError):
            words = ""
        answer.close()
        retry_after = answer.headers.get("Retry-After", "")
        hint = _HINTS.get(answer.status, "it is tried again")
        return ClusterError(
            f"{doing}: HTTP {answer.status} {' '.join(words.split())[:200]}: {hint}",
            answer.status,
            min(float(retry_after), 300.0) if retry_after.isdecimal() else 0.0,
        )


def _check_address(environment: Mapping[str, str]) -> None:
    """UsageError unless the environment's host and port make an address, where they are set."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    try:
        parsed = urllib3.util.parse_url(url)
    except urllib3.exceptions.LocationParseError:
        parsed = urllib3.util.Url()
    if host and port and (not parsed.port or f"https://{parsed.host}:{parsed.port}" != url.lower()):
        raise UsageError(
            f"reading KUBERNETES_SERVICE_HOST {host!r} and KUBERNETES_SERVICE_PORT {port!r}: no host and port: set the "
            "API server's, or kubernetes.enabled = false"
        )
