"""TLS to the servers, as the environment says."""

import os
import ssl
from pathlib import Path

import grpc

PUBLIC = "public"
"""Stands for the authorities that browsers trust, which gRPC brings along."""


def credentials_from_env() -> grpc.ChannelCredentials | None:
    """What TOLLKEEPER_TLS_CA, TOLLKEEPER_TLS_CLIENT_CERT and TOLLKEEPER_TLS_CLIENT_KEY say; None if they are not set.

    The first is a PEM file of the authorities that the server's certificate has to come from, or ``public``. The others
    are PEM files of this client's own certificate and key, for servers that ask for it. Raises ValueError if only a
    part of that is set, or if a file cannot be used.
    """
    ca, cert, key = (os.environ.get(f"TOLLKEEPER_TLS_{name}", "") for name in ("CA", "CLIENT_CERT", "CLIENT_KEY"))
    if bool(cert) != bool(key) or (cert and not ca):
        raise ValueError(
            "set TOLLKEEPER_TLS_CLIENT_CERT and TOLLKEEPER_TLS_CLIENT_KEY together, and TOLLKEEPER_TLS_CA with them"
        )
    if not ca:
        return None
    authorities = None if ca == PUBLIC else _authorities(ca)
    if not cert:
        return grpc.ssl_channel_credentials(authorities)
    return grpc.ssl_channel_credentials(authorities, *_own(cert, key))


def _authorities(path: str) -> bytes:
    content = _content(path, "CA")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise ValueError(f"TOLLKEEPER_TLS_CA: {path} must be certificates in PEM, and is not") from None
    return content


def _own(cert: str, key: str) -> tuple[bytes, bytes]:
    contents = _content(key, "CLIENT_KEY"), _content(cert, "CLIENT_CERT")
    try:
        # Of a key that is encrypted the password would be asked for on the terminal, unless one is given.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except ssl.SSLError:
        raise ValueError(
            f"TOLLKEEPER_TLS_CLIENT_CERT: {cert} must be a certificate in PEM, and {key} its key, not encrypted"
        ) from None
    return contents


def _content(path: str, setting: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"TOLLKEEPER_TLS_{setting}: cannot read {path}: {error.strerror}") from None
