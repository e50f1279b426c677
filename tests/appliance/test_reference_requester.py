"""The device and the reference requester over a wire that loses, duplicates, reorders and delays.

Whatever happens: a *once* request is executed at most once, every request ends with its own answer or is given up, and
when all is over nothing is left behind: no credit, no unfinished message, no kept answer of a session that ended.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import msgpack
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from host_sdk.wire.exchange.states import RequestState
from host_sdk.wire.header import decode_header
from host_sdk.wire.schema import Flag, Opcode, Status
from tests.rig.frames import CLOSE, OPEN, Pdu, decode, message
from tests.rig.packages import tensor_package
from tests.rig.port import Port, make_port
from tests.rig.reference_requester import ReferenceRequester, Row, SessionBounds
from tests.rig.tiny_models import doubler

MS = 1_000_000
FRAGMENT = 1024
SMALL, LONG = 2, 800  # floats; the long ones take four fragments each way
DELAY_US = 30_000
PIPELINES = {"small": (SMALL, 0), "long": (LONG, 0), "slow": (SMALL, DELAY_US), "slow long": (LONG, DELAY_US)}
LIMITS = {"credits": 4, "session_window": 8, "session_fragments": 8, "queue_depth": 8}


def body(token: int, floats: int) -> np.ndarray:
    values = np.arange(floats, dtype="<f4")
    values[0] = token
    return values


@contextmanager
def device(directory: Path, **limits: int) -> Iterator[Port]:
    packages = [
        tensor_package(name.replace(" ", "-"), doubler((1, floats)), batch=4, delay_us=delay)
        for name, (floats, delay) in PIPELINES.items()
    ]
    made = make_port(directory, *packages, **{**LIMITS, **limits})
    try:
        yield next(made)
    finally:
        for _ in made:  # closes it
            pass


class Visitor:
    """A host of its own at a device, with a session."""

    def __init__(self, port: Port, unasked: int) -> None:
        self.port, self.link = port, port.switch.attach()
        wanted = {"fragment_size": FRAGMENT, "fragments": unasked}
        (opened,) = [decode(data) for data in self.exchange(message(Pdu(OPEN, msgpack.packb(wanted), 100)))]
        said = msgpack.unpackb(opened.payload)
        self.session = opened.session
        self.bounds = SessionBounds(
            opened.session, said["next"], said["credits"], said["window"], said["fragments"], FRAGMENT, unasked
        )
        self.handles = {str(entry["name"]): int(str(entry["handle"])) for entry in port.device.pipelines()}

    def exchange(self, pdus: list[bytes]) -> list[bytes]:
        """Send frames as one batch, let the device work, return what comes back."""
        if pdus:
            buffers = self.link.allocate(len(pdus))
            for index, data in enumerate(pdus):
                start = int(buffers.starts[index])
                buffers.memory[start : start + len(data)] = np.frombuffer(data, np.uint8)
                buffers.lengths[index], buffers.peers[index] = len(data), self.port.node.address
            self.link.send(buffers)
        while self.port.device._dataplane.step():
            pass
        replies = []
        while len(batch := self.link.receive()):
            replies += [batch.pdu(index).tobytes() for index in range(len(batch))]
        return replies

    def counters(self) -> dict[str, int]:
        return self.port.device.counters()

    def close(self) -> None:
        close = Pdu(CLOSE, b"", 101, session=self.session, fragment_size=FRAGMENT)
        assert [decode(data).status for data in self.exchange([close.encode()])] == [Status.OK]
        self.link.close()


class Visit(RuleBasedStateMachine):
    limits: ClassVar[dict[str, int]] = {}

    @initialize(unasked=st.sampled_from([1, 2, 32]), seed=st.integers(0, 100))
    def begin(self, unasked: int, seed: int) -> None:
        self.stack = ExitStack()
        directory = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.port = self.stack.enter_context(device(Path(directory), **self.limits))
        self.visitor = Visitor(self.port, unasked)
        self.requester = ReferenceRequester(self.visitor.bounds, seed)
        self.before = self.visitor.counters()
        self.expected: list[tuple[Row, bytes]] = []
        self.given_up: list[Row] = []
        self.out: list[bytes] = []
        self.back: list[bytes] = []
        self.copies: Counter[int] = Counter()  # of datagrams in one fragment that arrived, by id
        self.kept: dict[int, tuple[bytes, ...]] = {}

    @property
    def now(self) -> int:
        return self.port.clock.now_ns()

    # ---- the user ------------------------------------------------------------------------------------------------

    @rule(
        pipeline=st.sampled_from(list(PIPELINES)),
        once=st.sampled_from([True, True, True, False]),
        crc=st.booleans(),
        trailer=st.sampled_from([False, False, True]),
        priority=st.sampled_from([0, 0, 9]),
        count=st.sampled_from([1, 1, 2, 5]),
    )
    def submit(self, pipeline: str, once: bool, crc: bool, trailer: bool, priority: int, count: int) -> None:
        floats, _ = PIPELINES[pipeline]
        crc |= not once and floats == LONG  # else parts of two answers to one datagram are not told apart
        flags = Flag.ONCE * once | Flag.CRC * (crc or once) | Flag.TRAILER * trailer
        for _ in range(count):
            asked = body(len(self.expected), floats)
            handle = self.visitor.handles[pipeline.replace(" ", "-")]
            row = self.requester.submit(handle, asked.tobytes(), int(flags), priority)
            self.expected.append((row, (asked + asked).tobytes()))
        self.send()

    @precondition(lambda self: self.requester.outstanding)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        row = self.requester.outstanding[data.draw(st.integers(0, len(self.requester.outstanding) - 1))]
        self.requester.give_up(row, self.now)
        self.given_up.append(row)
        self.send()

    @rule()
    def settle(self) -> None:
        self.requester.settle()
        self.send()

    @precondition(lambda self: self.requester.outstanding)
    @rule(data=st.data())
    def ask_early(self, data: st.DataObject) -> None:
        """Send a RESEND at a time when nobody would."""
        row = self.requester.outstanding[data.draw(st.integers(0, len(self.requester.outstanding) - 1))]
        self.requester._ask(row)
        self.send()

    @rule(step=st.sampled_from([1, 5, 21, 100]))
    def wait(self, step: int) -> None:
        self.port.clock.advance(step * MS)
        self.take_back(self.visitor.exchange([]))
        self.send()

    def send(self) -> None:
        self.out += self.requester.to_send(self.now)

    # ---- the wire ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.out)
    @rule(data=st.data(), duplicate=st.booleans())
    def reach_device(self, data: st.DataObject, duplicate: bool) -> None:
        """Let some frames arrive as one batch, in any order, some of them twice."""
        some = data.draw(st.lists(st.integers(0, len(self.out) - 1), min_size=1, max_size=8))
        batch = [self.out[at] for at in some]
        if not duplicate:
            self.out = [pdu for at, pdu in enumerate(self.out) if at not in some]
        self.arrive_there(batch)

    @precondition(lambda self: self.out)
    @rule()
    def reach_device_in_order(self) -> None:
        arriving, self.out = self.out, []
        self.arrive_there(arriving)

    def arrive_there(self, pdus: list[bytes]) -> None:
        for pdu in pdus:
            header = decode_header(pdu)
            if header.opcode == Opcode.INFER and not header.flags & Flag.ONCE:
                self.copies[header.request] += 1
        self.take_back(self.visitor.exchange(pdus))

    def take_back(self, pdus: list[bytes]) -> None:
        for pdu in pdus:
            self.check_reply(pdu)
        self.back += pdus

    def check_reply(self, pdu: bytes) -> None:
        """Hold a frame of the device against the text."""
        header = decode_header(pdu)
        row = next((row for row, _ in self.expected if row.id == header.request), None)
        assert row is not None
        assert header.session == self.visitor.session
        assert header.priority == row.header.priority  # N-019
        assert len(pdu) <= 32 + FRAGMENT  # N-063
        assert header.flags & Flag.ONCE == row.header.flags & Flag.ONCE  # N-098, N-118
        if header.opcode != Opcode.RESULT:
            return
        if header.status != Status.CANCELLED:  # that may be all that it knows of the request
            assert header.flags & Flag.CRC == row.header.flags & Flag.CRC  # N-036
        final = header.status not in (Status.BUSY, Status.REASSEMBLY_TIMEOUT)
        if final and row.header.flags & Flag.ONCE:
            same = self.kept.setdefault((row.id << 16) + header.fragment, (pdu[:23], pdu[24:]))
            assert same == (pdu[:23], pdu[24:])  # N-113
        if header.status == Status.BUSY:
            assert header.retry_after >= 1  # N-067

    @precondition(lambda self: self.back)
    @rule(data=st.data(), duplicate=st.booleans())
    def reach_requester(self, data: st.DataObject, duplicate: bool) -> None:
        at = data.draw(st.integers(0, len(self.back) - 1))
        self.requester.receive(self.back[at] if duplicate else self.back.pop(at), self.now)
        self.send()

    @precondition(lambda self: self.back)
    @rule()
    def reach_requester_in_order(self) -> None:
        arriving, self.back = self.back, []
        for pdu in arriving:
            self.requester.receive(pdu, self.now)
        self.send()

    @precondition(lambda self: self.out or self.back)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        queue = self.out or self.back
        at = data.draw(st.integers(0, len(queue) - 1))
        del queue[at : at + data.draw(st.integers(1, 6))]

    # ---- the end -------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """From here on nothing gets lost: everything must come to its end."""
        if not hasattr(self, "requester"):
            return
        with self.stack:
            if not sys.exc_info()[0]:  # else a step has failed
                self.come_to_an_end()

    def come_to_an_end(self) -> None:
        for _ in range(300):
            while self.out or self.back:
                if self.out:
                    self.reach_device_in_order()
                if self.back:
                    self.reach_requester_in_order()
            if all(row.state is RequestState.SETTLED for row, _ in self.expected):
                break
            timer = self.requester.next_timer() or self.now
            self.wait(max(1, min(21, -(-(timer - self.now) // MS))))
        self.check_end()
        self.visitor.close()
        self.check_nothing_is_left()

    def check_end(self) -> None:
        for row, answer in self.expected:
            assert row.state is RequestState.SETTLED, row
            if row not in self.given_up:
                assert row.outcome is not None
                assert row.outcome.header.status == Status.OK, row.outcome
                assert row.outcome.body == answer
                assert (row.outcome.trailer is not None) == bool(row.header.flags & Flag.TRAILER)
        self.port.clock.advance(3_000 * MS)
        self.take_back(self.visitor.exchange([]))
        once = [row for row, _ in self.expected if row.header.flags & Flag.ONCE]
        least = sum(row not in self.given_up for row, _ in self.expected)
        executed = self.visitor.counters()["inferences"] - self.before["inferences"]
        assert executed >= least
        assert executed <= len([row for row in once if row.id]) + sum(self.copies.values())

    def check_nothing_is_left(self) -> None:
        counters, state = self.visitor.counters(), self.port.device._state
        assert counters["rx_frames"] == sum(value for name, value in counters.items() if name.startswith("frames_"))
        assert (state.sessions.outstanding == 0).all()
        assert self.port.device._dataplane.collecting == 0
        assert len(state.reassembler) == 0
        assert state.answers.held == 0
        assert all(len(loaded.queue) == 0 for loaded in state.table)


class Tight(Visit):
    limits: ClassVar[dict[str, int]] = {"queue_depth": 2, "kept_answers_bytes": 40_000, "credits": 3}


Visit.TestCase.settings = Tight.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAmple, TestTight = Visit.TestCase, Tight.TestCase
