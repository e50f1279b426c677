"""Loss of a given fragment, and a link with faults while there are none."""

import pytest

from host_sdk.wire.header import decode_header
from host_sdk.wire.links.faults import Faults, parse_faults
from tests.rig.frames import INFER, Pdu, message
from tests.wire.links.test_faulty import bench


def long(number: int) -> list[bytes]:
    """Return a message of five fragments."""
    return message(Pdu(INFER, bytes(4500), number), 1000)


def arrived(pdus: list[bytes]) -> list[tuple[int, int]]:
    headers = [decode_header(pdu) for pdu in pdus]
    return [(header.request, header.fragment) for header in headers]


def all_but(*lost: tuple[int, int]) -> list[tuple[int, int]]:
    return [(number, at) for number in (1, 2, 3) for at in range(5) if (number, at) not in lost]


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("fragment=3", [(1, 3)]),
        ("fragment=3,fragment-times=2", [(1, 3), (2, 3)]),
        ("fragment=3,fragment-times=0", [(1, 3), (2, 3), (3, 3)]),
        ("fragment=0+4,fragment-times=3", [(1, 0), (1, 4), (2, 0)]),
        ("fragment=9", []),
        ("fragment=3,nth=4", [(1, 3), (2, 3)]),  # the frame that is lost as the fourth does not count
    ],
)
def test_given_fragments_are_lost_however_batches_are_cut(text: str, lost: list[tuple[int, int]]) -> None:
    pdus = [pdu for number in (1, 2, 3) for pdu in long(number)]
    for size in (1, 4, len(pdus)):
        with bench(faults_in=parse_faults(text)) as wire:
            got = [frame for at in range(0, len(pdus), size) for frame in wire.into(pdus[at : at + size])]
            assert arrived(got) == all_but(*lost)
            drops = wire.faulty.statistics().rx_drops
            assert drops.get("fault_fragment", 0) == len(lost) - drops.get("fault_nth", 0)
    with bench(faults_out=parse_faults(text)) as wire:
        assert arrived(wire.out(pdus)) == all_but(*lost)


def test_what_is_no_frame_has_no_fragment() -> None:
    with bench(faults_in=Faults(fragment=frozenset({0}), fragment_times=0)) as wire:
        assert wire.into([b"", b"\0" * 31]) == [b"", b"\0" * 31]
        assert wire.into([b"x", bytes(32)]) == [b"x"]


def test_frames_counted_anew_when_faults_are_set_anew() -> None:
    with bench(faults_in=parse_faults("fragment=1")) as wire:
        assert len(wire.into(long(1))) == 4
        assert len(wire.into(long(1))) == 5
        wire.faulty.faults_in = parse_faults("fragment=1")
        assert len(wire.into(long(1))) == 4


def test_without_faults_frames_are_written_where_the_wrapped_link_sends_them_from() -> None:
    with bench() as wire:
        assert wire.faulty.allocate(3).memory is wire.faulty._link.allocate(3).memory
        assert wire.out([b"plain"]) == [b"plain"]
        wire.faulty.faults_out = parse_faults("delay=1ms")
        assert wire.out([b"late"]) == []
        wire.faulty.faults_out = Faults()
        assert wire.out([b"overtakes it"]) == [b"overtakes it"]
        wire.advance(1_000_000)
        wire.due()
        assert wire.arrived() == [b"late"]
        assert wire.out([b"plain again"]) == [b"plain again"]
