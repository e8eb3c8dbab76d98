"""A private certificate authority for tests, by the openssl command."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def _openssl(*arguments: str | int | Path, folder: Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], cwd=folder, check=True, capture_output=True)


class Authority:
    """A CA in a folder of its own: `ca` is its certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.ca = folder / "ca.pem"
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key",
                 "-out", "ca.pem", "-days", "2", "-subj", f"/CN={folder.name}", folder=folder)  # fmt: skip

    def issue(self, name: str, address: str = "127.0.0.1", days: int = 2) -> tuple[Path, Path]:
        """Certificate and key for `address`; with negative `days` it has expired."""
        _openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key",
                 "-out", f"{name}.csr", "-subj", f"/CN={name}", folder=self.folder)  # fmt: skip
        (self.folder / f"{name}.ext").write_text(f"subjectAltName=IP:{address},DNS:localhost\n")
        _openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                 "-out", f"{name}.pem", "-days", days, "-extfile", f"{name}.ext", folder=self.folder)  # fmt: skip
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def server_context(self, address: str = "127.0.0.1", *, clients_of: Authority | None = None) -> ssl.SSLContext:
        """What a server at that address or at localhost needs.

        With `clients_of` it wants a client certificate of that authority.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue("server", address))
        if clients_of is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients_of.ca)
        return context
