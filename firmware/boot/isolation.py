"""Shutting the firmware in: what its process cannot do from here on, whatever code the image holds.

Each step that the system does not allow is told in a sentence and left out; the others still hold.
"""

import ctypes
import os
import resource
from collections.abc import Callable, Sequence

from . import landlock
from .user import User

MEMORY_BYTES = 1 << 30  # of address space; the firmware with its largest letter takes a third
OPEN_FILES = 32

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x0002_0000, 0x0800_0000, 0x1000_0000, 0x4000_0000
_MS_NOSUID_NODEV, _MS_BIND_REC, _MS_PRIVATE_REC = 0x6, 0x5000, 0x44000
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _CLEAR_ALL = 38, 47, 4
_CAP_VERSION = 0x2008_0522
_CAP_KILL = 5
_TO_BECOME_ANOTHER = 1 << _CAP_KILL | 1 << 6 | 1 << 7  # and CAP_SETGID, CAP_SETUID
_READ, _SEARCH = 4, 1
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")

_LIBC = ctypes.CDLL(None, use_errno=True)


def isolate(user: User, places: Sequence[str], report: Callable[[str], None]) -> None:
    """Give up all that the firmware does not need, for good. What is open stays open.

    Args:
        user: Whom to become, where this process is root.
        places: Directories that code is still to come from.
        report: Told of each thing that cannot be had, in a sentence.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    root = os.geteuid() == 0
    if not root and _capabilities():
        report("isolation: the firmware's process began with capabilities, which it gives up now")
    steps: list[tuple[str, Callable[[], None]]] = [("network", lambda: _leave_network(root))]
    if root:
        steps += [("user", lambda: _become(user, places))]
    steps += [
        ("privileges", _give_up_privileges),
        ("processes", _forbid_processes),
        ("file system", lambda: landlock.restrict((*places, *_LIBRARIES))),
        ("signals", lambda: _check_signals(root)),
    ]
    for name, step in steps:
        try:
            step()
        except OSError as error:
            report(f"isolation: {name} not closed: {error.strerror or error}")


def forbid_gains() -> None:
    """Let what this thread starts from here on have no capabilities, though the interpreter's file may carry some.

    For the thread and its children alone: capabilities belong to threads, and the node's others keep theirs. The kernel
    takes from a file no capability that whoever starts it has not, once that is asked for, so the thread gives up its
    own. A node that can become another user keeps them: its firmware does so first, and gives them up then.
    """
    _LIBC.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    if _capabilities() & _TO_BECOME_ANOTHER == _TO_BECOME_ANOTHER:
        _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    else:
        _give_up_privileges()


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (bound, bound))


def _leave_network(root: bool) -> None:
    """Enter a network and an IPC namespace with nothing in them; an ordinary user needs a user namespace for that."""
    _check(_LIBC.unshare(_CLONE_NEWNET | _CLONE_NEWIPC | (0 if root else _CLONE_NEWUSER)))


def _become(user: User, places: Sequence[str]) -> None:
    """Become an ordinary user, who must be able to read the places.

    Raises:
        OSError: It cannot be, and the process goes on as root, without privileges.
    """
    if not _capabilities() >> _CAP_KILL & 1:
        raise OSError("the node has no CAP_KILL, and could not stop the firmware")
    if hidden := {closed for place in places if (closed := _first_closed(place, user))}:
        _uncover(hidden, places)
    for place in places:
        if _first_closed(place, user) or not _may(place, user, _READ | _SEARCH):
            raise OSError(f"{place} cannot be read by user {user.uid}")
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def _first_closed(place: str, user: User) -> str:
    """Return the topmost directory above a place that a user cannot go through; empty where there is none."""
    parts = place.split("/")
    above = ["/".join(parts[:count]) or "/" for count in range(1, len(parts))]
    return next((path for path in above if not _may(path, user, _SEARCH)), "")


def _may(path: str, user: User, wanted: int) -> bool:
    status = os.stat(path)  # noqa: PTH116 - pathlib costs 5 ms of a boot
    shift = 6 if status.st_uid == user.uid else 3 if status.st_gid == user.gid else 0
    return status.st_mode >> shift & wanted == wanted


def _uncover(hidden: set[str], places: Sequence[str]) -> None:
    """In a mount namespace of its own, put an empty directory in place of each hidden one, with the places alone in it.

    An installation below a home directory would else be out of reach of everybody but its owner.
    """
    os.umask(0o022)
    _check(_LIBC.unshare(_CLONE_NEWNS))
    _mount("none", "/", "", _MS_PRIVATE_REC, "")
    for closed in hidden:
        below = [place for place in places if place.startswith(closed + "/")]
        opened = [os.open(place, os.O_PATH | os.O_CLOEXEC) for place in below]
        _mount("tmpfs", closed, "tmpfs", _MS_NOSUID_NODEV, "mode=755,size=1m")
        for place, descriptor in zip(below, opened, strict=True):
            os.makedirs(place, 0o755, exist_ok=True)  # noqa: PTH103 - pathlib costs 5 ms of a boot
            _mount(f"/proc/self/fd/{descriptor}", place, "", _MS_BIND_REC, "")
            os.close(descriptor)


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    _check(_LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()))


def _capabilities() -> int:
    """Return the lower 32 of the capabilities in effect."""
    data = (ctypes.c_uint32 * 6)()
    _check(_LIBC.capget((ctypes.c_uint32 * 2)(_CAP_VERSION, 0), data))
    return data[0]


def _give_up_privileges() -> None:
    _check(_LIBC.capset((ctypes.c_uint32 * 2)(_CAP_VERSION, 0), (ctypes.c_uint32 * 6)()))
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _forbid_processes() -> None:
    _limit(resource.RLIMIT_NPROC, 0)
    try:
        child = os.fork()
    except OSError:
        return
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    raise OSError("the kernel does not limit the processes of this user")  # as of root


def _check_signals(root: bool) -> None:
    """See that processes outside cannot be signalled: they are another user's, or Landlock forbids it."""
    if root and os.getuid() != 0:
        return
    if landlock.version() < landlock.SIGNALS_SINCE:
        raise OSError("this kernel's Landlock knows no scopes, and the node is of the same user")


def _check(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
