"""The kernel's namespaces, and what a new one needs first; the standard library only.

:mod:`os` has ``unshare`` and ``setns`` from Python 3.12 on; until then they are called in the C library.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
from pathlib import Path

NEW_USER = 0x1000_0000  # <linux/sched.h>: CLONE_NEWUSER
NEW_PID = 0x2000_0000  # CLONE_NEWPID
NEW_NET = 0x4000_0000  # CLONE_NEWNET

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_SIOCGIFFLAGS = 0x8913  # <linux/sockios.h>
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_INTERFACE_REQUEST = struct.Struct("16sH22x")  # struct ifreq with the flags in its union

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Give this process new namespaces; a new PID namespace is for its children only.

    Raises:
        OSError: The kernel refuses, or the process has threads and asks for a user namespace.
    """
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def unshare_user(flags: int) -> None:
    """Do :func:`unshare` inside a new user namespace, in which the caller is root and nobody else exists.

    Raises:
        OSError: The kernel refuses.
    """
    user, group = os.geteuid(), os.getegid()
    unshare(NEW_USER | flags)
    process = Path("/proc/self")
    (process / "setgroups").write_text("deny")  # the kernel's condition for a group map written without root
    (process / "uid_map").write_text(f"0 {user} 1")
    (process / "gid_map").write_text(f"0 {group} 1")


def join(pid: int) -> None:
    """Move this process into the network namespace of another, and into its user namespace if that differs.

    Raises:
        OSError: The process is gone, or belongs to somebody else.
    """
    namespaces = Path("/proc", str(pid), "ns")
    with (namespaces / "net").open("rb") as network:
        if not (namespaces / "user").samefile("/proc/self/ns/user"):
            with (namespaces / "user").open("rb") as user:
                _check(_libc.setns(user.fileno(), NEW_USER), "setns")
        _check(_libc.setns(network.fileno(), NEW_NET), "setns")


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends in whatever way; does not reach its children."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def silence_ipv6() -> None:
    """Keep the kernel from sending IPv6 frames of its own in this network namespace."""
    for scope in ("all", "default"):
        # A kernel without IPv6 has no such file. Where /proc/sys is read-only, as in some containers, an
        # unfiltered capture holds the kernel's frames as well, and nothing else is different.
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv6/conf", scope, "disable_ipv6").write_text("1")


def raise_interface(name: str) -> None:
    """Set an interface of this network namespace up.

    Raises:
        OSError: There is no such interface.
    """
    _set_flags(name, _IFF_UP, _IFF_UP)


def lower_interface(name: str) -> None:
    """Set an interface of this network namespace down.

    Raises:
        OSError: There is no such interface.
    """
    _set_flags(name, 0, _IFF_UP)


def _set_flags(name: str, flags: int, mask: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = _INTERFACE_REQUEST.pack(name.encode(), 0)
        _, before = _INTERFACE_REQUEST.unpack(fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        wanted = (before & ~mask) | flags
        fcntl.ioctl(control, _SIOCSIFFLAGS, _INTERFACE_REQUEST.pack(name.encode(), wanted))


def visible_pid() -> int:
    """Return this process's number as /proc has it: inside a new PID namespace, the one seen from outside."""
    return int(Path("/proc/self").readlink().name)
