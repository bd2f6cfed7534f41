"""TLS of the ports that are served; new certificates need no restart."""

import grpc
import structlog

from tollkeeper_server.certificates import CertificateFiles
from tollkeeper_server.startup import StartupError

_log = structlog.get_logger()


def server_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """What one port is served with; each needs its own. Raises StartupError."""
    following = _Following(files)
    return grpc.dynamic_ssl_server_credentials(
        _configuration(files),
        following.if_changed,  # type: ignore[arg-type]  # None is allowed, and means that nothing changed
        require_client_authentication=files.client_ca is not None,
    )


class _Following:
    """Follows the files: gRPC asks at each new connection, from threads of its own."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._seen = files.stamp()

    def if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What is in the files, if they changed. None keeps what was there, also if what is in them now is no good.

        Of a certificate and its key one is always replaced first; the other then changes the stamp again.
        """
        stamp = self._files.stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            configuration = _configuration(self._files)
        except StartupError as error:
            _log.error("tls_refused", reason=str(error))
            return None
        _log.info("tls_reloaded")
        return configuration


def _configuration(files: CertificateFiles) -> grpc.ServerCertificateConfiguration:
    read = files.read()
    return grpc.ssl_server_certificate_configuration([(read.key, read.cert)], root_certificates=read.client_ca)
