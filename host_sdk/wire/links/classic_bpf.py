"""Classic BPF for packet sockets that look at what leaves an interface. A health check uses it: imports little."""

import socket
import struct
from array import array

_ETH_P_ALL = 3  # what leaves is shown to sockets of all protocols alone
_SO_ATTACH_FILTER = 26
_PACKET_OUTGOING = 4
# Loads of a word, half-word and byte, a jump, an and, a return.
_LD, _LDH, _LDB, _JEQ, _AND, _RET = 0x20, 0x28, 0x30, 0x15, 0x54, 0x06
_PACKET_TYPE = 0xFFFF_F000 + 4
_WHOLE = 0x4_0000


def outgoing_filter(destination: int, ethertype: int) -> bytes:
    """Return the program that takes outgoing frames for an address from another one that is locally administered."""
    high, low = destination >> 16, destination & 0xFFFF
    drop, take = 16, 15

    def unless(at: int, value: int) -> tuple[int, int, int, int]:
        return _JEQ, 0, drop - at - 1, value

    code = [
        *((_LDB, 0, 0, _PACKET_TYPE), unless(1, _PACKET_OUTGOING)),
        *((_LDH, 0, 0, 12), unless(3, ethertype)),
        *((_LD, 0, 0, 0), unless(5, high)),
        *((_LDH, 0, 0, 4), unless(7, low)),
        *((_LDB, 0, 0, 6), (_AND, 0, 0, 3), unless(10, 2)),
        *((_LD, 0, 0, 6), (_JEQ, 0, take - 13, high)),
        *((_LDH, 0, 0, 10), (_JEQ, drop - 15, 0, low)),
        *((_RET, 0, 0, _WHOLE), (_RET, 0, 0, 0)),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in code)


def answer_filter(destination: int, ethertype: int) -> bytes:
    """Return the program that takes outgoing frames for an address, whoever sent them."""
    drop = 9
    code = [
        *((_LDB, 0, 0, _PACKET_TYPE), (_JEQ, 0, drop - 2, _PACKET_OUTGOING)),
        *((_LDH, 0, 0, 12), (_JEQ, 0, drop - 4, ethertype)),
        *((_LD, 0, 0, 0), (_JEQ, 0, drop - 6, destination >> 16)),
        *((_LDH, 0, 0, 4), (_JEQ, 0, drop - 8, destination & 0xFFFF)),
        *((_RET, 0, 0, _WHOLE), (_RET, 0, 0, 0)),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in code)


def open_tap(interface: str, program: bytes) -> socket.socket:
    """Return a packet socket, not blocking, that gets what a program takes of all that passes an interface.

    Raises:
        OSError: The interface is gone, or CAP_NET_RAW is missing.
    """
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        buffer = array("B", program)  # whose address is to be had without ctypes
        head = struct.pack("HL", len(program) // 8, buffer.buffer_info()[0])
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
        # Protocol 0 at the beginning: nothing gets in before the filter is there.
        sock.bind((interface, _ETH_P_ALL))
    except OSError:
        sock.close()
        raise
    return sock
