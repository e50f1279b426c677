"""One test for each attack on the control plane: each ends in its documented error and a line in the log."""

import base64
import re
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from cryptography import x509
from OpenSSL import SSL

from firmware.control import OPERATIONS
from firmware.secure.gate import MutualGate
from firmware.secure.streams import StreamLimits
from host_sdk.access.control import SecureControl
from host_sdk.wire.errors import (
    NotAuthenticatedError,
    NotPermittedError,
    StatusError,
    UnknownSessionError,
)
from host_sdk.wire.exchange.answers import Answers
from host_sdk.wire.roles import Grant, Role
from host_sdk.wire.schema import MAX_HANDSHAKE, Status
from host_sdk.wire.secure.channel import Channel
from tests.access.lab import OTHER_PEER, PEER, USERS, AccessLab, Appliance, Time, Wire

DAY = 24 * 3600
# The table of docs/access.md, written by hand: who may do what at least.
TABLE = {
    "identity": "nobody",
    "pipelines": "vera",
    "health": "vera",
    "stats": "vera",
    "logs": "vera",
    "grant": "vera",
    "pipeline.install": "oleg",
    "pipeline.remove": "oleg",
    "fw.status": "vera",
    "fw.begin": "ada",
    "fw.chunk": "ada",
    "fw.finish": "ada",
    "fw.activate": "ada",
    "fw.confirm": "ada",
    "fw.rollback": "ada",
    "attest": "vera",
    "attest.log": "vera",
    "access.revoke": "ada",
}


def audit(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "audit"]


def client_hello(lab: AccessLab, user: str = "vera") -> bytes:
    channel = Channel(lab.credentials(user).context(server=False), lambda _: pytest.fail("unasked"), server=False)
    channel.feed(b"")
    return channel.take()


def refused(caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """The last line of the audit has all the words."""
    assert audit(caplog), "no line in the audit log"
    for word in ("refused", *words):
        assert word in audit(caplog)[-1]


@pytest.mark.parametrize("op", [*(name for name in TABLE if name != "identity"), "no.such.operation"])
def test_unauthenticated_control(appliance: Appliance, caplog: pytest.LogCaptureFixture, op: str) -> None:
    status, answer = appliance.gate.handle(PEER, msgpack.packb({"op": op, "name": "x", "package": b"x", "list": b"x"}))
    assert status is Status.NOT_AUTHENTICATED
    assert b"certificate" in answer
    refused(caplog, "nobody", f"{PEER:#x}", repr(op), "NOT_AUTHENTICATED")


def test_what_discovery_needs_is_still_answered(appliance: Appliance) -> None:
    status, answer = appliance.gate.handle(PEER, msgpack.packb({"op": "identity"}))
    assert status is Status.OK
    assert msgpack.unpackb(answer)["access"] == "mutual"


def test_an_expired_certificate(lab: AccessLab, wire: Wire, time: Time, caplog: pytest.LogCaptureFixture) -> None:
    vera = lab.client("vera")
    wire.ask(vera, "stats")
    time.seconds += 8 * DAY
    lab.ca.issue_device("napu1", lab.directory / "later")  # the device's own is not what this is about
    with pytest.raises(NotAuthenticatedError, match="that of vera has expired on 2030-01-08"):
        wire.ask(lab.client("vera"), "stats")
    refused(caplog, "NOT_AUTHENTICATED", "vera has expired")


def test_a_certificate_expires_while_its_stream_is_open(
    lab: AccessLab, wire: Wire, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    vera = lab.client("vera")
    time.seconds = 7 * DAY + 59
    wire.ask(vera, "stats")
    time.seconds += 2
    with pytest.raises(NotAuthenticatedError, match="expired"):
        wire.ask(vera, "stats")
    refused(caplog, "vera", "expired")
    assert wire.appliance.streams == 0


def test_a_certificate_of_another_authority(
    lab: AccessLab, wire: Wire, time: Time, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "foreign").mkdir()
    foreign = AccessLab(tmp_path / "foreign", time)
    # Mallory knows whom to trust; only her own certificate is another authority's.
    shown = replace(foreign.identity("ada"), authority=lab.identity("ada").authority, revoked=b"")
    mallory = SecureControl(shown, lambda bits: bits, time.wall)
    with pytest.raises(NotAuthenticatedError, match="of another authority"):
        wire.ask(mallory, "stats")
    refused(caplog, "nobody", "NOT_AUTHENTICATED", "another authority")


def test_an_appliance_of_another_authority(lab: AccessLab, time: Time, tmp_path: Any) -> None:
    (tmp_path / "foreign").mkdir()
    wire = Wire(AccessLab(tmp_path / "foreign", time).appliance())
    with pytest.raises(NotAuthenticatedError, match="of another authority"):
        wire.ask(lab.client("ada"), "pipeline.install", package=b"secret")
    assert all(b"secret" not in body for body in wire.bodies)
    assert len(wire.bodies) == 1


def test_a_revoked_certificate(lab: AccessLab, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    vera, ada = lab.client("vera"), lab.client("ada")
    wire.ask(vera, "stats")
    lab.ca.revoke("vera")
    assert wire.ask(ada, "access.revoke", list=lab.ca.revoked_list()) == {"number": 2}
    for client in (vera, lab.client("vera", seed=2)):  # in a stream that was open, and in a new one
        with pytest.raises(NotAuthenticatedError, match="certificate of vera is revoked"):
            wire.ask(client, "stats")
        refused(caplog, "vera is revoked")
    wire.appliance.boot()
    with pytest.raises(NotAuthenticatedError, match="revoked"):
        wire.ask(lab.client("vera", seed=3), "stats")


def test_an_older_list_of_revoked_certificates(lab: AccessLab, wire: Wire, time: Time, tmp_path: Any) -> None:
    ada = lab.client("ada")
    older = lab.ca.revoked_list()
    lab.ca.revoke("vera")
    wire.ask(ada, "access.revoke", list=lab.ca.revoked_list())
    (tmp_path / "foreign").mkdir()
    foreign = AccessLab(tmp_path / "foreign", time).ca.revoked_list()
    for data, reason in (
        (older, "number 2 is in force"),
        (foreign, "not of this authority"),
        (b"junk", "cannot be read"),
    ):
        with pytest.raises(StatusError, match=reason) as caught:
            wire.ask(ada, "access.revoke", list=data)
        assert caught.value.status is Status.BAD_ARGUMENT
    assert wire.appliance.access.authority is not None
    assert wire.appliance.access.authority.number == 2


def test_a_users_certificate_as_a_devices(lab: AccessLab) -> None:
    wire = Wire(lab.appliance("ada"))
    with pytest.raises(NotAuthenticatedError, match="not that of"):
        wire.ask(lab.client("vera"), "stats")


def test_a_devices_certificate_as_a_users(lab: AccessLab, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NotAuthenticatedError, match="not that of"):
        wire.ask(lab.client("napu1"), "stats")
    refused(caplog, "NOT_AUTHENTICATED", "not that of")


def test_another_device_than_was_expected(lab: AccessLab) -> None:
    lab.ca.issue_device("napu2", lab.directory / "napu2")
    client = lab.client("ada")
    client.announced(1, "napu1")
    with pytest.raises(NotAuthenticatedError, match="is device napu2; expected was napu1"):
        Wire(lab.appliance("napu2")).ask(client, "stats")
    (lab.directory / "ada" / "devices").write_text("# who is where\nnapu1's-address napu1\n")
    assert lab.identity("ada").devices == {"napu1's-address": "napu1"}


def test_the_table_names_every_operation() -> None:
    assert set(TABLE) == set(OPERATIONS)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("op", TABLE)
def test_privilege_of_another_role(
    lab: AccessLab, wire: Wire, caplog: pytest.LogCaptureFixture, user: str, op: str
) -> None:
    order = ["nobody", *USERS]
    allowed = order.index(user) >= order.index(TABLE[op])
    try:
        wire.ask(lab.client(user), op)
    except NotPermittedError as error:
        assert not allowed
        assert user in error.detail
        refused(caplog, user, repr(op), "NOT_PERMITTED")
    except StatusError as error:
        # It was let through, and misses its argument.
        assert allowed
        assert error.status is Status.BAD_ARGUMENT
    else:
        assert allowed


def test_a_replayed_control_message(lab: AccessLab, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    oleg = lab.client("oleg")
    with pytest.raises(StatusError, match="there is no pipeline 'x'"):
        wire.ask(oleg, "pipeline.remove", name="x")
    wire.ask(lab.client("ada", seed=2), "stats")
    executed = _count_executions(wire.appliance)
    copies = wire.bodies[:3]
    last = wire.appliance.gate.handle(PEER, copies[2])
    assert last == wire.appliance.gate.handle(PEER, copies[2])  # the last gets its answer again
    assert last[0] is Status.OK
    for body in copies[:2]:
        status, sentence = wire.appliance.gate.handle(PEER, body)
        assert status is Status.BAD_ARGUMENT
        assert b"goes on at" in sentence
        refused(caplog, "oleg", "'secure'", "BAD_ARGUMENT")
    assert executed() == 0
    with pytest.raises(StatusError, match="there is no pipeline 'y'"):  # the stream goes on
        wire.ask(oleg, "pipeline.remove", name="y")


def _count_executions(appliance: Appliance) -> Any:
    """Return what tells how many operations were carried out from now on."""
    control = appliance.gate._control
    inner, calls = control.execute, []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return inner(*arguments)

    control.execute = counted  # type: ignore[method-assign]
    return lambda: len(calls)


def test_a_control_message_replayed_after_a_restart(
    lab: AccessLab, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    wire.ask(lab.client("oleg"), "stats")
    recorded = list(wire.bodies)
    wire.appliance.boot()
    executed = _count_executions(wire.appliance)
    assert wire.appliance.gate.handle(PEER, recorded[2])[0] is Status.UNKNOWN_SESSION
    refused(caplog, "nobody", "UNKNOWN_SESSION")
    statuses = [wire.appliance.gate.handle(PEER, body)[0] for body in recorded]
    # A new handshake has other keys: what was recorded of the old one does not fit.
    assert statuses == [Status.OK, Status.NOT_AUTHENTICATED, Status.UNKNOWN_SESSION]
    assert executed() == 0


def test_a_client_that_offers_only_tls_1_2(appliance: Appliance, caplog: pytest.LogCaptureFixture) -> None:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    status, sentence = appliance.secure(connection.bio_read(1 << 16))
    assert status is Status.NOT_AUTHENTICATED
    assert "unsupported protocol" in sentence
    refused(caplog, "nobody", "unsupported protocol")
    assert appliance.streams == 0


def test_a_tampered_client_hello(lab: AccessLab, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """A bit of the random on its way: the client finds that the appliance has seen another hello than it sent."""
    with pytest.raises(NotAuthenticatedError, match="TLS"):
        wire.run(_tampered(lab.client("ada").ask(1, "napu1's address", {"op": "stats"}, 10**9)))
    assert len(wire.bodies) == 1
    # Of an attacker who goes on in the client's place, the appliance finds the same.
    status, _ = wire.appliance.secure(b"\x17\x03\x03\x00\x20" + bytes(32), offset=0, stream=8)
    assert status is Status.NOT_AUTHENTICATED
    refused(caplog, "nobody", "NOT_AUTHENTICATED", "TLS")


def _tampered(operation: Any) -> Any:
    """Flip a bit in the first request's records."""
    request, first = next(operation), True
    while True:
        if first:
            body = msgpack.unpackb(request.body)
            body["records"] = body["records"][:20] + bytes([body["records"][20] ^ 1]) + body["records"][21:]
            request, first = replace(request, body=msgpack.packb(body)), False
        events = yield request
        try:
            request = operation.send(events)
        except StopIteration as stop:
            return stop.value


def test_a_stream_hijacked_from_another_address(lab: AccessLab, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    ada = lab.client("ada")
    wire.ask(ada, "stats")
    elsewhere = Wire(wire.appliance, peer=OTHER_PEER)
    stream = ada.idle_stream(1)
    body = msgpack.packb({"op": "secure", "stream": stream.number, "offset": stream.sent, "records": b"\x17\x03\x03"})
    status, _ = wire.appliance.gate.handle(elsewhere.peer, body)
    assert status is Status.UNKNOWN_SESSION
    refused(caplog, "nobody", f"{OTHER_PEER:#x}", "UNKNOWN_SESSION")
    wire.ask(ada, "stats")  # its owner goes on
    assert len(wire.bodies) == 4


def test_bytes_put_into_a_stream(lab: AccessLab, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    ada = lab.client("ada")
    wire.ask(ada, "stats")
    stream = ada.idle_stream(1)
    record = b"\x17\x03\x03\x00\x20" + bytes(32)
    status, sentence = wire.appliance.secure(record, stream=stream.number, offset=stream.sent)
    assert (status, wire.appliance.streams) == (Status.NOT_AUTHENTICATED, 0)
    assert "bad record mac" in sentence
    refused(caplog, "ada", "bad record mac")
    wire.ask(ada, "stats")  # in a new one


def test_endless_handshake_data(appliance: Appliance, caplog: pytest.LogCaptureFixture) -> None:
    """A hello that says it is 16 MiB long, in records of 4 KiB."""
    start = b"\x01\xff\xff\xff" + bytes(4092)
    offset, statuses = 0, []
    for _ in range(6):
        piece = b"\x16\x03\x01\x10\x00" + (start if not offset else bytes(4096))
        status, _ = appliance.secure(piece, offset=offset)
        statuses.append(status)
        offset += len(piece)
    assert set(statuses) <= {Status.OK, Status.NOT_AUTHENTICATED, Status.TOO_LARGE, Status.UNKNOWN_SESSION}
    assert statuses[-1] is Status.UNKNOWN_SESSION
    assert appliance.streams == 0
    status, _ = appliance.secure(bytes(MAX_HANDSHAKE + 1), stream=9)
    assert (status, appliance.streams) == (Status.TOO_LARGE, 0)
    refused(caplog, "TOO_LARGE")


def test_thousands_of_half_open_streams(
    lab: AccessLab, appliance: Appliance, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    hello, statuses, limits = client_hello(lab), [], StreamLimits()
    got_in = 0
    for number in range(3000):
        time.seconds += 0.001
        statuses.append(appliance.secure(hello, stream=number + 1, peer=0x10000 + number % 700)[0])
        assert appliance.streams <= limits.half_open + limits.established
        if number % 500 == 499:
            client = Wire(appliance)
            for seed in range(40):  # a client asks again when it is told BUSY
                try:
                    client.ask(lab.client("ada", seed=number + seed), "stats")
                except StatusError as error:
                    assert error.status is Status.BUSY
                    time.seconds += 0.02
                else:
                    got_in += 1
                    break
    assert got_in == 6
    assert set(statuses) == {Status.OK, Status.BUSY}
    assert statuses.count(Status.OK) < 1500
    assert 1 < len(audit(caplog)) < 300
    assert any(re.search(r"\(\d+ more were refused before\)", line) for line in audit(caplog))


def test_one_peer_does_not_push_out_the_half_open_streams_of_others(lab: AccessLab, appliance: Appliance) -> None:
    hello, limits = client_hello(lab), StreamLimits()
    assert appliance.secure(hello, stream=1, peer=OTHER_PEER)[0] is Status.OK
    for number in range(100):
        appliance.secure(hello, stream=number + 1)
    assert appliance.streams == limits.half_open_each + 1


def test_streams_end_with_age(lab: AccessLab, appliance: Appliance, time: Time) -> None:
    appliance.secure(client_hello(lab))
    wire = Wire(appliance)
    wire.ask(lab.client("ada"), "stats")
    assert appliance.streams == 2
    time.seconds += 11
    wire.ask(lab.client("vera", seed=2), "stats")
    assert appliance.streams == 2
    time.seconds += 301
    assert appliance.secure(b"x", stream=3, offset=1)[0] is Status.UNKNOWN_SESSION
    assert appliance.streams == 0


def test_one_user_cannot_push_out_the_streams_of_others(lab: AccessLab, wire: Wire, time: Time) -> None:
    vera = lab.client("vera")
    wire.ask(vera, "stats")
    for seed in range(2, 40):
        time.seconds += 0.1
        Wire(wire.appliance, peer=PEER + seed).ask(lab.client("oleg", seed), "stats")
    assert wire.appliance.streams == 1 + StreamLimits().established_each
    before = len(wire.bodies)
    wire.ask(vera, "stats")
    assert len(wire.bodies) == before + 1


def test_a_device_without_credentials_lets_nobody_in(lab: AccessLab, appliance: Appliance) -> None:
    del appliance.hal.flash.objects["board/credentials"]
    appliance.boot()
    assert isinstance(appliance.gate, MutualGate)
    with pytest.raises(NotAuthenticatedError, match="no credentials"):
        Wire(appliance).ask(lab.client("ada"), "stats")


def test_a_grant_is_part_of_what_is_signed(lab: AccessLab) -> None:
    """A viewer cannot make itself an administrator: the certificate's signature is over the grant."""
    pem = lab.identity("vera").certificate
    body = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    assert body.count(b"\xa6viewer") == 1
    forged = body.replace(b"\xa6viewer", b"\xa5admin\x00")
    lines = base64.encodebytes(forged)
    trust = lab.credentials("vera").trust()
    certificate = x509.load_pem_x509_certificate(
        b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----\n"
    )
    with pytest.raises(NotAuthenticatedError, match="another authority"):
        trust.user(certificate, lab.time.wall())


def test_grants_survive_the_certificate(lab: AccessLab) -> None:
    grant = Grant(Role.OPERATOR, "tenant ä", ("digits", "person"), 250, 40)
    lab.ca.issue_user("greta", grant, lab.directory / "greta")
    found = lab.credentials("greta")
    assert found.trust().user(found.own(), lab.time.wall()).grant == grant


def test_an_operation_is_carried_out_once_though_its_stream_ends(lab: AccessLab, wire: Wire) -> None:
    """An attacker keeps the answer back and says instead that there is no such stream."""
    ada = lab.client("ada")
    wire.ask(ada, "stats")
    executed = _count_executions(wire.appliance)
    operation = ada.ask(1, "napu1's address", {"op": "stats"}, 10**9)
    request = next(operation)
    assert wire.appliance.gate.handle(PEER, request.body)[0] is Status.OK

    def lied(inner: Any) -> Any:
        request = inner.send([Answers.failed(1, 1, UnknownSessionError("forged"))])
        while True:
            events = yield request
            try:
                request = inner.send(events)
            except StopIteration as stop:
                return stop.value

    assert "firmware" in wire.run(lied(operation))
    assert executed() == 1


def test_both_ends_export_the_same_keys(lab: AccessLab, wire: Wire) -> None:
    ada: SecureControl = lab.client("ada")
    with pytest.raises(NotAuthenticatedError):
        ada.export(1, b"EXPORTER-nip-test", 32)
    wire.ask(ada, "stats")
    responder = wire.appliance.gate.responder
    assert responder is not None
    number = ada.idle_stream(1).number
    keys = ada.export(1, b"EXPORTER-nip-test", 32)
    assert len(keys) == 32
    assert responder.export(PEER, number, b"EXPORTER-nip-test", 32) == keys
    assert responder.export(PEER, number, b"EXPORTER-nip-other", 32) != keys
    with pytest.raises(UnknownSessionError):
        responder.export(OTHER_PEER, number, b"EXPORTER-nip-test", 32)
