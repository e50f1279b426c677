"""The authority's directory, and identities that cannot be loaded."""

import stat
from pathlib import Path

import msgpack
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.access.ca import LabCa
from host_sdk.access.identity import Identity
from host_sdk.wire.errors import ConfigError, RemoteProtocolError
from host_sdk.wire.roles import Grant, Role
from host_sdk.wire.secure.credentials import Credentials
from tests.access.lab import AccessLab, Time


def test_nobody_else_may_read_what_the_authority_writes(lab: AccessLab) -> None:
    for path in lab.directory.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_an_authority_needs_a_directory_of_its_own(tmp_path: Path, time: Time) -> None:
    (tmp_path / "something").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        LabCa.create(tmp_path, time.utc)
    with pytest.raises(ConfigError, match="holds no authority"):
        LabCa(tmp_path / "nowhere", time.utc)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a b", "ä", "x" * 65, "-x", "a\nb"])
def test_names_that_are_no_names(lab: AccessLab, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name"):
        lab.ca.issue_device(name, lab.directory / "new")
    assert not (lab.directory / "new").exists()


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_days_out_of_range(lab: AccessLab, days: int) -> None:
    with pytest.raises(ConfigError, match="1 to 3650"):
        lab.ca.issue_device("x", lab.directory / "x", days)


def test_certificates_are_listed_and_revoked_by_name_or_number(lab: AccessLab, time: Time) -> None:
    lab.ca.issue_user("vera", Grant(Role.VIEWER), lab.directory / "vera2")
    (ada,) = [entry for entry in lab.ca.issued() if entry.name == "ada"]
    assert [entry.name for entry in lab.ca.revoke(f"{ada.serial:x}")] == ["ada"]
    assert len(lab.ca.revoke("vera")) == 2
    again = LabCa(lab.ca.directory, time.utc)
    states = {(entry.name, entry.kind, entry.revoked) for entry in again.issued()}
    assert states == {
        ("ada", "user", True),
        ("vera", "user", True),
        ("oleg", "user", False),
        ("napu1", "device", False),
    }
    with pytest.raises(ConfigError, match="in force"):
        again.revoke("vera")
    found = x509.load_pem_x509_crl(again.revoked_list())
    assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3


def test_a_key_that_others_may_read_is_not_used(lab: AccessLab) -> None:
    (lab.directory / "ada" / "key.pem").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        Identity.load(lab.directory / "ada")


def test_what_is_no_identity(lab: AccessLab, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no identity"):
        Identity.load(tmp_path / "nowhere")
    ada = lab.directory / "ada"
    (ada / "devices").write_text("one two three\n")
    with pytest.raises(ConfigError, match="devices:1"):
        Identity.load(ada)
    (ada / "devices").unlink()
    (ada / "key.pem").write_text((lab.directory / "vera" / "key.pem").read_text())
    with pytest.raises(ConfigError, match="cannot be used"):
        lab.client("ada")
    with pytest.raises(ConfigError, match="no credentials"):
        Credentials.decode(b"\x81\xa1x\x01")


def test_the_golden_grant() -> None:
    """Written by hand from the table of docs/access.md."""
    packed = b"\x85\xa4role\xa5admin\xa6tenant\xa1t\xa9pipelines\x91\xa1d\xa4rate\xcd\x01\x00\xa5share\x32"
    assert Grant.decode(packed) == Grant(Role.ADMIN, "t", ("d",), 256, 50)
    assert Grant(Role.ADMIN, "t", ("d",), 256, 50).encode() == packed


@given(st.binary(max_size=100))
def test_any_bytes_are_a_grant_or_a_named_error(data: bytes) -> None:
    for candidate in (data, b"\x85\xa4role\xa5admin" + data):
        try:
            grant = Grant.decode(candidate)
        except RemoteProtocolError:
            continue
        assert grant.role is not Role.NOBODY


@pytest.mark.parametrize(
    "field",
    [{"role": "nobody"}, {"role": 3}, {"tenant": "x" * 65}, {"rate": -1}, {"rate": True}, {"share": 0}, {"share": 101}],
)
def test_grants_out_of_range(field: dict[str, object]) -> None:
    whole = {"role": "admin", "tenant": "", "pipelines": [], "rate": 0, "share": 1, **field}
    with pytest.raises(RemoteProtocolError):
        Grant.decode(msgpack.packb(whole))
