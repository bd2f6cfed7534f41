"""The files that TLS needs: read, and checked before gRPC sees them, which says little about what is wrong."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from tollkeeper_server.settings import PREFIX, Settings
from tollkeeper_server.startup import StartupError

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """What is in the files, in PEM."""

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    """None if clients need no certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """Where everything is."""

    cert: Path
    key: Path
    client_ca: Path | None

    @classmethod
    def of(cls, settings: Settings) -> "CertificateFiles | None":
        """None if nothing is served with TLS. Raises StartupError if only a part of what it needs is set."""
        cert, key = settings.tls_cert, settings.tls_key
        if cert is None and key is None and settings.tls_client_ca is None:
            return None
        if cert is None or key is None:
            raise StartupError(f"{PREFIX}TLS_CERT and {PREFIX}TLS_KEY must both be set for TLS")
        return cls(cert=cert, key=key, client_ca=settings.tls_client_ca)

    def read(self) -> Certificates:
        """What is in the files now. Raises StartupError, naming the setting at fault."""
        cert = _read_certificates(self.cert, "TLS_CERT")
        key = _content(self.key, "TLS_KEY")
        _check_key(self.cert, self.key)
        client_ca = None if self.client_ca is None else _read_certificates(self.client_ca, "TLS_CLIENT_CA")
        return Certificates(cert=cert, key=key, client_ca=client_ca)

    def stamp(self) -> Stamp:
        """Differs after a file has changed."""
        return tuple(_stat(path) for path in (self.cert, self.key, self.client_ca) if path is not None)


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _content(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"{PREFIX}{setting}: cannot read {path}: {(error.strerror or 'error').lower()}") from None


def _read_certificates(path: Path, setting: str) -> bytes:
    content = _content(path, setting)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        raise StartupError(f"{PREFIX}{setting}: {path} must be certificates in PEM, and is not") from None
    return content


def _check_key(cert: Path, key: Path) -> None:
    try:
        # Of a key that is encrypted the password would be asked for on the terminal, unless one is given.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"{key} must be the key of the certificate in {cert}, and is another's"
        else:
            problem = f"{key} must be a private key in PEM, not encrypted, and is not"
        raise StartupError(f"{PREFIX}TLS_KEY: {problem}") from None
    except OSError:  # it was there a moment ago
        raise StartupError(f"{PREFIX}TLS_KEY: cannot read {key} with {cert}") from None
