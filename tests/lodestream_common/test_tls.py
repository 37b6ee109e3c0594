"""Certificate files: what is refused at the start, and what happens when they change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lodestream_common.address import parse_address
from lodestream_common.errors import OperatorError
from lodestream_common.tls import FollowedPem, TlsFiles, check_plain_text
from tests.support.certificates import Certificates

NAMES = ("tls_certificate", "tls_key", "tls_client_ca")


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def files(made: Certificates, expires: datetime | None = None) -> TlsFiles:
    paths = made.issue(expires=expires)
    return TlsFiles(paths["tls_certificate"], paths["tls_key"], made.ca, NAMES)


def refusal(files: TlsFiles) -> str:
    with pytest.raises(OperatorError) as caught:
        files.read()
    return str(caught.value)


def test_valid_files_are_read(made: Certificates) -> None:
    pem = files(made).read()
    assert b"CERTIFICATE" in (pem.certificate or b"")
    assert "PRIVATE" not in repr(pem)


def test_a_missing_file_is_named_with_its_setting(made: Certificates) -> None:
    good = files(made)
    made.issue()["tls_key"].unlink()
    assert refusal(good).startswith(f"tls_key: {good.key} cannot be read: No such file")


def test_the_key_of_another_certificate_is_refused(made: Certificates) -> None:
    good, other = files(made), made.issue("other")
    assert "tls_key: " in refusal(TlsFiles(good.certificate, other["tls_key"], None, NAMES))
    assert "does not belong" in refusal(TlsFiles(good.certificate, other["tls_key"], None, NAMES))


def test_an_expired_certificate_is_refused(made: Certificates) -> None:
    expired = files(made, expires=datetime.now(UTC) - timedelta(hours=1))
    assert refusal(expired).startswith("tls_certificate: ")
    assert "expired" in refusal(expired)


def test_a_file_that_is_no_pem_is_refused(made: Certificates, tmp_path: Path) -> None:
    good, text = files(made), tmp_path / "text"
    text.write_text("hello")
    assert refusal(TlsFiles(text, good.key, None, NAMES)).startswith("tls_certificate: ")
    assert refusal(TlsFiles(good.certificate, text, None, NAMES)).startswith("tls_key: ")
    assert refusal(TlsFiles(good.certificate, good.key, text, NAMES)).startswith("tls_client_ca: ")


def test_certificate_and_key_need_each_other(made: Certificates) -> None:
    good = files(made)
    assert refusal(TlsFiles(good.certificate, None, None, NAMES)) == "tls_certificate: needs tls_key, too"
    assert refusal(TlsFiles(None, good.key, None, NAMES)) == "tls_key: needs tls_certificate, too"


def test_changed_files_are_read_once_both_have_changed(made: Certificates) -> None:
    followed = FollowedPem(files(made))
    before = followed.current
    assert not followed.refresh()

    made.issue()

    assert not followed.refresh(), "the files might still change"
    assert followed.refresh()
    assert followed.current != before
    assert not followed.refresh()


def test_a_reload_names_only_the_settings_that_are_set(made: Certificates) -> None:
    paths = made.issue()
    names = ("tls_certificate", "tls_key", "")
    followed = FollowedPem(TlsFiles(paths["tls_certificate"], paths["tls_key"], None, names))
    made.issue()

    with capture_logs() as logs:
        assert [followed.refresh() for _ in range(2)] == [False, True]

    assert [line["settings"] for line in logs] == [["tls_certificate", "tls_key"]]


def test_broken_files_are_logged_once_and_the_old_ones_count(made: Certificates) -> None:
    good = files(made)
    followed = FollowedPem(good)
    before = followed.current
    assert good.certificate is not None
    good.certificate.write_text("broken")

    with capture_logs() as logs:
        assert not any(followed.refresh() for _ in range(5))

    assert [line["log_level"] for line in logs] == ["error"]
    assert "tls_certificate" in logs[0]["reason"]
    assert followed.current is before
    made.issue()
    assert [followed.refresh() for _ in range(3)] == [False, True, False]


@pytest.mark.parametrize(
    ("address", "allowed", "refused"),
    [
        ("127.0.0.1:1", False, False),
        ("[::1]:1", False, False),
        ("unix:/run/x", False, False),
        ("0.0.0.0:1", False, True),
        ("192.0.2.1:1", False, True),
        ("192.0.2.1:1", True, False),
    ],
)
def test_plain_text_is_allowed_only_on_loopback(address: str, *, allowed: bool, refused: bool) -> None:
    def check() -> None:
        check_plain_text(parse_address(address), allowed=allowed, setting="http_address", remedy="--tls-x")

    if not refused:
        return check()
    with pytest.raises(OperatorError, match=r"http_address: .*plain text.*--tls-x.*--insecure"):
        check()
    return None
