"""The general path: every request is answered once, without a retransmission that would hide one that was not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from host_sdk.wire.schema import RETRY_AFTER_UNIT_US, Status
from tests.rig.frames import OPEN, Pdu, decode, message
from tests.rig.packages import held_out, image_package, tensor_package
from tests.rig.port import CRC_FLAG, Port, make_port

BODY = bytes(256)
LATE = 1_000_000  # µs


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    yield from make_port(tmp_path, tensor_package("raw", delay_us=LATE), image_package(), queue_depth=4)


def test_what_finds_no_room_is_busy_and_all_others_are_answered(port: Port) -> None:
    answers = port.ask([port.infer(number, BODY, flags=CRC_FLAG) for number in range(10)])
    # A full queue waits for nobody; those that came first are in it.
    assert {answer.request: answer.status for answer in answers if answer.status == 0} == dict.fromkeys(range(4), 0)
    refused = {answer.request: answer.retry_after for answer in answers if answer.status == Status.BUSY}
    # Half of a queue of 4 at the pace that a pipeline begins with: 2 requests of 100 µs.
    assert refused == dict.fromkeys(range(4, 10), 200 // RETRY_AFTER_UNIT_US)
    assert len(answers) == 10


def test_what_waits_for_a_pipeline_that_is_removed_is_refused(port: Port) -> None:
    assert port.ask([port.infer(number, BODY) for number in range(3)]) == []
    assert port.device.unload_pipeline("raw")
    answers = port.ask([])
    assert {answer.request: answer.status for answer in answers} == dict.fromkeys(range(3), Status.UNKNOWN_PIPELINE)


def test_a_deadline_that_passes_while_another_pipeline_runs_is_kept(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = port.device._state.table
    slow = table.named("digits")
    assert slow is not None
    run = type(slow.pipeline).run

    def slowly(pipeline: object, bodies: object, clock: object, standing: object = None) -> object:
        if pipeline is slow.pipeline:
            port.clock.advance(50_000_000)
        return run(pipeline, bodies, clock, standing)  # type: ignore[arg-type]

    monkeypatch.setattr(type(slow.pipeline), "run", slowly)
    handles = {entry["name"]: entry["handle"] for entry in port.device.pipelines()}
    # Both are due in the same turn; the one with the deadline comes second in the table's order.
    port.device.unload_pipeline("raw")
    port.device.load_pipeline(tensor_package("quick"))
    handles = {entry["name"]: entry["handle"] for entry in port.device.pipelines()}
    table._slots = dict(sorted(table._slots.items(), key=lambda item: item[1] is not slow))
    first = port.infer(1, held_out()[0][1], pipeline=handles["digits"])
    second = port.infer(2, BODY, pipeline=handles["quick"], tail=10_000)  # 10 ms, and digits takes 50
    answers = {answer.request: answer.status for answer in port.ask([first, second])}
    assert answers == {1: Status.OK, 2: Status.DEADLINE_EXCEEDED}


def test_a_body_that_finds_a_bug_costs_no_other_its_answer(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = port.device._state.table.named("digits")
    assert loaded is not None
    run = type(loaded.pipeline).run

    def buggy(pipeline: object, bodies: list[bytes], clock: object, standing: object = None) -> object:
        if b"bug" in bodies:
            raise AssertionError("nobody thought of this")
        return run(pipeline, bodies, clock, standing)  # type: ignore[arg-type]

    monkeypatch.setattr(type(loaded.pipeline), "run", buggy)
    bodies = [held_out()[0][1], b"bug", held_out()[1][1]]
    answers = port.ask([port.infer(n, body, pipeline=loaded.pipeline.handle) for n, body in enumerate(bodies)])
    assert {answer.request: answer.status for answer in answers} == {0: 0, 1: Status.INTERNAL, 2: 0}


def test_replies_keep_to_the_fragment_size_that_the_session_asked_for(tmp_path: Path) -> None:
    outputs = tensor_package("wide", stages="")
    for port in make_port(tmp_path, outputs):
        (opened,) = port.ask([Pdu(OPEN, b"\x81\xadfragment_size\xcd\x02\x20", 7)])  # 544, the smallest
        body = np.zeros(256, np.uint8).tobytes()
        frames = port.exchange(message(port.infer(1, body, session=opened.session, flags=CRC_FLAG)))
        assert [decode(data).fragment_size for data in frames] == [544]


def test_a_ring_with_little_room_sends_every_reply_to_whom_it_belongs(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate = port.node.allocate
    monkeypatch.setattr(port.node, "allocate", lambda count: allocate(min(count, 3)))
    handle = port.device._state.table.named("digits")
    assert handle is not None
    numbers = [port.infer(n, b"no image", pipeline=handle.pipeline.handle, flags=CRC_FLAG) for n in range(4)]
    answers = port.ask([*numbers, *(port.infer(10 + n, BODY, session=9, flags=CRC_FLAG) for n in range(10))])
    statuses = {answer.request: answer.status for answer in answers}
    expected = dict.fromkeys(range(4), int(Status.UNDECODABLE)) | dict.fromkeys(
        range(10, 20), int(Status.UNKNOWN_SESSION)
    )
    assert statuses == expected
