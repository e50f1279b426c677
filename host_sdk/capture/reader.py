"""The PDUs in a capture file, read with dpkt."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dpkt

from host_sdk.wire.errors import ConfigError
from host_sdk.wire.schema import ETHERTYPE, UDP_PORT

_ETHERNET_SIZE, _TAG_SIZE = 14, 4  # bytes of Ethernet's header, and of each VLAN tag


@dataclass(frozen=True, slots=True)
class CapturedPdu:
    """One PDU in a capture.

    Attributes:
        time_ns: When it was captured, ns since 1970.
        source: MAC address, or IPv4 address and UDP port.
        destination: The same.
        frame_bytes: Bytes of the whole frame.
        pdu: The PDU, with Ethernet's padding if there is any.
    """

    time_ns: int
    source: str
    destination: str
    frame_bytes: int
    pdu: bytes


def read_capture(path: Path, port: int = UDP_PORT) -> Iterator[CapturedPdu]:
    """Yield the PDUs in a pcap or pcapng file, over Ethernet and over UDP; other frames are passed over.

    Args:
        path: The file.
        port: UDP port of appliances.

    Raises:
        ConfigError: The file is no capture, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            reader = dpkt.pcap.UniversalReader(file)
            link_type = reader.datalink()
            for time, frame in reader:
                found = pdu_in(link_type, bytes(frame), port)
                if found:
                    # dpkt gives seconds as a Decimal, or a float of a file in µs: both become exact ns here.
                    yield CapturedPdu(round(time * 1_000_000_000), *found[:2], len(frame), found[2])
    except (OSError, ValueError, dpkt.Error) as error:
        raise ConfigError(f"{path} cannot be read as a capture: {error}") from None


def pdu_in(link_type: int, frame: bytes, port: int) -> tuple[str, str, bytes] | None:
    """Return source, destination and PDU of a frame; None where it carries none.

    Args:
        link_type: What the frame begins with, a LINKTYPE number of tcpdump.org.
        frame: The frame.
        port: UDP port of appliances.
    """
    if link_type == dpkt.pcap.DLT_EN10MB:
        return _from_ethernet(frame, port)
    return _from_ip(frame, port) if link_type in (dpkt.pcap.DLT_RAW, 228) else None


def _from_ethernet(frame: bytes, port: int) -> tuple[str, str, bytes] | None:
    try:
        ethernet = dpkt.ethernet.Ethernet(frame)
    except dpkt.UnpackError:
        return None
    tags = getattr(ethernet, "vlan_tags", [])
    kind, payload = (tags[-1] if tags else ethernet).type, frame[_ETHERNET_SIZE + _TAG_SIZE * len(tags) :]
    if kind == ETHERTYPE:
        return ethernet.src.hex(":"), ethernet.dst.hex(":"), payload
    return _from_ip(payload, port) if kind == dpkt.ethernet.ETH_TYPE_IP else None


def _from_ip(packet: bytes, port: int) -> tuple[str, str, bytes] | None:
    try:
        ip = dpkt.ip.IP(packet)
    except dpkt.UnpackError:
        return None
    udp = ip.data
    if not isinstance(udp, dpkt.udp.UDP) or port not in (udp.sport, udp.dport):
        return None
    source, destination = socket.inet_ntoa(ip.src), socket.inet_ntoa(ip.dst)
    return f"{source}:{udp.sport}", f"{destination}:{udp.dport}", bytes(udp.data)
