"""What every link does alike."""

import contextlib
import itertools
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from host_sdk.wire.errors import ClosedError, ConfigError
from host_sdk.wire.links.base import BROADCAST, BURST
from host_sdk.wire.links.faults import Faults
from host_sdk.wire.links.faulty import FaultyLink
from tests.rig.wires import (
    QUIET,
    SECOND,
    WIRES,
    Wire,
    assert_quiet,
    collect,
    fill,
    memory_wire,
    needs_root,
    send,
    xdp_wire,
)

PATTERN = bytes(range(256)) * 300


Make = Callable[[], AbstractContextManager[Wire]]


def faulty(make: Make, faults: Faults) -> Make:
    """Wires of which every link has faults."""

    @contextlib.contextmanager
    def made() -> Iterator[Wire]:
        with make() as wire:
            links = [
                FaultyLink(link, faults, faults, 1, time.monotonic_ns) for link in (wire.one, wire.two, wire.three)
            ]
            try:
                yield Wire(*links)
            finally:
                for link in links:
                    link.close()

    return made


NO_FAULTS, RARE_FAULT = Faults(), Faults(nth=frozenset({10**9}))
FAULTY = [
    pytest.param(faulty(memory_wire, NO_FAULTS), id="faulty-memory"),
    pytest.param(faulty(memory_wire, RARE_FAULT), id="faulty-memory-rare"),
    pytest.param(faulty(xdp_wire, RARE_FAULT), id="faulty-xdp-rare", marks=needs_root),
]


@pytest.fixture(params=[*WIRES, *FAULTY])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    make: Make = request.param
    with make() as wire:
        yield wire


def pdus(count: int, size: int = 100) -> list[bytes]:
    """Different PDUs of a size and more."""
    return [number.to_bytes(4, "big") + PATTERN[number % 256 :][: size - 4 + number % 7] for number in range(count)]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_unicast_reaches_its_peer_alone(wire: Wire) -> None:
    [pdu] = pdus(1)
    assert send(wire.one, [pdu], wire.two.address) == 1
    [(source, received)] = collect(wire.two, 1)
    assert received == pdu
    assert source == wire.one.address
    assert_quiet(wire.three)
    assert_quiet(wire.one)


def test_a_reply_goes_back_to_the_source_of_the_request(wire: Wire) -> None:
    send(wire.one, pdus(1), wire.three.address)
    [(source, request)] = collect(wire.three, 1)
    send(wire.three, [request[::-1]], source)
    assert collect(wire.one, 1) == [(wire.three.address, request[::-1])]


def test_broadcast_reaches_all_others(wire: Wire) -> None:
    [pdu] = pdus(1)
    assert send(wire.one, [pdu], BROADCAST) == 1
    for link in (wire.two, wire.three):
        assert collect(link, 1) == [(wire.one.address, pdu)]
    assert_quiet(wire.one)


def test_one_batch_may_have_several_receivers(wire: Wire) -> None:
    first, second, third = pdus(3)
    batch = wire.one.allocate(3)
    fill(batch, [first, second, third], 0)
    batch.peers[:] = [wire.two.address, BROADCAST, wire.three.address]
    assert wire.one.send(batch) == 3
    assert [pdu for _, pdu in collect(wire.two, 2)] == [first, second]
    assert [pdu for _, pdu in collect(wire.three, 2)] == [second, third]


def test_a_burst_arrives_whole_and_in_order(wire: Wire) -> None:
    burst = pdus(BURST)
    assert send(wire.one, burst, wire.two.address) == BURST
    assert [pdu for _, pdu in collect(wire.two, BURST)] == burst


def test_only_the_first_frames_of_a_batch_can_be_sent(wire: Wire) -> None:
    burst = pdus(8)
    for part in (burst[:3], burst[3:]):
        batch = wire.one.allocate(8)
        fill(batch.first(len(part)), part, wire.two.address)
        assert wire.one.send(batch.first(len(part))) == len(part)
    assert [pdu for _, pdu in collect(wire.two, 8)] == burst


@pytest.mark.parametrize("sizes", [[37], [1], [1, 2, 1, 1, 200, 3]], ids=["batches", "single", "mixed"])
def test_more_than_all_rings_hold_goes_through(wire: Wire, sizes: list[int]) -> None:
    """Several times around the largest ring, in batches that do not divide it."""
    total = 9000
    sent: list[bytes] = []
    received: list[bytes] = []
    for size in itertools.cycle(sizes):
        if len(received) >= total:
            break
        numbers = range(len(sent), min(len(sent) + size, total))
        part = [number.to_bytes(4, "big") * (16 + number % 5) for number in numbers]
        assert send(wire.one, part, wire.two.address) == len(part)
        sent += part
        got = collect(wire.two, len(part))
        assert len(got) == len(part), f"lost after {len(received)}: {wire.two.statistics()}"
        received += [pdu for _, pdu in got]
    assert received == sent
    assert wire.two.statistics().rx_frames == total


def test_the_largest_pdu_passes_in_a_full_burst(wire: Wire) -> None:
    large = [bytes([number]) * wire.one.mtu for number in range(BURST)]
    assert send(wire.one, large, wire.two.address) == BURST
    assert [pdu for _, pdu in collect(wire.two, BURST)] == large


def test_as_many_frames_as_its_capacity_wait_for_an_owner_who_is_busy(wire: Wire) -> None:
    """Full frames, beside a burst in the owner's hands; and so again while the owner has read the half of them."""
    link, mtu = wire.two, wire.one.mtu
    numbers = itertools.count()

    def load(count: int) -> list[bytes]:
        pdus = [next(numbers).to_bytes(4, "big") + bytes(mtu - 4) for _ in range(count)]
        assert send(wire.one, pdus, link.address) == count
        return pdus

    assert link.capacity >= 64
    burst = load(min(BURST, link.capacity))
    assert link.wait(SECOND)
    held = link.receive()
    assert 0 < len(held) <= len(burst)
    waiting = burst[len(held) :] + load(link.capacity - (len(burst) - len(held)))
    assert [held.pdu(index).tobytes() for index in range(len(held))] == burst[: len(held)]
    for _ in range(5):
        got = [pdu for _, pdu in collect(link, len(waiting) // 2)]
        assert got == waiting[: len(got)], f"lost: {link.statistics()}"
        waiting = waiting[len(got) :] + load(len(got))
    assert [pdu for _, pdu in collect(link, len(waiting))] == waiting, f"lost: {link.statistics()}"
    assert link.statistics().rx_drops == {}


def test_a_received_batch_has_room_for_the_mtu_behind_every_start(wire: Wire) -> None:
    send(wire.one, pdus(BURST), wire.two.address)
    assert wire.two.wait(SECOND)
    batch = wire.two.receive()
    assert len(batch)
    assert int(batch.starts.max()) + wire.two.mtu <= len(batch.memory)


def test_short_pdus_arrive_as_they_are_or_padded(wire: Wire) -> None:
    short = [b"napu123", b"1", b"x" * wire.two.smallest or b"y"]
    assert send(wire.one, short, wire.two.address) == 3
    received = [pdu for _, pdu in collect(wire.two, 3)]
    for original, pdu in zip(short, received, strict=True):
        assert pdu[: len(original)] == original
        assert len(pdu) in (len(original), max(len(original), wire.two.smallest))
        assert not any(pdu[len(original) :]), "padding has bytes of another frame"


def test_an_empty_receive_returns_no_frames(wire: Wire) -> None:
    assert len(wire.one.receive()) == 0
    send(wire.one, pdus(1), wire.two.address)
    assert len(collect(wire.two, 1)) == 1
    assert len(wire.two.receive()) == 0


def test_a_batch_stays_as_it_is_while_more_arrives(wire: Wire) -> None:
    first, second = pdus(2)
    send(wire.one, [first], wire.two.address)
    assert wire.two.wait(SECOND)
    held = wire.two.receive()
    send(wire.one, [second] * BURST, wire.two.address)
    assert wire.two.wait(SECOND)
    assert held.pdu(0).tobytes() == first


def test_wait_times_out_without_frames_and_ends_with_one(wire: Wire) -> None:
    begun = time.monotonic_ns()
    assert wire.two.wait(QUIET) is False
    assert time.monotonic_ns() - begun >= QUIET
    sender = threading.Timer(0.02, send, (wire.one, pdus(1), wire.two.address))
    sender.start()
    assert wire.two.wait(10 * SECOND) is True
    sender.join()
    assert len(wire.two.receive()) == 1
    assert wire.two.wait(0) is False


def test_the_descriptor_polls_readable_with_frames_only(wire: Wire) -> None:
    poll = select.poll()
    poll.register(wire.two.fileno(), select.POLLIN)
    collect(wire.two, 1, 0)  # notices of interfaces that came up before
    wire.two.receive()
    assert poll.poll(10) == []
    send(wire.one, pdus(1), wire.two.address)
    assert poll.poll(1000)
    assert len(collect(wire.two, 1)) == 1
    assert poll.poll(10) == []


def test_allocate_gives_buffers_of_the_mtu_and_clears_lengths(wire: Wire) -> None:
    batch = wire.one.allocate(1000)
    assert len(batch) == BURST
    assert not batch.lengths.any()
    assert batch.starts.dtype == batch.lengths.dtype == np.int64
    assert batch.peers.dtype == np.uint64
    order = np.sort(batch.starts)
    assert (np.diff(order) >= wire.one.mtu).all()
    assert order[-1] + wire.one.mtu <= len(batch.memory)
    assert len(wire.one.allocate(0)) == 0
    assert wire.one.send(wire.one.allocate(0)) == 0


def test_statistics_count_both_directions(wire: Wire) -> None:
    burst = pdus(10)
    send(wire.one, burst, wire.two.address)
    collect(wire.two, 10)
    sent, received = wire.one.statistics(), wire.two.statistics()
    assert (sent.tx_frames, sent.tx_bytes) == (10, sum(map(len, burst)))
    assert (received.rx_frames, received.rx_bytes) == (10, sum(map(len, burst)))
    assert sent.tx_drops == {}
    assert received.rx_drops == {}
    send(wire.one, burst, wire.two.address)
    assert sent.tx_frames == 10, "statistics that were handed out change"


def test_addresses_are_written_and_read(wire: Wire) -> None:
    link = wire.one
    assert link.parse_address(link.format_address(link.address)) == link.address
    assert link.parse_address(link.format_address(BROADCAST)) == BROADCAST
    with pytest.raises(ConfigError, match="write it as"):
        link.parse_address("::1::")


def test_a_closed_link_says_so(wire: Wire) -> None:
    before = open_descriptors()
    send(wire.one, pdus(3), wire.two.address)
    collect(wire.two, 3)
    link = wire.two
    link.close()
    link.close()
    for use in (link.receive, lambda: link.allocate(1), lambda: link.wait(0), link.fileno):
        with pytest.raises(ClosedError, match="closed"):
            use()
    assert link.statistics().rx_frames == 3
    assert open_descriptors() < before
    send(wire.one, pdus(3), link.address)
