"""The fast path against the general path: the same frames get the same bytes back, whichever they take."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from appliance.dla import litert
from tests.rig.frames import CLOSE, Pdu, crc32c, decode, message
from tests.rig.packages import digits_model, tensor_package
from tests.rig.port import CRC_FLAG, TRAILER_FLAG, Port, make_port
from tests.rig.tiny_models import embedding

BODIES = np.random.default_rng(5).integers(0, 256, (64, 256), np.uint8)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    yield from make_port(tmp_path, tensor_package("raw"))


def general(port: Port, pdus: list[Pdu]) -> list[bytes]:
    """Answer frames one flow at a time on the general path: a runt in each batch keeps the fast path out."""
    answers = []
    for pdu in pdus:
        answers += port.exchange([*message(pdu), b"runt"])
    return answers


def sound(data: bytes) -> bool:
    """Return whether a PDU has a CRC, and the right one."""
    covered = data[:23] + b"\0" + data[24:32]  # credits are not covered
    return bool(data[3] & CRC_FLAG) and crc32c(data[32:-4] + covered) == int.from_bytes(data[-4:], "big")


@pytest.mark.parametrize("count", [1, 2, 7, 16, 33, 64])
@pytest.mark.parametrize("flags", [0, TRAILER_FLAG, CRC_FLAG, CRC_FLAG | TRAILER_FLAG])
def test_both_paths_give_the_same_bytes(port: Port, count: int, flags: int) -> None:
    pdus = [port.infer(100 + index, BODIES[index].tobytes(), flags=flags, priority=9) for index in range(count)]
    fast = port.exchange([data for pdu in pdus for data in message(pdu)])
    assert port.fast() == count
    slow = general(port, pdus)
    assert port.fast() == count
    assert len(fast) == len(slow) == count
    for one, other in zip(fast, slow, strict=True):
        crc = 4 if flags & CRC_FLAG else 0
        assert len(one) == len(other)
        end = len(one) - crc - (64 if flags & TRAILER_FLAG else 0)
        assert one[:end] == other[:end]
        assert sound(one) == sound(other) == bool(crc)
        if flags & TRAILER_FLAG:
            # Of the trailer, what does not depend on the batch: rx and tx as modelled, epoch and model.
            assert one[end + 24 : end + 28] == other[end + 24 : end + 28]
            assert one[end + 44 : end + 48] == other[end + 44 : end + 48]
            assert one[end + 54 : end + 64] == other[end + 54 : end + 64]


def test_a_batch_of_one_has_the_same_trailer_on_both_paths(port: Port) -> None:
    # The clock stands still, so that every measured time is 0 and the modelled DLA is free again after a while.
    (fast,) = port.exchange(message(port.infer(1, BODIES[0].tobytes())))
    port.clock.advance(10**9)
    (slow,) = general(port, [port.infer(1, BODIES[0].tobytes())])
    assert port.fast() == 1
    assert fast == slow


def test_answers_are_those_of_the_model_itself(port: Port) -> None:
    model = litert.load(digits_model(), 1)
    pdus = [port.infer(index, BODIES[index].tobytes()) for index in range(20)]
    answers = {decode(data).request: data for data in port.exchange([data for pdu in pdus for data in message(pdu)])}
    for index in range(20):
        (logits,) = model.invoke(BODIES[index].view(np.int8).reshape(1, 16, 16, 1))
        assert answers[index][32 : 32 + logits.size] == logits.tobytes()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("extension", {"flags": 4}),
        ("unknown flag", {"flags": 0x4000}),
        ("unknown session", {"session": 77}),
        ("unknown pipeline", {"pipeline": 999}),
        ("credits", {"credits": 3}),
    ],
)
def test_anything_out_of_the_ordinary_takes_the_general_path(port: Port, name: str, change: dict[str, int]) -> None:
    assert len(port.ask([port.infer(1, BODIES[0].tobytes(), **change)])) == 1, name
    assert port.fast() == 0


def test_flows_that_are_mixed_in_a_batch_are_all_answered(port: Port) -> None:
    pdus = [port.infer(index, BODIES[index].tobytes(), priority=index % 3) for index in range(30)]
    answers = port.ask(pdus)
    assert {answer.request for answer in answers} == set(range(30))
    assert {answer.status for answer in answers} == {0}
    assert port.fast() == 0


def test_a_wrong_size_is_refused_and_the_next_is_fast_again(port: Port) -> None:
    (refused,) = port.ask([port.infer(1, bytes(255))])
    assert refused.status == 50
    (answer,) = port.ask([port.infer(2, BODIES[0].tobytes())])
    assert (answer.status, port.fast()) == (0, 1)


def test_another_peer_cannot_use_a_session_that_is_known(port: Port) -> None:
    assert port.ask([port.infer(1, BODIES[0].tobytes())])[0].status == 0
    stranger = port.switch.attach()
    own, port.link = port.link, stranger
    (refused,) = port.ask([port.infer(2, BODIES[0].tobytes())])
    port.link = own
    stranger.close()
    assert refused.status == 48
    assert port.fast() == 1


def test_a_closed_session_is_forgotten_at_once(port: Port) -> None:
    assert port.ask([port.infer(1, BODIES[0].tobytes())])[0].status == 0
    assert port.ask([Pdu(CLOSE, b"", 2, session=port.session)])[0].status == 0
    assert port.ask([port.infer(3, BODIES[0].tobytes())])[0].status == 48
    assert port.fast() == 1


def test_a_replaced_pipeline_is_forgotten_at_once(port: Port) -> None:
    old = port.infer(1, BODIES[0].tobytes())
    assert port.ask([old])[0].status == 0
    port.device.load_pipeline(tensor_package("raw", batch=2))
    assert port.ask([port.infer(2, BODIES[0].tobytes(), pipeline=old.pipeline)])[0].status == 49
    assert port.ask([port.infer(3, BODIES[0].tobytes())])[0].status == 0
    port.device.unload_pipeline("raw")
    assert port.ask([port.infer(4, BODIES[0].tobytes(), pipeline=old.pipeline)])[0].status == 49


def test_one_bad_input_in_a_batch_costs_no_other_its_answer(tmp_path: Path) -> None:
    for port in make_port(tmp_path, tensor_package("rows", embedding(np.eye(4)), batch=8)):
        rows = [3, 1, 9, 2]  # there is no row 9
        answers = port.ask([port.infer(index, np.int32(row).tobytes()) for index, row in enumerate(rows)])
        statuses = {answer.request: answer.status for answer in answers}
        assert statuses == {0: 0, 1: 0, 2: 19, 3: 0}


def test_frames_are_conserved_over_both_paths(port: Port) -> None:
    for count in (1, 5, 40):
        port.exchange([data for n in range(count) for data in message(port.infer(n, BODIES[n].tobytes()))])
    port.exchange([b"runt", bytes(40)])
    counters = port.device.counters()
    assert counters["rx_frames"] == sum(value for name, value in counters.items() if name.startswith("frames_"))
    assert counters["rx_frames"] == 1 + 46 + 2  # OPEN, requests, rubbish
    assert counters["answers_ok"] == 1 + 46
    assert counters["inferences"] == counters["fast_answers"] == 46
