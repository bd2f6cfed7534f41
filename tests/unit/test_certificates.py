"""The files of TLS: what is wrong with one is told in one line that names the setting and what is allowed."""

from pathlib import Path

import pytest

from tests.certificates import Authority, encrypted
from tollkeeper_server.certificates import CertificateFiles
from tollkeeper_server.settings import load_settings
from tollkeeper_server.startup import StartupError


@pytest.mark.parametrize(
    ("setting", "fault", "told"),
    [
        ("CERT", "missing", "TOLLKEEPER_TLS_CERT: cannot read {path}: no such file or directory"),
        ("KEY", "missing", "TOLLKEEPER_TLS_KEY: cannot read {path}: no such file or directory"),
        ("CLIENT_CA", "missing", "TOLLKEEPER_TLS_CLIENT_CA: cannot read {path}: no such file or directory"),
        ("CERT", "text", "TOLLKEEPER_TLS_CERT: {path} must be certificates in PEM, and is not"),
        ("CERT", "key", "TOLLKEEPER_TLS_CERT: {path} must be certificates in PEM, and is not"),
        ("KEY", "text", "TOLLKEEPER_TLS_KEY: {path} must be a private key in PEM, not encrypted, and is not"),
        ("CLIENT_CA", "text", "TOLLKEEPER_TLS_CLIENT_CA: {path} must be certificates in PEM, and is not"),
        ("KEY", "encrypted", "TOLLKEEPER_TLS_KEY: {path} must be a private key in PEM, not encrypted, and is not"),
        ("KEY", "key", "TOLLKEEPER_TLS_KEY: {path} must be the key of the certificate in {cert}, and is another's"),
        ("KEY", "unset", "TOLLKEEPER_TLS_CERT and TOLLKEEPER_TLS_KEY must both be set for TLS"),
        ("CERT", "unset", "TOLLKEEPER_TLS_CERT and TOLLKEEPER_TLS_KEY must both be set for TLS"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(
    setting: str, fault: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    served = authority.issue("server")
    (tmp_path / "text").write_text("certainly not PEM\n")
    paths = {
        "missing": tmp_path / "none",
        "text": tmp_path / "text",
        "encrypted": encrypted(served.key),
        "key": authority.issue("other").key,
        "unset": "",
    }
    settings = {"CERT": served.cert, "KEY": served.key, "CLIENT_CA": authority.file} | {setting: paths[fault]}
    for name, path in settings.items():
        monkeypatch.setenv(f"TOLLKEEPER_TLS_{name}", str(path))
    with pytest.raises(StartupError) as refused:
        read()
    assert str(refused.value) == told.format(path=paths[fault], cert=served.cert)


def read() -> None:
    files = CertificateFiles.of(load_settings())
    assert files is not None
    files.read()


def test_without_settings_there_is_no_tls() -> None:
    assert CertificateFiles.of(load_settings()) is None
