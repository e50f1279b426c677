"""Granting keys for sealed frames: what both ends export, for how long, and what becomes of a key."""

from typing import Any

import msgpack
import pytest

from appliance.board.regmap import CommandStatus
from firmware.control import Control, OpenGate
from firmware.ports import CommandError
from host_sdk.access.control import SecureControl
from host_sdk.wire.errors import BadArgumentError, BusyError, NotAuthenticatedError
from host_sdk.wire.roles import Grant, Role
from host_sdk.wire.schema import Status
from host_sdk.wire.sealed.keys import MATERIAL_SIZE
from tests.access.lab import OTHER_PEER, PEER, AccessLab, Appliance, Time, Wire

DAY = 24 * 3600


def serial_of(lab: AccessLab, name: str) -> str:
    return f"{lab.credentials(name).own().serial_number:x}"


def test_both_ends_have_the_same_material_and_it_never_crossed_the_wire(lab: AccessLab, wire: Wire) -> None:
    vera = lab.client("vera")
    granted: set[bytes] = set()
    for _ in range(3):
        answer = wire.ask(vera, "grant")
        peer, material, grant, serial, lifetime_ms = wire.appliance.hal.keys.granted[answer["key"]]
        # The label of the document, written out.
        own = vera.export(1, b"EXPORTER-nip-seal-%016x" % answer["key"], 56)
        assert own == material
        assert len(material) == MATERIAL_SIZE
        assert (peer, serial, Grant.decode(grant)) == (PEER, serial_of(lab, "vera"), Grant(Role.VIEWER))
        assert (answer["lifetime_ms"], answer["fresh"]) == (lifetime_ms, True)
        assert lifetime_ms == DAY * 1000
        granted.add(material)
    assert len(granted) == 3
    assert all(material not in body for material in granted for body in wire.bodies)


def test_a_key_lives_no_longer_than_its_certificate(lab: AccessLab, wire: Wire, time: Time) -> None:
    vera = lab.client("vera")
    wire.ask(vera, "stats")
    end = lab.credentials("vera").own().not_valid_after_utc.timestamp()
    time.seconds += end - time.wall() - 5
    assert wire.ask(vera, "grant")["lifetime_ms"] == 5000
    time.seconds += 4.9999
    with pytest.raises(NotAuthenticatedError, match="about to expire"):
        wire.ask(vera, "grant")


def test_a_key_that_is_in_force_is_confirmed_and_any_other_replaced(lab: AccessLab, wire: Wire) -> None:
    vera, oleg = lab.client("vera"), lab.client("oleg")
    key = wire.ask(vera, "grant")["key"]
    assert wire.ask(vera, "grant", key=key) == {"key": key, "lifetime_ms": DAY * 1000, "fresh": False}
    others = [
        wire.ask(oleg, "grant", key=key),  # of another certificate
        Wire(wire.appliance, OTHER_PEER).ask(lab.client("vera", seed=3), "grant", key=key),  # at another address
        wire.ask(vera, "grant", key=key ^ 1),
    ]
    wire.appliance.hal.keys.granted.clear()  # as when the hardware has been switched off
    others.append(wire.ask(vera, "grant", key=key))
    assert all(other["fresh"] and other["key"] != key for other in others)


def test_an_answer_is_not_repeated_in_another_stream(lab: AccessLab, wire: Wire) -> None:
    """The material is another there, so the same key would open nothing."""
    numbers = iter([5, 11, 5, 12])  # of the request and of the stream, twice

    def client() -> SecureControl:
        return SecureControl(lab.identity("vera"), lambda _: next(numbers), lab.time.wall)

    first, second = client(), client()
    keys = [wire.ask(each, "grant")["key"] for each in (first, second)]
    assert keys[0] != keys[1]
    material = wire.appliance.hal.keys.granted[keys[1]][1]
    assert second.export(1, b"EXPORTER-nip-seal-%016x" % keys[1], 56) == material


def test_revoking_drops_the_keys_of_a_certificate(lab: AccessLab, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    keys = wire.appliance.hal.keys
    for name in ("vera", "oleg"):
        wire.ask(lab.client(name), "grant")
    lab.ca.revoke("vera")
    wire.ask(lab.client("ada"), "access.revoke", list=lab.ca.revoked_list())
    assert keys.holders() == [serial_of(lab, "oleg")]
    assert any("dropped: it is revoked" in record.getMessage() for record in caplog.records)


def test_a_firmware_that_died_while_revoking_drops_them_at_its_next_boot(lab: AccessLab, wire: Wire) -> None:
    keys = wire.appliance.hal.keys
    wire.ask(lab.client("vera"), "grant")
    lab.ca.revoke("vera")
    wire.appliance.hal.flash.objects["access/revoked"] = lab.ca.revoked_list()
    assert keys.holders() == [serial_of(lab, "vera")]
    wire.appliance.boot()
    assert keys.holders() == []


@pytest.mark.parametrize(("peer", "error"), [(PEER, BusyError), ((1 << 63) + 5, BadArgumentError)])
def test_what_the_hardware_refuses(lab: AccessLab, appliance: Appliance, peer: int, error: type[Exception]) -> None:
    appliance.hal.keys.failure = CommandError(CommandStatus.REFUSED, "no")
    with pytest.raises(error, match="no"):
        Wire(appliance, peer).ask(lab.client("vera"), "grant")


def test_a_grant_is_audited(lab: AccessLab, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    wire.ask(lab.client("vera"), "grant")
    lines = [record.getMessage() for record in caplog.records if record.name == "audit"]
    assert lines == [f"allowed vera ({serial_of(lab, 'vera')}) from {PEER:#x}: 'grant'"]


def test_with_open_access_there_is_nothing_to_make_keys_of(appliance: Appliance) -> None:
    status, answer = OpenGate(Control(appliance.services)).handle(PEER, msgpack.packb({"op": "grant"}))
    assert status is Status.UNKNOWN_OPERATION
    assert b"open" in answer


@pytest.mark.parametrize("arguments", [{"key": -1}, {"key": 1 << 63}, {"key": "x"}])
def test_arguments_that_make_no_sense(lab: AccessLab, wire: Wire, arguments: dict[str, Any]) -> None:
    with pytest.raises(BadArgumentError):
        wire.ask(lab.client("vera"), "grant", **arguments)
