"""Landlock by its system calls: what this process may do to files, TCP ports and other processes, for good.

Knows the ABIs from 1 on and asks for all that the running kernel's has and this module knows. The numbers are those
of ``linux/landlock.h``; the numbers of the system calls are the same on every architecture.
"""

import ctypes
import os
from collections.abc import Sequence

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1  # flag of CREATE_RULESET
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# By ABI: execute, write, read, list, remove, make (1); link across directories (2); truncate (3); ioctl of devices (5).
_FILE_RIGHTS = ((1, 0x1FFF), (2, 0x2000), (3, 0x4000), (5, 0x8000))
_NET_RIGHTS = ((4, 0x3),)  # bind and connect TCP
SIGNALS_SINCE = 6  # the first ABI that keeps processes outside from being signalled
_SCOPES = ((SIGNALS_SINCE, 0x3),)  # abstract Unix sockets, signals

_LIBC = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """Return the ABI of the running kernel.

    Raises:
        OSError: There is no Landlock, or it is turned off.
    """
    return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)


def restrict(readable: Sequence[str]) -> None:
    """Let this process, and its children, read what is beneath some paths, and no other file; write and run nothing.

    Where the kernel has it, TCP and the signalling of processes outside are closed as well. Files that are open stay
    so. The process must have no_new_privs set.

    Args:
        readable: Files and directories; those that are not there are passed over.

    Raises:
        OSError: The kernel refuses.
    """
    abi = version()
    files, net, scopes = (_known(rights, abi) for rights in (_FILE_RIGHTS, _NET_RIGHTS, _SCOPES))
    ruleset = _Ruleset(files, net, scopes)
    descriptor = _call(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(ctypes.sizeof(ruleset)), 0)
    try:
        for path in readable:
            _allow(descriptor, path)
        _call(_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)


def _allow(descriptor: int, path: str) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rights = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE  # noqa: PTH112 - pathlib costs 5 ms
        rule = _PathBeneath(rights, parent)
        _call(_ADD_RULE, descriptor, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)


def _known(rights: tuple[tuple[int, int], ...], abi: int) -> int:
    return sum(bits for since, bits in rights if since <= abi)


def _call(number: int, *arguments: object) -> int:
    result = int(_LIBC.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
