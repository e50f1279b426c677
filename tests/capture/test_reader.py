"""Captures read back with dpkt, of frames that were written by hand or by other tools."""

import struct
from pathlib import Path

import pytest

from host_sdk.capture.reader import read_capture
from host_sdk.capture.tapped import TappedLink, ip_udp_headers
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.links.udp import UdpLink
from host_sdk.wire.schema import UDP_PORT

MACS = bytes.fromhex("026e61707501026e61707500")
PDU = bytes(range(60))


def pcap(path: Path, frames: list[bytes], *, nanoseconds: bool = True, link_type: int = 1) -> Path:
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    content = struct.pack("<IHHiIII", magic, 2, 4, 0, 0, 65535, link_type)
    for index, frame in enumerate(frames):
        content += struct.pack(
            "<IIII", 1_700_000_000 + index, 123_456_789 if nanoseconds else 123_456, len(frame), len(frame)
        )
        content += frame
    path.write_bytes(content)
    return path


def test_ethernet_frames_of_our_type_are_found_and_others_passed_over(tmp_path: Path) -> None:
    ours, arp = MACS + b"\x88\xb5" + PDU, MACS + b"\x08\x06" + bytes(28)
    (found,) = read_capture(pcap(tmp_path / "a.pcap", [arp, ours]))
    assert (found.source, found.destination) == ("02:6e:61:70:75:00", "02:6e:61:70:75:01")
    assert (found.pdu, found.frame_bytes) == (PDU, 74)
    assert found.time_ns == 1_700_000_001_123_456_789


@pytest.mark.parametrize("tags", ["8100 0005", "88a8 0002 8100 0005"], ids=["802.1Q", "QinQ"])
def test_vlan_tags_are_passed_over(tmp_path: Path, tags: str) -> None:
    (found,) = read_capture(pcap(tmp_path / "a.pcap", [MACS + bytes.fromhex(tags) + b"\x88\xb5" + PDU]))
    assert (found.source, found.pdu) == ("02:6e:61:70:75:00", PDU)


def test_microsecond_files_are_read(tmp_path: Path) -> None:
    (found,) = read_capture(pcap(tmp_path / "a.pcap", [MACS + b"\x88\xb5" + PDU], nanoseconds=False))
    assert found.time_ns == 1_700_000_000_123_456_000


@pytest.mark.parametrize("framing", ["ethernet", "ip"])
def test_udp_of_our_port_is_found(tmp_path: Path, framing: str) -> None:
    ports = struct.pack(">HHHH", 5555, UDP_PORT, 8 + len(PDU), 0)
    total = 20 + 8 + len(PDU)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, total, 0, 0, 64, 17, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
    other = ip + struct.pack(">HHHH", 5555, 53, 8 + len(PDU), 0) + PDU
    packets = [ip + ports + PDU, other]
    if framing == "ethernet":
        path = pcap(tmp_path / "a.pcap", [MACS + b"\x08\x00" + packet for packet in packets])
    else:
        path = pcap(tmp_path / "a.pcap", packets, link_type=228)
    (found,) = read_capture(path)
    assert (found.source, found.destination, found.pdu) == ("10.0.0.1:5555", f"10.0.0.2:{UDP_PORT}", PDU)


@pytest.mark.parametrize("content", [b"", b"junk", b"\xa1\xb2\x3c\x4d" + bytes(3), bytes(64)])
def test_what_is_no_capture_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "junk").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as a capture"):
        list(read_capture(tmp_path / "junk"))


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.pcap"):
        list(read_capture(tmp_path / "nothing.pcap"))


def test_the_ip_header_has_a_right_checksum() -> None:
    header = ip_udp_headers(0x0A000001_1234, 0x0A000002_88B5, 10)
    words = struct.unpack(">10H", header[:20])
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF  # RFC 1071: the sum over a header with its checksum is all ones
    assert header[20:] == struct.pack(">HHHH", 0x1234, 0x88B5, 18, 0)


def test_a_tapped_link_writes_what_it_sends_and_receives(tmp_path: Path) -> None:
    server = UdpLink("127.0.0.1", 0)
    tapped = TappedLink(UdpLink("127.0.0.1", 0, peers=[server.format_address(server.address)]), tmp_path / "t.pcap")
    try:
        out = tapped.allocate(2)
        for index, peer in enumerate((BROADCAST, server.address)):
            start = int(out.starts[index])
            out.memory[start : start + 60] = list(PDU)
            out.lengths[index], out.peers[index] = 60, peer
        assert tapped.send(out) == 2
        assert server.wait(2_000_000_000)
        server.receive()
        back = server.allocate(1)
        start = int(back.starts[0])
        back.memory[start : start + 60] = list(reversed(PDU))
        back.lengths[0], back.peers[0] = 60, tapped.address
        server.send(back)
        assert tapped.wait(2_000_000_000)
        assert bytes(tapped.receive().pdu(0)) == PDU[::-1]
    finally:
        tapped.close()
        server.close()
    raw = (tmp_path / "t.pcap").read_bytes()
    assert raw.count(PDU) == 2
    assert raw.count(PDU[::-1]) == 1
    # Only the broadcast names the well-known port here, and the reader goes by it.
    (found,) = read_capture(tmp_path / "t.pcap")
    assert (found.destination, found.pdu) == (f"255.255.255.255:{UDP_PORT}", PDU)


def test_another_port_can_be_asked_for(tmp_path: Path) -> None:
    ends = (0x0A000001_1234, 0x0A000002_2345)
    frame = MACS + b"\x08\x00" + ip_udp_headers(*ends, len(PDU)) + PDU
    path = pcap(tmp_path / "a.pcap", [frame])
    assert [found.pdu for found in read_capture(path, port=0x2345)] == [PDU]
    assert list(read_capture(path)) == []
