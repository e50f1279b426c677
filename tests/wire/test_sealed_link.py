"""Sealed frames over every link, against an independent AES-GCM, and against everybody who has not the key."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from host_sdk.wire.exchange.opening import path_sizes
from host_sdk.wire.links.base import SEALED_PEER, FrameBatch, Link
from host_sdk.wire.links.memory import MemoryLink, MemorySwitch
from host_sdk.wire.schema import SEAL_FRAMES, SEAL_OVERHEAD, DropReason
from host_sdk.wire.sealed.keys import MATERIAL_SIZE, KeyRing, SealKey
from host_sdk.wire.sealed.link import HINT_NS, SealedLink, Tally
from tests.rig import aes_gcm_reference
from tests.rig.frames import INFER, REPLY, Pdu, decode
from tests.rig.wires import WIRES, Wire, collect, send
from tests.wire.golden import SEALED_INFER

NUMBER = 0x1122334455667788
PEER = SEALED_PEER | NUMBER
MATERIAL = bytes(range(MATERIAL_SIZE))
FOREVER = 1 << 62
UNKNOWN_KEY, SEALED = 83, 0x10
PLAIN_INFER = bytes.fromhex(
    "01 10 0003  9f3a0007  0123456789abcdef  0000000c  0101 07 00  0000 05bc  0000c350 0001027f80feff10 85bad4ce"
)


class Account(Tally):
    """A responder's account."""

    def __init__(self) -> None:
        super().__init__()
        self.hints = 0

    def answer(self, status: int) -> None:
        assert status == UNKNOWN_KEY
        self.hints += 1


@dataclass
class Time:
    now: int = 1

    def __call__(self) -> int:
        return self.now


class Pair:
    """A requester and a responder with one key, and an attacker who sees their links."""

    def __init__(self, one: Link, two: Link, *, expires: int = FOREVER) -> None:
        self.time, self.asked, self.answered = Time(), Tally(), Account()
        self.one, self.two = one, two
        self.requester_key = SealKey(NUMBER, two.address, MATERIAL, responder=False, expires_ns=expires)
        self.responder_key = SealKey(NUMBER, one.address, MATERIAL, responder=True, expires_ns=expires)
        rings = KeyRing(), KeyRing()
        rings[0].add(self.requester_key)
        rings[1].add(self.responder_key)
        self.requester = SealedLink(one, rings[0], self.asked, self.time, responder=False)
        self.responder = SealedLink(two, rings[1], self.answered, self.time, responder=True)

    def sealed(self, *pdus: bytes) -> list[bytes]:
        """Return frames as they go over the wire, which nobody has received."""
        send(self.requester, list(pdus), PEER)
        return [data for _, data in collect(self.two, len(pdus))]

    def takes(self, *frames: bytes, attacker: Link | None = None) -> list[tuple[int, bytes]]:
        """Return what the responder's owner gets of frames on the wire."""
        send(attacker or self.one, list(frames), self.two.address)
        batch = self.responder.receive()
        return [(int(batch.peers[index]), batch.pdu(index).tobytes()) for index in range(len(batch))]

    def takes_alone(self, *frames: bytes) -> list[tuple[int, bytes]]:
        """Return what the responder's owner gets of frames that arrive one by one."""
        return [taken for frame in frames for taken in self.takes(frame)]


@pytest.fixture
def switch() -> MemorySwitch:
    return MemorySwitch()


@pytest.fixture
def pair(switch: MemorySwitch) -> Pair:
    return Pair(switch.attach(), switch.attach())


def infer(size: int, request: int = 1, flags: int = 0) -> bytes:
    body = bytes(np.random.default_rng([size, request]).integers(0, 256, size, np.uint8))
    return Pdu(INFER, body, request, flags, session=7, pipeline=257, fragment_size=max(1, size)).encode()


# ---- what a sealed frame is ------------------------------------------------------------------------------------------


def test_the_golden_frame_both_ways(pair: Pair) -> None:
    assert pair.sealed(PLAIN_INFER) == [SEALED_INFER]
    assert pair.takes(SEALED_INFER) == [(PEER, PLAIN_INFER)]
    assert pair.answered.drops == {}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=3), st.integers(1, SEAL_FRAMES - 2), st.booleans())
def test_every_frame_is_as_the_reference_makes_it(sizes: list[int], sequence: int, responder: bool) -> None:
    switch = MemorySwitch()
    pair = Pair(switch.attach(), switch.attach())
    sender, key = pair.requester, pair.requester_key
    if responder:
        sender, key = pair.responder, pair.responder_key
    key.sequence = sequence - 1
    plain = [infer(size, request) for request, size in enumerate(sizes)]
    send(sender, plain, PEER)
    frames = [frame for _, frame in collect(pair.one if responder else pair.two, len(plain))]
    half = MATERIAL[28:] if responder else MATERIAL[:28]
    for number, (pdu, frame) in enumerate(zip(plain, frames, strict=True), sequence):
        nonce = (int.from_bytes(half[16:], "big") ^ number).to_bytes(12, "big")
        seal = NUMBER.to_bytes(8, "big") + number.to_bytes(8, "big")
        clear = pdu[:3] + bytes([pdu[3] | SEALED]) + pdu[4:32] + seal
        assert frame == clear + aes_gcm_reference.seal(half[:16], nonce, pdu[32:], clear)


@pytest.mark.parametrize("make", WIRES)
def test_sealed_and_plain_frames_over_every_link(make: Callable[[], AbstractContextManager[Wire]]) -> None:
    with make() as wire:
        pair = Pair(wire.one, wire.two)
        longest = pair.requester.mtu - 32
        assert pair.requester.mtu == wire.one.mtu - SEAL_OVERHEAD
        sizes = np.random.default_rng(1).integers(0, longest, 300).tolist()
        pdus = [infer(int(size), number) for number, size in enumerate([longest, *sizes])]
        for begin in range(0, len(pdus), 50):  # several to a batch, both kinds in each
            part = pdus[begin : begin + 50]
            batch = pair.requester.allocate(len(part))
            assert len(batch) == len(part)
            for index, pdu in enumerate(part):
                start = int(batch.starts[index])
                batch.memory[start : start + len(pdu)] = np.frombuffer(pdu, np.uint8)
                batch.lengths[index], batch.peers[index] = len(pdu), PEER if index % 3 else wire.two.address
            assert pair.requester.send(batch) == len(part)
            found = collect(pair.responder, len(part))
            # Ethernet pads what is plain and short.
            assert [data[: len(pdu)] for (_, data), pdu in zip(found, part, strict=True)] == part
            assert [peer for peer, _ in found] == [
                PEER if index % 3 else wire.one.address for index in range(len(part))
            ]
        send(pair.responder, pdus[:100], PEER)
        assert collect(pair.requester, 100) == [(PEER, pdu) for pdu in pdus[:100]]
        assert (pair.asked.drops, pair.answered.drops) == ({}, {})


def test_sessions_look_for_a_path_that_carries_their_seals() -> None:
    sizes = path_sizes(1500 - SEAL_OVERHEAD, None, SEAL_OVERHEAD)
    assert [size + SEAL_OVERHEAD for size in sizes] == [1500, 1472, 1280, 576]
    assert path_sizes(1500 - SEAL_OVERHEAD, 1280 - SEAL_OVERHEAD, SEAL_OVERHEAD) == (
        1280 - SEAL_OVERHEAD,
        576 - SEAL_OVERHEAD,
    )


# ---- attacks ---------------------------------------------------------------------------------------------------------


def test_a_replayed_frame(pair: Pair) -> None:
    frames = pair.sealed(infer(20), infer(30))
    assert len(pair.takes(*frames, frames[0])) == 2  # within the batch
    assert pair.takes(*frames) == []  # and later
    assert pair.answered.drops == {DropReason.REPLAYED: 3}
    assert pair.takes_alone(*frames) == []
    assert pair.answered.drops == {DropReason.REPLAYED: 5}


def test_frames_out_of_order_are_taken_once_each(pair: Pair) -> None:
    frames = pair.sealed(*(infer(9, number) for number in range(200)))
    order = np.random.default_rng(3).permutation(200).tolist()
    assert sum(len(pair.takes(*(frames[at] for at in order[begin : begin + 40]))) for begin in range(0, 200, 40)) == 200
    assert pair.answered.drops == {}


def test_a_frame_that_is_too_old_to_tell(pair: Pair) -> None:
    (late,) = pair.sealed(infer(20))
    pair.requester_key.sequence = 1 << 20
    assert len(pair.takes(*pair.sealed(infer(20)))) == 1
    assert pair.takes(late) == []
    assert pair.answered.drops == {DropReason.REPLAYED: 1}


def test_every_bit_of_a_frame_counts(pair: Pair) -> None:
    (frame,) = pair.sealed(infer(5))
    number = int.from_bytes(frame, "big")
    for bit in range(8 * len(frame)):
        changed = (number ^ (1 << bit)).to_bytes(len(frame), "big")
        found = pair.takes(changed) if bit % 2 else pair.takes(changed, changed)[:1]
        byte, flag = divmod(8 * len(frame) - 1 - bit, 8)
        if (byte, flag) == (3, 3):  # the flag itself: a plain frame from an address, and too long to be one
            assert [peer for peer, _ in found] == [pair.one.address]
        else:
            assert found == [], bit
    drops = dict(pair.answered.drops)
    assert drops.pop(DropReason.UNKNOWN_KEY) == 32 + 2 * 32  # the key's number; every other one came twice
    assert drops.pop(DropReason.BAD_SEAL) == 3 * (4 * len(frame) - 32) - 2  # but for the flag
    assert drops == {}
    assert len(pair.takes(frame)) == 1  # none of which has cost the frame its place


@pytest.mark.parametrize("size", [0, 31, 32, 47, 63])
def test_a_torso(pair: Pair, size: int) -> None:
    (frame,) = pair.sealed(infer(20))
    found = pair.takes(frame[:size])
    if size < 32:
        assert len(found) == 1  # plain, as far as it goes: the owner drops it
    else:
        assert (found, pair.answered.drops) == ([], {DropReason.TRUNCATED: 1})


def test_a_frame_that_is_longer_or_shorter_than_it_was(pair: Pair) -> None:
    (frame,) = pair.sealed(infer(20))
    changed = (frame + b"\0", frame[:-1], frame[:64])
    assert pair.takes(*changed) == pair.takes_alone(*changed) == []
    assert pair.answered.drops == {DropReason.BAD_SEAL: 6}


def test_a_reflected_frame(pair: Pair) -> None:
    (frame,) = pair.sealed(infer(20))
    send(pair.two, [frame], pair.one.address)  # back to who made it
    assert not len(pair.requester.receive())
    assert pair.asked.drops == {DropReason.BAD_SEAL: 1}
    send(pair.responder, [infer(20)], PEER)
    ((_, answer),) = collect(pair.one, 1)
    assert pair.takes(answer) == []
    assert pair.answered.drops == {DropReason.BAD_SEAL: 1}


def test_a_key_of_another_peer(pair: Pair, switch: MemorySwitch) -> None:
    mallory = switch.attach()
    (frame,) = pair.sealed(infer(20))
    assert pair.takes(frame, attacker=mallory) == []
    assert pair.answered.drops == {DropReason.UNKNOWN_KEY: 1}
    assert len(pair.takes(frame)) == 1


def test_a_forged_key_number_and_an_expired_key(switch: MemorySwitch) -> None:
    pair = Pair(switch.attach(), switch.attach(), expires=1000)
    first, second = pair.sealed(infer(20), infer(20))
    forged = first[:32] + (NUMBER + 1).to_bytes(8, "big") + first[40:]
    top = first[:32] + (NUMBER | 1 << 63).to_bytes(8, "big") + first[40:]
    assert pair.takes(forged, top) == []
    pair.time.now = 999
    assert len(pair.takes(first)) == 1
    pair.time.now = 1000
    assert pair.takes(second) == []
    assert pair.answered.drops == {DropReason.UNKNOWN_KEY: 3}


@pytest.mark.parametrize("sequence", [0, SEAL_FRAMES + 1, (1 << 64) - 1])
def test_a_sequence_that_no_sender_may_use(pair: Pair, sequence: int) -> None:
    plain = infer(20)
    clear = plain[:3] + bytes([SEALED]) + plain[4:32] + NUMBER.to_bytes(8, "big") + sequence.to_bytes(8, "big")
    nonce = (int.from_bytes(MATERIAL[16:28], "big") ^ sequence).to_bytes(12, "big")
    frame = clear + aes_gcm_reference.seal(MATERIAL[:16], nonce, plain[32:], clear)  # made with the very key
    assert pair.takes(frame) == pair.takes(frame, frame) == []
    assert pair.answered.drops == {DropReason.BAD_SEAL: 3}


def test_a_sender_stops_at_the_end_of_its_key(pair: Pair) -> None:
    pair.requester_key.sequence = SEAL_FRAMES - 2
    assert send(pair.requester, [infer(9, number) for number in range(5)], PEER) == 2
    assert pair.requester_key.spent == SEAL_FRAMES
    assert [decode(data).request for _, data in collect(pair.responder, 2)] == [0, 1]
    assert pair.requester.statistics().tx_drops == {"no_key": 3}


def test_nothing_goes_in_the_clear_to_a_key_that_is_gone(pair: Pair) -> None:
    pair.requester.keys.remove(NUMBER)
    assert send(pair.requester, [infer(9)], PEER) == 0
    assert send(pair.requester, [infer(9)], SEALED_PEER | 5) == 0
    assert not len(pair.two.receive())
    assert pair.requester.statistics().tx_drops == {"no_key": 2}


headers = st.binary(min_size=29, max_size=29).map(lambda rest: b"\1\x10\0" + rest)
junk = st.binary(max_size=200) | st.builds(
    lambda head, key, rest: head + key + rest, headers, st.just(NUMBER.to_bytes(8, "big")), st.binary(max_size=100)
)


@settings(max_examples=50, deadline=None)
@given(st.lists(junk, min_size=1, max_size=5), st.booleans())
def test_whatever_arrives_is_handed_over_or_counted_once(frames: list[bytes], requester: bool) -> None:
    switch = MemorySwitch()
    pair = Pair(switch.attach(), switch.attach())
    source, sink, tally = pair.one, pair.responder, pair.answered
    if requester:
        source, sink, tally = pair.two, pair.requester, pair.asked
    send(source, frames, (pair.one if requester else pair.two).address)
    batch = sink.receive()
    assert all(int(peer) < SEALED_PEER for peer in batch.peers)  # nothing of it was sealed by anybody
    assert len(batch) + sum(tally.drops.values()) == len(frames)
    assert [batch.pdu(at).tobytes() for at in range(len(batch))] == [
        frame for frame in frames if len(frame) < 32 or not frame[3] & SEALED
    ]


# ---- hints -----------------------------------------------------------------------------------------------------------


def hints(link: MemoryLink | Link) -> list[Pdu]:
    batch = link.receive()
    return [decode(batch.pdu(index).tobytes()) for index in range(len(batch))]


def test_a_hint_is_given_to_each_peer_at_a_bounded_rate(pair: Pair, switch: MemorySwitch) -> None:
    frames = pair.sealed(*(infer(20, number) for number in range(6)))
    pair.responder.keys.remove(NUMBER)
    other = switch.attach()
    pair.takes(*frames[:3])
    pair.takes(frames[3], attacker=other)
    (hint,) = hints(pair.one)
    assert (hint.opcode, hint.status, hint.request, hint.session) == (INFER | REPLY, UNKNOWN_KEY, 0, 7)
    assert len(hints(other)) == 1
    pair.time.now += HINT_NS - 1
    pair.takes(frames[4])
    assert hints(pair.one) == []
    pair.time.now += 1
    pair.takes(frames[5])
    assert len(hints(pair.one)) == 1
    assert (pair.answered.hints, pair.answered.drops) == (3, {DropReason.UNKNOWN_KEY: 6})


def test_all_hints_together_are_bounded(pair: Pair, switch: MemorySwitch) -> None:
    (frame,) = pair.sealed(infer(20))
    forged = frame[:32] + bytes(7) + b"\5" + frame[40:]
    for _ in range(300):
        pair.takes(forged, attacker=switch.attach())
    assert pair.answered.hints == 200


def test_replies_and_notices_get_no_hint(pair: Pair) -> None:
    (frame,) = pair.sealed(infer(20))
    pair.responder.keys.remove(NUMBER)
    assert pair.takes(frame[:1] + b"\x90" + frame[2:], frame[:1] + b"\x20" + frame[2:]) == []
    assert pair.answered.hints == 0


def test_a_hint_is_noted_for_who_has_a_key_there(pair: Pair, switch: MemorySwitch) -> None:
    hint = Pdu(INFER | REPLY, b"", 1, tail=UNKNOWN_KEY << 16).encode()
    stranger = switch.attach()
    send(stranger, [hint], pair.one.address)
    pair.requester.receive()
    assert pair.requester.hinted == set()
    send(pair.two, [hint], pair.one.address)
    batch: FrameBatch = pair.requester.receive()
    assert pair.requester.hinted == {pair.two.address}
    assert [int(peer) for peer in batch.peers] == [pair.two.address]  # from an address, so nobody's answer
    assert pair.requester.keys.get(NUMBER) is not None


def test_credits_are_cut_to_a_share_where_a_reply_is_sealed(pair: Pair) -> None:
    key = SealKey(NUMBER, pair.one.address, MATERIAL, responder=True, expires_ns=FOREVER, share=25)
    pair.responder.keys.add(key)
    replies = [Pdu(INFER | REPLY, b"", 1, credits=credit).encode() for credit in (64, 3, 0)]
    send(pair.responder, replies, PEER)
    assert [decode(data).credits for _, data in collect(pair.requester, 3)] == [16, 1, 0]
    for reply in replies:
        send(pair.responder, [reply], PEER)
        collect_one = collect(pair.requester, 1)
        assert decode(collect_one[0][1]).credits == max(decode(reply).credits // 4, min(1, decode(reply).credits))
