"""What the visits of the reference requester found at a device, each in as few frames as show it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_sdk.wire.schema import Flag, Opcode, Status
from tests.appliance.test_reference_requester import (
    FRAGMENT,
    LONG,
    MS,
    PIPELINES,
    SMALL,
    Visitor,
    body,
    device,
)
from tests.rig.frames import Pdu, decode, message
from tests.rig.packages import tensor_package
from tests.rig.tiny_models import doubler

FIRST = 101  # the OPEN has id 100


@pytest.fixture
def visitor() -> Iterator[Visitor]:
    with tempfile.TemporaryDirectory() as directory, device(Path(directory), kept_answers_bytes=40_000) as port:
        made = Visitor(port, 32)
        yield made
        made.close()


def frames(visitor: Visitor, number: int, name: str) -> list[bytes]:
    floats = LONG if "long" in name else SMALL
    fields = {"flags": int(Flag.ONCE | Flag.CRC), "session": visitor.session, "pipeline": visitor.handles[name]}
    return message(Pdu(Opcode.INFER, body(number, floats).tobytes(), number, **fields), FRAGMENT)


def notice(visitor: Visitor, opcode: Opcode, number: int) -> bytes:
    (data,) = message(Pdu(opcode, b"", number, int(Flag.ONCE | Flag.CRC), visitor.session), FRAGMENT)
    return data


def statuses(replies: list[bytes]) -> list[int]:
    return [pdu.status for pdu in map(decode, replies) if pdu.opcode == Opcode.RESULT and pdu.fragment == 0]


def test_a_cancelled_request_gives_back_the_room_of_its_long_answer(visitor: Visitor) -> None:
    state, asked = visitor.port.device._state.answers, range(FIRST, FIRST + 6)
    for number in asked:  # each has left the one before behind, settled
        visitor.exchange([notice(visitor, Opcode.SETTLE, number - 1)])
        assert statuses(visitor.exchange(frames(visitor, number, "slow-long"))) == []
        assert statuses(visitor.exchange([notice(visitor, Opcode.CANCEL, number)])) == [Status.CANCELLED]
    visitor.exchange([notice(visitor, Opcode.SETTLE, asked[-1])])
    assert sum(state._reserved.values()) == 0
    assert statuses(visitor.exchange(frames(visitor, FIRST + 6, "long"))) == [Status.OK]


@pytest.mark.parametrize("name", ["small", "long"])
def test_a_copy_gets_its_answer_after_its_pipeline_was_replaced(visitor: Visitor, name: str) -> None:
    first = visitor.exchange(frames(visitor, FIRST, name))
    assert statuses(first) == [Status.OK]
    floats, delay = PIPELINES[name]
    visitor.port.device.load_pipeline(tensor_package(name, doubler((1, floats)), batch=8, delay_us=delay))
    again = visitor.exchange(frames(visitor, FIRST, name)[-1:])
    assert again == first[-len(again) :]
    assert statuses(again) == [Status.OK]


@pytest.mark.parametrize("name", ["slow", "slow-long"])
def test_a_request_that_a_replaced_pipeline_did_not_execute_stays_refused(visitor: Visitor, name: str) -> None:
    assert statuses(visitor.exchange(frames(visitor, FIRST, name))) == []
    floats, delay = PIPELINES[name.replace("-", " ")]
    visitor.port.device.load_pipeline(tensor_package(name, doubler((1, floats)), batch=8, delay_us=delay))
    refused = visitor.exchange([])
    assert statuses(refused) == [Status.UNKNOWN_PIPELINE]
    assert visitor.exchange(frames(visitor, FIRST, name)[-1:]) == refused
    visitor.port.clock.advance(100 * MS)
    assert visitor.exchange([]) == []
