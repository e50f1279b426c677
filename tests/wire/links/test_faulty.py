"""A link with faults, over a switch in memory and over Ethernet."""

import contextlib
import select
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_sdk.wire.errors import ClosedError, ConfigError
from host_sdk.wire.links.base import BURST
from host_sdk.wire.links.faults import Faults, parse_faults
from host_sdk.wire.links.faulty import FaultyLink
from host_sdk.wire.links.memory import MemoryLink, MemorySwitch
from host_sdk.wire.links.packet import PacketLink
from host_sdk.wire.links.xdp import XdpLink
from tests.rig.wires import QUIET, SECOND, bridged_wire, closing, collect, needs_root, send

MS = 1_000_000
BEGIN = 5 * SECOND


@dataclass
class Bench:
    """A plain port and one with faults, on a clock that moves when it is told to."""

    plain: MemoryLink
    faulty: FaultyLink
    now: int = BEGIN
    frames: list[tuple[int, bytes]] = field(default_factory=list)

    def into(self, pdus: list[bytes]) -> list[bytes]:
        """Send frames to the link with faults; return those that it gives now."""
        send(self.plain, pdus, self.faulty.address)
        return self.due()

    def due(self) -> list[bytes]:
        frames = []
        while self.faulty.wait(0):
            batch = self.faulty.receive()
            frames += [batch.pdu(index).tobytes() for index in range(len(batch))]
        self.frames += [(self.now, pdu) for pdu in frames]
        return frames

    def out(self, pdus: list[bytes]) -> list[bytes]:
        """Send frames from the link with faults; return those that arrive now."""
        assert send(self.faulty, pdus, self.plain.address) == len(pdus)
        return self.arrived()

    def arrived(self) -> list[bytes]:
        return [pdu for _, pdu in collect(self.plain, 100_000, 0)]

    def advance(self, by_ns: int) -> None:
        self.now += by_ns


@contextlib.contextmanager
def bench(
    faults_in: Faults | None = None, faults_out: Faults | None = None, seed: int = 1, queue: int = 4096
) -> Iterator[Bench]:
    switch = MemorySwitch()
    with closing(switch.attach(queue=4096)) as (plain,):
        assert isinstance(plain, MemoryLink)
        made: list[Bench] = []
        faulty = FaultyLink(
            switch.attach(queue=4096),
            faults_out or Faults(),
            faults_in or Faults(),
            seed,
            lambda: made[0].now if made else BEGIN,
            queue=queue,
        )
        made.append(Bench(plain, faulty))
        with closing(faulty):
            yield made[0]


def numbered(count: int, first: int = 0, size: int = 64) -> list[bytes]:
    return [
        number.to_bytes(4, "big") + bytes((number + place) % 256 for place in range(size - 4))
        for number in range(first, first + count)
    ]


def numbers(pdus: list[bytes]) -> list[int]:
    return [int.from_bytes(pdu[:4], "big") for pdu in pdus]


def test_without_faults_everything_passes_both_ways() -> None:
    with bench() as wire:
        pdus = numbered(1000)
        assert wire.into(pdus) == pdus
        assert wire.out(pdus) == pdus
        counted = wire.faulty.statistics()
        assert (counted.rx_frames, counted.tx_frames) == (1000, 1000)
        assert (counted.rx_bytes, counted.tx_bytes) == (64_000, 64_000)
        assert (counted.rx_drops, counted.tx_drops, counted.faults) == ({}, {}, {})
        assert wire.faulty.next_timer() is None


def test_it_is_the_link_that_it_wraps() -> None:
    with bench() as wire:
        link = wire.faulty
        assert (link.kind, link.mtu, link.smallest, link.capacity) == ("memory", 1500, 0, 4096 - BURST)
        assert link.parse_address(link.format_address(link.address)) == link.address


def test_loss_is_counted_and_as_frequent_as_asked_for() -> None:
    with bench(Faults(loss=0.1), Faults(loss=0.3)) as wire:
        got = wire.into(numbered(4000))
        assert 300 < 4000 - len(got) < 500
        assert numbers(got) == sorted(set(numbers(got)))
        sent = wire.out(numbered(4000))
        assert 1050 < 4000 - len(sent) < 1350
        counted = wire.faulty.statistics()
        assert counted.rx_drops == {"fault_lost": 4000 - len(got)}
        assert counted.tx_drops == {"fault_lost": 4000 - len(sent)}
        assert (counted.rx_frames, counted.tx_frames) == (len(got), len(sent))


def test_certain_loss_and_no_loss() -> None:
    with bench(Faults(loss=1.0)) as wire:
        assert wire.into(numbered(3000)) == []
        wire.faulty.faults_in = Faults(burst_enter=1.0, burst_leave=0.0, burst_loss=0.0)
        assert len(wire.into(numbered(3000))) == 3000


def test_losses_come_in_bursts() -> None:
    """Gilbert-Elliott: the bad state is entered and left with the chances given, and loses all."""
    enter, leave, total = 0.02, 0.2, 40_000
    with bench(Faults(burst_enter=enter, burst_leave=leave)) as wire:
        got: set[int] = set()
        for first in range(0, total, 100):
            got.update(numbers(wire.into(numbered(100, first, 4))))
    lost = np.array([number not in got for number in range(total)])
    begins = np.flatnonzero(lost[1:] & ~lost[:-1])
    # Of 40,000 frames some 720 bursts: their number and length are known to a few per cent.
    assert lost.mean() == pytest.approx(enter / (enter + leave), rel=0.15)
    assert lost.sum() / len(begins) == pytest.approx(1 / leave, rel=0.15)


def test_the_good_state_loses_as_well() -> None:
    with bench(Faults(loss=0.5, burst_enter=0.001, burst_leave=0.999, burst_loss=1.0)) as wire:
        assert 1800 < len(wire.into(numbered(4000))) < 2200


def test_the_nth_frames_are_lost_and_counting_begins_with_the_faults() -> None:
    with bench(Faults(nth=frozenset({1, 3, 300, 10**12}))) as wire:
        assert numbers(wire.into(numbered(2))) == [1]
        assert numbers(wire.into(numbered(300, 2))) == [n for n in range(3, 302) if n != 299]
        assert wire.faulty.statistics().rx_drops == {"fault_nth": 3}
        wire.faulty.faults_in = Faults(nth=frozenset({2}))
        assert numbers(wire.into(numbered(3))) == [0, 2]
        wire.faulty.faults_out = Faults(nth=frozenset({1}))
        assert numbers(wire.out(numbered(3))) == [1, 2]


def test_duplicates_follow_their_frame() -> None:
    with bench(Faults(duplicate=1.0), Faults(duplicate=1.0)) as wire:
        pdus = numbered(BURST + 10)
        twice = [pdu for pdu in pdus for _ in range(2)]
        assert wire.into(pdus) == twice
        assert wire.out(pdus) == twice
        wire.faulty.faults_in = Faults(duplicate=0.1)
        got = numbers(wire.into(numbered(1000)))
        assert got == sorted(got)
        counted = wire.faulty.statistics()
        assert counted.faults == {"rx_duplicated": len(pdus) + len(got) - 1000, "tx_duplicated": len(pdus)}
        assert 60 < len(got) - 1000 < 150


def test_no_batch_is_larger_than_a_burst() -> None:
    with bench(Faults(duplicate=1.0)) as wire:
        send(wire.plain, numbered(BURST), wire.faulty.address)
        assert [len(wire.faulty.receive()) for _ in range(3)] == [BURST, BURST, 0]


def test_a_flip_changes_one_bit() -> None:
    with bench(Faults(flip=1.0), Faults(flip=1.0)) as wire:
        pdus = numbered(2000)
        for got in (wire.into(pdus), wire.out(pdus)):
            assert len(got) == len(pdus)
            changed = [int.from_bytes(a, "big") ^ int.from_bytes(b, "big") for a, b in zip(pdus, got, strict=True)]
            assert {bits.bit_count() for bits in changed} == {1}
            assert len(set(changed)) > 400, "of 512 bits nearly all should have been hit"
        assert wire.faulty.statistics().faults == {"rx_flipped": 2000, "tx_flipped": 2000}
        assert wire.into([b"", b"x"])[0] == b""


def test_a_truncated_frame_is_a_part_of_it() -> None:
    with bench(Faults(truncate=1.0), Faults(truncate=0.5)) as wire:
        pdus = numbered(2000)
        got = wire.into(pdus)
        assert all(pdu.startswith(short) and len(short) < len(pdu) for pdu, short in zip(pdus, got, strict=True))
        assert {len(short) for short in got} == set(range(1, 64))
        got = wire.out(pdus)
        short = sum(len(pdu) < 64 for pdu in got)
        assert 900 < short < 1100
        assert wire.faulty.statistics().faults == {"rx_truncated": 2000, "tx_truncated": short}
        assert wire.into([b"", b"x"]) == [b"", b"x"]


def test_delay_holds_every_frame_for_its_time() -> None:
    with bench(Faults(delay_ns=MS), Faults(delay_ns=2 * MS)) as wire:
        pdus = numbered(10)
        assert wire.into(pdus[:5]) == []
        assert wire.faulty.next_timer() == wire.now + MS
        wire.advance(MS - 1)
        assert wire.into(pdus[5:]) == []
        wire.advance(1)
        assert wire.due() == pdus[:5]
        wire.advance(MS - 1)
        assert wire.due() == pdus[5:]
        assert wire.faulty.next_timer() is None
        assert wire.out(pdus) == []
        wire.advance(2 * MS - 1)
        wire.faulty.receive()
        assert wire.arrived() == []
        wire.advance(1)
        wire.faulty.receive()
        assert wire.arrived() == pdus
        assert wire.faulty.statistics().faults == {"rx_delayed": 10, "tx_delayed": 10}


def test_jitter_is_spread_over_its_range_and_lets_frames_overtake() -> None:
    with bench(Faults(delay_ns=MS, jitter_ns=MS)) as wire:
        assert wire.into(numbered(1000)) == []
        wire.advance(MS - 1)
        assert wire.due() == []
        wire.advance(MS // 2 + 1)
        early = numbers(wire.due())
        assert 400 < len(early) < 600
        assert early != sorted(early)
        wire.advance(MS // 2)
        assert sorted(early + numbers(wire.due())) == list(range(1000))


def test_a_frame_held_back_is_overtaken_by_so_many() -> None:
    with bench(Faults(reorder=0.05, reorder_frames=4)) as wire:
        got = numbers(wire.into(numbered(2000)))
        wire.advance(10 * MS)
        assert sorted(got + numbers(wire.due())) == list(range(2000))
        latest, late = -1, []
        for place, number in enumerate(got):
            if number < latest:
                late.append((number, got[place - 1]))
            latest = max(latest, number)
        moved = wire.faulty.statistics().faults["rx_reordered"]
        assert 60 < moved < 140
        assert len(late) >= moved - 2, "all but the last ones were overtaken"
        exact = [number for number, before in late if before == number + 4]
        assert len(exact) > len(late) / 2, "unless one of the four was held back, too"
        assert all(number + 4 <= before or before in dict(late) for number, before in late)


def test_a_frame_held_back_goes_after_its_time_if_nothing_overtakes_it() -> None:
    with bench(Faults(reorder=1.0, reorder_frames=2, reorder_ns=7 * MS)) as wire:
        assert wire.into(numbered(1)) == []
        assert wire.faulty.next_timer() == wire.now + 7 * MS
        wire.faulty.faults_in = Faults()
        assert numbers(wire.into(numbered(1, 1))) == [1]
        wire.advance(7 * MS - 1)
        assert wire.due() == []
        wire.advance(1)
        assert numbers(wire.due()) == [0]
        assert numbers(wire.into(numbered(5, 2))) == [2, 3, 4, 5, 6]
        assert wire.faulty.next_timer() is None


def test_rate_lets_frames_through_one_after_the_other() -> None:
    with bench(Faults(rate=1_000_000)) as wire:
        pdus = numbered(10, size=1000)  # 8 ms each
        assert wire.into(pdus) == []
        for count in range(1, 11):
            wire.advance(8 * MS - 1)
            assert wire.due() == []
            wire.advance(1)
            assert wire.due() == [pdus[count - 1]]
        wire.advance(SECOND)
        assert wire.into(pdus[:1]) == []
        assert wire.faulty.next_timer() == wire.now + 8 * MS, "an idle line saves nothing up"


def test_what_finds_no_room_is_dropped_and_counted() -> None:
    with bench(Faults(rate=1000), Faults(delay_ns=SECOND), queue=512) as wire:
        wire.into(numbered(600))
        assert wire.out(numbered(700)) == []
        counted = wire.faulty.statistics()
        assert counted.rx_drops == {"fault_queue_full": 88}
        assert counted.tx_drops == {"fault_queue_full": 188}
        wire.advance(600 * SECOND)
        assert numbers(wire.due()) == list(range(512))
        assert numbers(wire.arrived()) == list(range(512))
        wire.faulty.faults_in = Faults()
        assert len(wire.into(numbered(600))) == 600


def test_a_blackhole_takes_all_for_its_time() -> None:
    with bench(Faults(blackhole=(2 * MS, 5 * MS))) as wire:
        seen = []
        for tick in range(8):
            seen.append(len(wire.into(numbered(3, tick))))
            wire.advance(MS)
        assert seen == [3, 3, 0, 0, 0, 3, 3, 3]
        assert wire.faulty.statistics().rx_drops == {"fault_blackhole": 9}


def test_faults_can_change_while_frames_are_on_their_way() -> None:
    with bench(Faults(delay_ns=5 * MS), seed=3) as wire:
        assert wire.into(numbered(3)) == []
        wire.faulty.faults_in = Faults(loss=1.0)
        assert wire.faulty.faults_in == Faults(loss=1.0)
        assert wire.into(numbered(3, 3)) == []
        wire.faulty.faults_in = Faults()
        assert numbers(wire.into(numbered(3, 6))) == [6, 7, 8]
        wire.advance(5 * MS)
        assert numbers(wire.due()) == [0, 1, 2]


def test_a_batch_from_the_queue_stays_as_it_is_until_the_next_receive() -> None:
    with bench(Faults(delay_ns=1), Faults(delay_ns=MS)) as wire:
        pdus = numbered(BURST)
        wire.into(pdus)
        wire.advance(1)
        batch = wire.faulty.receive()
        wire.out(numbered(BURST, 5000))
        send(wire.plain, numbered(BURST, 9000), wire.faulty.address)
        assert [batch.pdu(index).tobytes() for index in range(len(batch))] == pdus
        assert (batch.peers == wire.plain.address).all()


def test_buffers_are_free_again_once_they_are_sent() -> None:
    with bench(None, Faults(delay_ns=MS)) as wire:
        for first in range(0, 3000, 100):
            assert wire.out(numbered(100, first)) == []
        wire.advance(MS)
        wire.faulty.wait(0)
        assert numbers(wire.arrived()) == list(range(3000))


def test_closing_sends_what_is_on_its_way_out() -> None:
    with bench(None, Faults(delay_ns=SECOND)) as wire:
        assert wire.out(numbered(1000)) == []
        wire.faulty.close()
        wire.faulty.close()
        assert numbers(wire.arrived()) == list(range(1000))
        for use in (
            wire.faulty.receive,
            wire.faulty.fileno,
            lambda: wire.faulty.wait(0),
            lambda: wire.faulty.allocate(1),
        ):
            with pytest.raises(ClosedError, match="closed"):
                use()


def test_arguments_are_checked() -> None:
    with closing(MemorySwitch().attach()) as (link,):
        with pytest.raises(ConfigError, match="seed of faults is 0 or more, not -1"):
            FaultyLink(link, Faults(), Faults(), -1, time.monotonic_ns)
        with pytest.raises(ConfigError, match=f"queue of {2 * BURST} frames or more, not 5"):
            FaultyLink(link, Faults(), Faults(), 1, time.monotonic_ns, queue=5)


chances = st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0])
times = st.sampled_from([0, 0, 1, 1000, MS])
any_faults = st.builds(
    Faults,
    loss=chances,
    burst_enter=st.sampled_from([0.0, 0.1, 0.5]),
    nth=st.frozensets(st.integers(1, 40)),
    duplicate=chances,
    reorder=chances,
    reorder_frames=st.integers(1, 5),
    reorder_ns=times,
    delay_ns=times,
    jitter_ns=times,
    flip=chances,
    truncate=chances,
    rate=st.sampled_from([0, 0, 10**6, 10**9]),
    blackhole=st.none() | st.sampled_from([(0, 1000), (2000, 2 * MS)]),
)
scripts = st.lists(st.tuples(st.integers(0, 20), times), max_size=12)  # frames, and ns after them


def play(faults: Faults, seed: int, script: list[tuple[int, int]], one_by_one: bool) -> Bench:
    """Send frames in as a script says and then wait until none is left."""
    with bench(faults, seed=seed) as wire:
        first = 0
        for count, pause in script:
            for part in [1] * count if one_by_one else [count]:
                wire.into(numbered(part, first))
                first += part
            wire.advance(pause)
            wire.due()
        while (timer := wire.faulty.next_timer()) is not None:
            wire.now = max(timer, wire.now)
            wire.due()
        return wire


@settings(max_examples=150, deadline=None)
@given(any_faults, st.integers(0, 2**70), scripts)
def test_the_same_seed_frames_and_times_give_the_same_faults(
    faults: Faults, seed: int, script: list[tuple[int, int]]
) -> None:
    once, again, singly = (play(faults, seed, script, one_by_one) for one_by_one in (False, False, True))
    assert once.frames == again.frames == singly.frames
    counted = once.faulty.statistics()
    assert counted == again.faulty.statistics()
    assert (counted.rx_drops, counted.faults) == (
        singly.faulty.statistics().rx_drops,
        singly.faulty.statistics().faults,
    )
    total, lost = sum(count for count, _ in script), sum(counted.rx_drops.values())
    assert len(once.frames) == counted.rx_frames == total - lost + counted.faults.get("rx_duplicated", 0)


def test_other_seeds_and_the_other_direction_have_other_faults() -> None:
    half = Faults(loss=0.5)
    outcomes = []
    for seed in range(5):
        with bench(half, half, seed) as wire:
            outcomes += [tuple(numbers(wire.into(numbered(100)))), tuple(numbers(wire.out(numbered(100))))]
    assert len(set(outcomes)) == 10


class TestOnTheWallClock:
    """What waits for time to pass."""

    @pytest.fixture
    def ends(self) -> Iterator[tuple[MemoryLink, FaultyLink]]:
        switch = MemorySwitch()
        plain = switch.attach()
        late = Faults(delay_ns=20 * MS)
        with closing(plain, FaultyLink(switch.attach(), late, late, 1, time.monotonic_ns)) as (_, faulty):
            assert isinstance(faulty, FaultyLink)
            yield plain, faulty

    def test_wait_ends_when_a_held_frame_is_due(self, ends: tuple[MemoryLink, FaultyLink]) -> None:
        plain, faulty = ends
        begun = time.monotonic_ns()
        send(plain, numbered(1), faulty.address)
        assert faulty.wait(SECOND)
        assert len(faulty.receive()) == 0
        assert faulty.wait(None)
        assert time.monotonic_ns() - begun >= 20 * MS
        assert len(faulty.receive()) == 1
        assert not faulty.wait(MS)

    def test_wait_ends_in_time_while_frames_are_held(self, ends: tuple[MemoryLink, FaultyLink]) -> None:
        plain, faulty = ends
        faulty.faults_in = Faults(delay_ns=3600 * SECOND)
        send(plain, numbered(1), faulty.address)
        faulty.receive()
        assert not faulty.wait(MS)
        assert not faulty.wait(0)

    def test_wait_sends_what_is_due_on_the_way_out(self, ends: tuple[MemoryLink, FaultyLink]) -> None:
        plain, faulty = ends
        send(faulty, numbered(1), plain.address)
        assert not plain.wait(0)
        faulty.wait(200 * MS)
        assert numbers([pdu for _, pdu in collect(plain, 1, 0)]) == [0]

    def test_a_wait_under_way_ends_with_a_frame(self, ends: tuple[MemoryLink, FaultyLink]) -> None:
        plain, faulty = ends
        send(faulty, numbered(1), plain.address)
        timer = threading.Timer(0.05, send, (plain, numbered(1), faulty.address))
        timer.start()
        assert faulty.wait(10 * SECOND)
        timer.join()
        assert len(collect(plain, 1, 0)) == 1

    def test_the_descriptor_polls_readable_when_a_held_frame_is_due(self, ends: tuple[MemoryLink, FaultyLink]) -> None:
        plain, faulty = ends
        send(plain, numbered(1), faulty.address)  # held before anybody asks for the descriptor
        assert len(faulty.receive()) == 0
        poll = select.poll()
        poll.register(faulty.fileno(), select.POLLIN)
        for _ in range(3):
            assert poll.poll(0) == []
            assert poll.poll(5000)
            assert len(faulty.receive()) == 1
            assert poll.poll(0) == []
            send(plain, numbered(1), faulty.address)
            assert poll.poll(0)
            assert len(faulty.receive()) == 0
        send(faulty, numbered(1), plain.address)
        faulty.faults_in = Faults()
        while not plain.wait(0):
            assert poll.poll(5000)
            faulty.receive()


TEXT = "loss=5%,burst-enter=0.5%,duplicate=2%,reorder=5%,delay=100us,jitter=100us,flip=1%,truncate=1%,rate=500Mbit"


@needs_root
@pytest.mark.parametrize("kind", [XdpLink, PacketLink], ids=["xdp", "packet"])
def test_over_ethernet_every_frame_is_accounted_for(kind: type[XdpLink] | type[PacketLink]) -> None:
    faults, total, echoed, returned = parse_faults(TEXT), 20_000, 0, 0
    with bridged_wire(kind, kind, kind) as wire:
        plain, faulty = wire.one, FaultyLink(wire.two, faults, faults, 7, time.monotonic_ns)
        with closing(faulty):
            for first in range(0, total + 100, 100):
                pdus = numbered(100, first) if first < total else []
                send(plain, pdus, faulty.address)
                while faulty.wait(QUIET // 30 if pdus else QUIET):
                    batch = faulty.receive()
                    echoed += len(batch)
                    send(faulty, [batch.pdu(index).tobytes() for index in range(len(batch))], plain.address)
                    returned += len(collect(plain, BURST, 0))
            assert faulty.next_timer() is None
            returned += len(collect(plain, total, QUIET))
        counted = faulty.statistics()
    lost_in, lost_out = sum(counted.rx_drops.values()), sum(counted.tx_drops.values())
    assert echoed == counted.rx_frames == total - lost_in + counted.faults["rx_duplicated"]
    assert returned == counted.tx_frames == echoed - lost_out + counted.faults["tx_duplicated"]
    assert set(counted.rx_drops) == set(counted.tx_drops) == {"fault_lost"}
    kinds = ("duplicated", "reordered", "delayed", "flipped", "truncated")
    assert set(counted.faults) == {f"{way}_{kind}" for way in ("rx", "tx") for kind in kinds}
