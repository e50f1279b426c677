"""The few bpf(2) calls that AF_XDP needs, and its program, assembled by hand."""

import ctypes
import os
import struct

from host_sdk.wire.errors import LinkError

NATIVE = 1 << 2  # XDP_FLAGS_DRV_MODE: the driver runs the program before it makes a socket buffer
GENERIC = 1 << 1  # XDP_FLAGS_SKB_MODE: the kernel runs it afterwards, with any driver

_SYS_BPF = 321  # of x86-64, the one machine that xdp links run on
_MAP_CREATE, _MAP_UPDATE_ELEM, _PROG_LOAD, _LINK_CREATE = 0, 2, 5, 28
_MAP_TYPE_XSKMAP = 17
_PROG_TYPE_XDP = 6
_ATTACH_XDP = 37
_LOG_SIZE = 1 << 16

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(_syscall(_SYS_BPF, command, ctypes.addressof(buffer), len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def create_xskmap(entries: int) -> int:
    """Return the descriptor of a new map from receive queue to AF_XDP socket.

    Raises:
        OSError: The kernel refuses.
    """
    return _bpf(_MAP_CREATE, struct.pack("=5I", _MAP_TYPE_XSKMAP, 4, 4, entries, 0))


def update_map(map_fd: int, key: int, value: int) -> None:
    """Set one entry of a map of 32-bit numbers.

    Raises:
        OSError: The kernel refuses.
    """
    cells = (ctypes.c_uint32 * 2)(key, value)
    at = ctypes.addressof(cells)
    _bpf(_MAP_UPDATE_ELEM, struct.pack("=I4xQQQ", map_fd, at, at + 4, 0))


def load_program(instructions: bytes) -> int:
    """Have the verifier check an XDP program and return its descriptor.

    Raises:
        PermissionError: The user may not load programs.
        LinkError: The verifier rejects it; its log is in the message.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    log = ctypes.create_string_buffer(_LOG_SIZE)

    def attributes(log_level: int) -> bytes:
        log_at = ctypes.addressof(log) if log_level else 0
        return struct.pack(
            "=IIQQIIQII16sII",
            _PROG_TYPE_XDP,
            len(instructions) // 8,
            ctypes.addressof(code),
            ctypes.addressof(licence),
            log_level,
            _LOG_SIZE if log_level else 0,
            log_at,
            0,  # kernel version
            0,  # flags
            b"napu_steer",
            0,  # interface: none, it is not offloaded
            _ATTACH_XDP,
        )

    try:
        return _bpf(_PROG_LOAD, attributes(0))
    except PermissionError:
        raise
    except OSError as error:
        failure = error
    try:  # again, for the log: it costs the kernel too much to write it each time
        return _bpf(_PROG_LOAD, attributes(1))
    except OSError:
        text = log.value.decode(errors="replace").strip()
        raise LinkError(
            f"the kernel rejects the XDP program ({failure.strerror}); use a packet link, and report its log: {text}"
        ) from failure


def attach_program(program_fd: int, interface: int, mode: int) -> int:
    """Attach an XDP program to an interface for as long as the descriptor returned is open.

    Raises:
        OSError: EBUSY where there is another program; EOPNOTSUPP, EINVAL or ERANGE where the driver cannot.
    """
    return _bpf(_LINK_CREATE, struct.pack("=IIII", program_fd, interface, _ATTACH_XDP, mode))


# Instruction helpers: one 64-bit word each, in the order opcode, registers, jump offset, immediate value.


def _word(opcode: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", opcode, source << 4 | target, offset, value)


def _load32(target: int, source: int, offset: int) -> bytes:
    """Target = the 32-bit word at source + offset."""
    return _word(0x61, target, source, offset)


def _load16(target: int, source: int, offset: int) -> bytes:
    """Target = the 16-bit word at source + offset."""
    return _word(0x69, target, source, offset)


def _copy(target: int, source: int) -> bytes:
    """Target = source."""
    return _word(0xBF, target, source)


def _set(target: int, value: int) -> bytes:
    """Target = value."""
    return _word(0xB7, target, value=value)


def _add(target: int, value: int) -> bytes:
    """Target += value."""
    return _word(0x07, target, value=value)


def _load_map(target: int, map_fd: int) -> bytes:
    """Target = address of the map; two words, the second of which is for the upper half of the address."""
    return _word(0x18, target, source=1, value=map_fd) + _word(0x00)


def _skip_if_greater(left: int, right: int, words: int) -> bytes:
    """Skip so many words if left > right, unsigned."""
    return _word(0x2D, left, right, words)


def _skip_unless_equal(left: int, value: int, words: int) -> bytes:
    """Skip so many words if left != value."""
    return _word(0x55, left, offset=words, value=value)


def _call(helper: int) -> bytes:
    """R0 = helper(r1, r2, r3, …)."""
    return _word(0x85, value=helper)


def _exit() -> bytes:
    """Return r0."""
    return _word(0x95)


_XDP_PASS = 2
_REDIRECT_MAP = 51
_DATA, _DATA_END, _RX_QUEUE = 0, 4, 16  # offsets in struct xdp_md


def steering_program(map_fd: int, ethertype: int) -> bytes:
    """Return the program that takes frames of one EtherType to the socket of their queue.

    In C::

        if (data + 14 <= data_end && ((__be16 *)data)[6] == htons(ethertype))
            return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
        return XDP_PASS;
    """
    (swapped,) = struct.unpack("=H", struct.pack(">H", ethertype))
    redirect = (
        _load32(2, 1, _RX_QUEUE)
        + _load_map(1, map_fd)
        + _set(3, _XDP_PASS)  # where the queue has no socket
        + _call(_REDIRECT_MAP)
        + _exit()
    )
    compare = _load16(5, 2, 12) + _skip_unless_equal(5, swapped, len(redirect) // 8)
    return (
        _load32(2, 1, _DATA)
        + _load32(3, 1, _DATA_END)
        + _copy(4, 2)
        + _add(4, 14)
        + _skip_if_greater(4, 3, (len(compare) + len(redirect)) // 8)
        + compare
        + redirect
        + _set(0, _XDP_PASS)
        + _exit()
    )
