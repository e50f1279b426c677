"""Opening an AF_XDP socket on an interface: chunk size, program, receive queue, and what it means when that fails."""

import contextlib
import errno
import os
import resource
from time import sleep
from typing import Literal

from host_sdk.wire.errors import LinkError, LinkPrivilegeError, MtuError
from host_sdk.wire.links import bpf
from host_sdk.wire.links.ethernet import HEADER_SIZE
from host_sdk.wire.links.interface import Interface
from host_sdk.wire.links.rings import HEADROOM, KERNEL_HEADROOM, XdpSocket

Mode = Literal["native", "generic"]

_CHUNK_SIZES = (2048, 4096)  # bytes that the kernel allows: powers of two, up to a page
_OVERHEAD = KERNEL_HEADROOM + HEADROOM + HEADER_SIZE
_LARGEST_MTU = _CHUNK_SIZES[-1] - _OVERHEAD
_NATIVE_VETH_MTU = 3400  # what veth surely takes beside its own headroom in a page
_BIND_ATTEMPTS = 50
_BIND_PAUSE_S = 0.01
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE)


def choose_chunk(interface: Interface) -> int:
    """Return the bytes of a chunk that takes the largest frame of an interface.

    Raises:
        MtuError: No chunk does.
    """
    for size in _CHUNK_SIZES:
        if interface.mtu + _OVERHEAD <= size:
            return size
    name = interface.name
    raise MtuError(
        f"interface {name} has MTU {interface.mtu}, an xdp link carries {_LARGEST_MTU} at most, on veth in "
        f"native mode {_NATIVE_VETH_MTU}; `ip link set dev {name} mtu {_NATIVE_VETH_MTU}` on both ends sets "
        f"that, or use packet:{name}"
    )


def unlock_memory() -> None:
    """Raise the limit on locked memory, where that is allowed."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def steer(xsk: XdpSocket, interface: Interface, ethertype: int, mode: Mode | None, queue: int) -> tuple[int, Mode]:
    """Attach the program and bind the socket; return the attachment's descriptor and the mode.

    Raises:
        LinkPrivilegeError: A capability is missing.
        MtuError: Native mode was asked for, and does not go with the MTU.
        LinkError: The interface has another program or no such queue, or the kernel or driver no AF_XDP.
    """
    with contextlib.ExitStack() as closing, contextlib.ExitStack() as failed:
        try:
            sockets = bpf.create_xskmap(queue + 1)
            closing.callback(os.close, sockets)
            program = bpf.load_program(bpf.steering_program(sockets, ethertype))
            closing.callback(os.close, program)
            attachment, mode = _attach(program, interface, mode)
            failed.callback(os.close, attachment)
            _bind(xsk, interface, queue, mode)
            bpf.update_map(sockets, queue, xsk.socket.fileno())
        except OSError as error:
            raise _explain(error, interface.name) from error
        failed.pop_all()
    return attachment, mode


def _attach(program: int, interface: Interface, mode: Mode | None) -> tuple[int, Mode]:
    name = interface.name
    try:
        if mode != "generic":
            try:
                return bpf.attach_program(program, interface.index, bpf.NATIVE), "native"
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                if mode == "native":
                    raise MtuError(
                        f"interface {name} has no XDP in native mode at MTU {interface.mtu}; on veth "
                        f"{_NATIVE_VETH_MTU} works, on both ends; else use generic mode"
                    ) from error
        return bpf.attach_program(program, interface.index, bpf.GENERIC), "generic"
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise LinkError(
            f"interface {name} has an XDP program already, see `ip link show {name}`; stop its owner, or use "
            f"packet:{name}"
        ) from error


def _bind(xsk: XdpSocket, interface: Interface, queue: int, mode: Mode) -> None:
    """Bind, with patience: the kernel gives a queue free some time after its last socket was closed."""
    for attempt in range(_BIND_ATTEMPTS):
        try:
            xsk.bind(interface.index, queue, copy=mode == "generic")
        except OSError as error:
            name = interface.name
            if error.errno == errno.EINVAL:
                raise LinkError(
                    f"interface {name} has no receive queue {queue} for AF_XDP; use packet:{name}"
                ) from error
            if error.errno != errno.EBUSY:
                raise
            if attempt == _BIND_ATTEMPTS - 1:
                raise LinkError(
                    f"queue {queue} of interface {name} has an AF_XDP socket already; stop its owner, or use "
                    f"packet:{name}"
                ) from error
            sleep(_BIND_PAUSE_S)
        else:
            return


def _explain(error: OSError, name: str) -> LinkError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return LinkPrivilegeError(
            "an xdp link needs CAP_NET_RAW, and CAP_BPF with CAP_NET_ADMIN (or CAP_SYS_ADMIN), outside of "
            f"user namespaces: run with sudo, give the container these, or use packet:{name}"
        )
    return LinkError(f"interface {name}: no AF_XDP: {error.strerror}; use the link packet:{name}")
