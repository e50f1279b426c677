"""Sealed sessions at a device: whom they belong to, and what their certificate allows, on every path of a request."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest

from appliance.dataplane.grants import MAX_KEYS, MAX_KEYS_EACH, Granting, GrantTable, Meter
from appliance.dataplane.sessions import IDLE_NS, Opening
from appliance.dataplane.tenants import TenantTable
from host_sdk.wire.errors import ConfigError, DeviceError
from host_sdk.wire.links.base import SEALED_PEER
from host_sdk.wire.roles import Grant, Role
from host_sdk.wire.sealed.keys import KeyRing
from tests.rig.frames import BUSY, CLOSE, OK, OPEN, UNKNOWN_SESSION, Pdu, decode, message
from tests.rig.packages import tensor_package
from tests.rig.port import CRC_FLAG, Port, make_port
from tests.rig.sealed import HOUR, SealedHost, keys_of, material, sealed_host
from tests.rig.tiny_models import doubler

ONCE = 9  # with flag CRC
NOT_PERMITTED, NOT_SEALED, UNKNOWN_KEY = 81, 82, 83
SMALL, LONG = 8, 1000  # floats; the long ones take three frames
FREE = Grant(Role.VIEWER)
MILLISECOND = 1_000_000
PATHS = [  # of requests: number, pipeline, floats, flags
    pytest.param(1, "small", SMALL, 0, id="one frame"),
    pytest.param(12, "small", SMALL, CRC_FLAG, id="a run"),
    pytest.param(1, "small", SMALL, ONCE, id="once"),
    pytest.param(2, "long", LONG, ONCE, id="many frames landing"),
    pytest.param(2, "long", LONG, 0, id="many frames reassembled"),
]


def demanding(package: bytes, answer: str) -> bytes:
    """Return a package whose manifest says whether requests have to come sealed."""
    parts = msgpack.unpackb(package)
    packed: bytes = msgpack.packb({**parts, "manifest": f"sealed = {answer}\n{parts['manifest']}"})
    return packed


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    packages = (
        tensor_package("small", doubler((1, SMALL)), batch=8),
        tensor_package("long", doubler((1, LONG)), batch=4),
        tensor_package("slow", doubler((1, SMALL)), batch=64, delay_us=1_000_000),
        demanding(tensor_package("public", doubler((1, SMALL)), batch=8), "false"),
    )
    for made in make_port(tmp_path, *packages, mutual=True):
        yield made
        counters = made.device.counters()
        assert counters["rx_frames"] == sum(value for name, value in counters.items() if name.startswith("frames_"))
        assert counters["rx_frames"] == counters["link_rx_frames"]
        assert (made.device._state.sessions.outstanding >= 0).all()


def requests(port: Port, count: int, name: str, floats: int, flags: int, first: int = 0) -> list[Pdu]:
    handle = next(entry["handle"] for entry in port.device.pipelines() if entry["name"] == name)
    body = np.arange(floats, dtype="<f4").tobytes()
    base = port.opened.request + 1 if flags & ONCE else 1000
    return [
        port.infer(base + first + number, body, flags=flags, pipeline=handle)  # type: ignore[arg-type]
        for number in range(count)
    ]


def statuses(answers: list[Pdu]) -> list[int]:
    return [answer.status for answer in answers if answer.opcode == 0x90 and answer.fragment == 0]


# ---- who a session belongs to ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "name", "floats", "flags"), PATHS)
def test_sealed_requests_are_answered_sealed_on_every_path(
    port: Port, count: int, name: str, floats: int, flags: int
) -> None:
    host = sealed_host(port, 7, FREE)
    for turn in range(2):  # the second time the flow is known
        answers = host.port.ask(requests(host.port, count, name, floats, flags, turn * count))
        assert statuses(answers) == [OK] * count
    expected = (np.arange(floats, dtype="<f4") * 2).tobytes()
    assert answers[0].payload[: min(1400, len(expected))] == expected[: min(1400, len(answers[0].payload))]
    assert host.tally.drops == {}


@pytest.mark.parametrize(("count", "name", "floats", "flags"), PATHS)
def test_what_comes_in_the_clear_is_not_sealed(port: Port, count: int, name: str, floats: int, flags: int) -> None:
    before = port.device.counters()["inferences"]
    for turn in range(2):
        answers = port.ask(requests(port, count, name, floats, flags, turn * count))
        assert set(statuses(answers)) == {NOT_SEALED}
    assert port.device.counters()["inferences"] == before


def test_a_pipeline_may_take_plain_requests_too(port: Port) -> None:
    host = sealed_host(port, 7, FREE)
    for each in (port, host.port):
        assert statuses(each.ask(requests(each, 3, "public", SMALL, 0))) == [OK] * 3
    sealed = {entry["name"]: entry["sealed"] for entry in port.device.pipelines()}
    assert sealed == {"small": True, "long": True, "slow": True, "public": False}


def test_a_forged_session_of_a_key(port: Port) -> None:
    host, other = sealed_host(port, 7, FREE), sealed_host(port, 8, FREE)
    stolen = [replace(pdu, session=host.port.session) for pdu in requests(host.port, 1, "small", SMALL, 0)]
    beside = Port(port.switch, port.device, port.clock, port.node, host.inner)  # in the clear, from the very address
    for attacker in (port, beside, other.port):
        assert statuses(attacker.ask(stolen)) == [UNKNOWN_SESSION]
        (closed,) = attacker.ask([Pdu(CLOSE, b"", 99, session=host.port.session)])
        assert closed.status == UNKNOWN_SESSION
    counters = port.device.counters()
    assert counters["answers_unknown_session"] == 6
    assert statuses(host.port.ask(requests(host.port, 1, "small", SMALL, 0))) == [OK]


def test_a_replayed_inference_is_not_run_again(port: Port) -> None:
    host = sealed_host(port, 7, FREE)
    eavesdropped: list[bytes] = []
    host.inner.send, send = (  # type: ignore[method-assign]
        lambda batch: eavesdropped.extend(batch.pdu(at).tobytes() for at in range(len(batch))) or send(batch),  # type: ignore[func-returns-value]
        host.inner.send,
    )
    host.port.ask(requests(host.port, 1, "small", SMALL, 0))
    host.inner.send = send  # type: ignore[method-assign]
    before = port.device.counters()
    beside = Port.__new__(Port)
    beside.__dict__ |= {**host.port.__dict__, "link": host.inner, "peer": port.node.address}
    assert beside.exchange(eavesdropped * 3) == []
    after = port.device.counters()
    assert after["inferences"] == before["inferences"]
    assert after["frames_replayed"] == before["frames_replayed"] + 3


def test_sealed_frames_at_a_node_with_open_access(tmp_path: Path) -> None:
    for port in make_port(tmp_path, tensor_package("small", doubler((1, SMALL))), mutual=False):
        frame = bytearray(requests(port, 1, "small", SMALL, 0)[0].encode() + bytes(32))
        frame[3] |= 0x10
        assert port.exchange([bytes(frame)]) == []
        assert port.device.counters()["frames_trailing_bytes"] == 1
        with pytest.raises(ConfigError, match="with open access nobody has keys"):
            port.device.load_pipeline(demanding(tensor_package("secret"), "true"))
        port.device.load_pipeline(demanding(tensor_package("open"), "false"))


# ---- the end of a key ------------------------------------------------------------------------------------------------


def hint(host: SealedHost) -> Pdu:
    """Return the hint that a request gets, in the clear; the only frame that comes."""
    host.port.send([data for pdu in requests(host.port, 1, "small", SMALL, 0) for data in message(pdu)])
    while host.port.device._dataplane.step():
        pass
    batch = host.inner.receive()
    assert len(batch) == 1
    return decode(batch.pdu(0).tobytes())


def test_a_key_after_its_certificate_was_revoked(port: Port) -> None:
    host, other = sealed_host(port, 7, FREE, serial="bad"), sealed_host(port, 8, FREE)
    sessions = port.device.counters()["sessions"]
    keys = keys_of(port)
    assert keys.holders() == ["8", "bad"]
    keys.drop("bad")
    assert hint(host).status == UNKNOWN_KEY
    counters = port.device.counters()
    assert (counters["sessions"], counters["frames_unknown_key"], counters["answers_unknown_key"]) == (
        sessions - 1,
        1,
        1,
    )
    assert statuses(other.port.ask(requests(other.port, 1, "small", SMALL, 0))) == [OK]
    assert keys.holders() == ["8"]


def test_a_key_after_its_time(port: Port) -> None:
    host = sealed_host(port, 7, FREE, lifetime_ns=5 * 1000 * MILLISECOND)
    keys, address = keys_of(port), host.inner.address
    assert keys.lifetime_ms(7, address, "7") == 5000
    assert (
        keys.lifetime_ms(7, address + 1, "7") == keys.lifetime_ms(7, address, "8") == keys.lifetime_ms(6, 1, "7") == 0
    )
    assert statuses(host.port.ask(requests(host.port, 1, "small", SMALL, 0))) == [OK]
    port.clock.advance(5 * 1000 * MILLISECOND)
    assert hint(host).status == UNKNOWN_KEY
    assert port.device.counters()["keys"] == 0


# ---- what a certificate allows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "name", "floats", "flags"), PATHS)
def test_a_pipeline_that_is_not_in_the_grant(port: Port, count: int, name: str, floats: int, flags: int) -> None:
    host = sealed_host(port, 7, Grant(Role.VIEWER, pipelines=("public", "gone")))
    allowed = sealed_host(port, 8, Grant(Role.VIEWER, pipelines=(name,)))
    for turn in range(2):
        assert set(statuses(host.port.ask(requests(host.port, count, name, floats, flags, turn * count)))) == {
            NOT_PERMITTED
        }
        answers = allowed.port.ask(requests(allowed.port, count, name, floats, flags, turn * count))
        assert statuses(answers) == [OK] * count
    assert statuses(host.port.ask(requests(host.port, 1, "public", SMALL, 0))) == [OK]


def test_credits_are_a_share(port: Port) -> None:
    host = sealed_host(port, 7, Grant(Role.VIEWER, share=25))
    assert host.port.opened.credits == 16
    answers = host.port.ask(requests(host.port, 64, "slow", SMALL, 0))
    assert statuses(answers) == [BUSY] * 16  # of 48, the others are dropped
    assert {answer.credits for answer in answers} == {16}
    assert port.device.counters()["frames_over_credit"] == 32
    port.clock.advance(1000 * MILLISECOND)
    assert statuses(host.port.ask([])) == [OK] * 16
    assert statuses(host.port.ask(requests(host.port, 20, "small", SMALL, 0))).count(OK) == 16  # and on the fast path


def test_a_tenants_flood_costs_another_nothing(port: Port) -> None:
    """Counted, not timed: 3 s of a virtual clock, one tenant at ten times its rate and one within it."""
    flood = sealed_host(port, 7, Grant(Role.VIEWER, tenant="flood", rate=100))
    within = sealed_host(port, 8, Grant(Role.VIEWER, tenant="within", rate=100))
    found: dict[str, Counter[int]] = {"flood": Counter(), "within": Counter()}
    for tick in range(300):
        port.clock.advance(10 * MILLISECOND)
        for name, host, count in (("flood", flood, 10), ("within", within, 1)):
            found[name].update(statuses(host.port.ask(requests(host.port, count, "small", SMALL, CRC_FLAG, 10 * tick))))
    assert found["within"] == {OK: 300}
    assert 300 <= found["flood"][OK] <= 300 + 10  # what came within a tenth of a second at the beginning
    assert found["flood"][BUSY] == 3000 - found["flood"][OK]


def test_what_is_over_the_rate_is_told_when_its_turn_is(port: Port) -> None:
    host = sealed_host(port, 7, Grant(Role.VIEWER, rate=10))
    answers = host.port.ask(requests(host.port, 30, "small", SMALL, 0))
    assert statuses(answers) == [BUSY] * 16 + [OK]
    assert [answer.retry_after for answer in answers[:16]] == [1000 * turn for turn in range(1, 17)]  # of 100 µs
    assert port.device.counters()["frames_over_rate"] == 13
    assert (port.device._state.sessions.outstanding == 0).all()
    port.clock.advance(100 * MILLISECOND)
    (answer,) = host.port.ask(requests(host.port, 1, "small", SMALL, 0))
    assert answer.status == OK


def test_copies_of_a_request_cost_no_rate(port: Port) -> None:
    host = sealed_host(port, 7, Grant(Role.VIEWER, rate=10))
    (request,) = requests(host.port, 1, "small", SMALL, ONCE)
    for _ in range(5):
        assert statuses(host.port.ask([request])) == [OK]
    assert port.device.counters()["inferences"] == 1


def test_certificates_of_a_tenant_share_its_rate(port: Port) -> None:
    hosts = [sealed_host(port, number, Grant(Role.VIEWER, tenant="one", rate=20)) for number in (7, 8)]
    answered = [statuses(host.port.ask(requests(host.port, 3, "small", SMALL, 0))).count(OK) for host in hosts]
    assert answered == [2, 0]


# ---- the table -------------------------------------------------------------------------------------------------------


@pytest.fixture
def table() -> GrantTable:
    return GrantTable(KeyRing(), TenantTable({"gold": 4}))


def granting(number: int, serial: str = "a", grant: Grant = FREE) -> Granting:
    return Granting(number, 1, material(number), grant, serial, HOUR)


def test_the_tenant_is_the_certificates(table: GrantTable) -> None:
    table.add(granting(5, grant=Grant(Role.VIEWER, tenant="gold", share=40)), 0)
    asked = Opening(SEALED_PEER | 5, 1, 1000, tenant=0)
    limited = table.limited(asked)
    assert (limited.tenant, limited.share, limited.holder > 0) == (1, 40, True)
    # In the clear nobody is anybody.
    claimed = table.limited(Opening(5, 1, 1000, tenant=1))
    assert (claimed.tenant, claimed.holder) == (0, 0)


def test_a_certificates_own_idlest_key_makes_room(table: GrantTable) -> None:
    table.add(granting(1, "b"), 0)
    for number in range(2, MAX_KEYS_EACH + 2):
        assert table.add(granting(number), number) == []
    assert table.add(granting(MAX_KEYS_EACH + 2), 1000) == [SEALED_PEER | 2]
    assert table.keys == MAX_KEYS_EACH + 1


def test_a_full_table_gives_up_the_idlest_key_and_none_in_use(table: GrantTable) -> None:
    for number in range(1, MAX_KEYS + 1):
        table.add(granting(number, f"{number // MAX_KEYS_EACH:x}"), number)
    with pytest.raises(DeviceError, match="all 1024 keys are in use"):
        table.add(granting(5000, "new"), IDLE_NS)
    assert table.add(granting(5000, "new"), IDLE_NS + 1) == [SEALED_PEER | 1]
    assert table.keys == MAX_KEYS


def test_what_is_no_key(table: GrantTable) -> None:
    table.add(granting(5), 0)
    with pytest.raises(DeviceError, match="already"):
        table.add(granting(5, "b"), 0)
    with pytest.raises(DeviceError, match="not through another key"):
        table.add(replace(granting(6), peer=SEALED_PEER | 5), 0)
    assert table.keys == 1


def test_a_meter() -> None:
    meter = Meter(100)
    assert meter.take(50, 0) == 10
    assert meter.take(50, 5 * MILLISECOND) == 0
    assert meter.take(50, 10 * MILLISECOND) == 1
    assert meter.take(50, 10_000 * MILLISECOND) == 10
    slow = Meter(1)
    assert [slow.take(5, second * 1000 * MILLISECOND) for second in range(3)] == [1, 1, 1]


def test_an_open_in_a_sealed_session_may_ask_for_less(port: Port) -> None:
    host = sealed_host(port, 7, FREE)
    low = [Pdu(OPEN, b"\x81\xadfragment_size\xcd" + size.to_bytes(2, "big"), 50 + size) for size in (511, 512)]
    assert [opened.status for opened in host.port.ask(low)] == [65, OK]
    assert [opened.status for opened in port.ask(low)] == [65, 65]
