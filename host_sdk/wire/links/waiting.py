"""Waiting for descriptors with the resolution of ppoll(2): nanoseconds, where poll's is milliseconds."""

import ctypes
import errno
import os
import select
import time

from host_sdk.wire.errors import LinkError

_LIBC = ctypes.CDLL(None, use_errno=True)


class _PollFd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


_ppoll = _LIBC.ppoll
_ppoll.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p)
_ppoll.restype = ctypes.c_int
_timerfd_create = _LIBC.timerfd_create
_timerfd_create.argtypes = (ctypes.c_int, ctypes.c_int)
_timerfd_settime = _LIBC.timerfd_settime
_timerfd_settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class Waiter:
    """Waits until one of a few descriptors is readable.

    An interrupted wait ends early, so that a loop whose signal handler asked it to stop gets to see that.

    Attributes:
        descriptors: What is waited for.
    """

    def __init__(self, *descriptors: int) -> None:
        self.descriptors = descriptors
        self._count = len(descriptors)
        self._polled = (_PollFd * self._count)(*(_PollFd(fd, select.POLLIN, 0) for fd in descriptors))
        self._timeout = _Timespec()
        self._polled_at = ctypes.addressof(self._polled)
        self._timeout_at = ctypes.addressof(self._timeout)
        self._epoll: select.epoll | None = None

    def wait(self, timeout_ns: int | None) -> bool:
        """Wait at most ``timeout_ns`` (None: for ever) and return whether a descriptor has become ready."""
        timeout_at = None
        if timeout_ns is not None:
            self._timeout.tv_sec, self._timeout.tv_nsec = divmod(max(timeout_ns, 0), 1_000_000_000)
            timeout_at = self._timeout_at
        return wait_events(self._polled_at, self._count, timeout_at)

    def ready(self, index: int) -> bool:
        """Return whether the last wait, which returned true, did so for this descriptor."""
        return bool(self._polled[index].revents)

    def fileno(self) -> int:
        """Return one descriptor that polls readable when any of them does."""
        if self._count == 1:
            return int(self._polled[0].fd)
        if self._epoll is None:
            self._epoll = select.epoll()
            for polled in self._polled:
                self._epoll.register(polled.fd, select.EPOLLIN)
        return self._epoll.fileno()

    def close(self) -> None:
        """Give the descriptor of :meth:`fileno` back; the descriptors waited for are the caller's."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None


class Timer:
    """A descriptor that polls readable from a moment on, until it is set again."""

    def __init__(self) -> None:
        self._descriptor = int(_timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
        if self._descriptor < 0:
            raise LinkError(f"no timer for the link: {os.strerror(ctypes.get_errno())}")
        self._setting = (_Timespec * 2)()  # interval, which stays 0, and time
        self._setting_at = ctypes.addressof(self._setting)

    def set(self, delay_ns: int | None) -> None:
        """Let it be readable after so many ns; None: not at all."""
        when = self._setting[1]
        # A timer set to 0 is switched off.
        when.tv_sec, when.tv_nsec = (0, 0) if delay_ns is None else divmod(max(delay_ns, 1), 1_000_000_000)
        _timerfd_settime(self._descriptor, 0, self._setting_at, None)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


def wait_events(polled_at: int, count: int, timeout_at: int | None) -> bool:
    """Call ppoll(2) on prepared structures and return whether anything is ready; EINTR is nothing.

    Raises:
        LinkError: The kernel refused the call.
    """
    ready = int(_ppoll(polled_at, count, timeout_at, None))
    if ready < 0 and (code := ctypes.get_errno()) != errno.EINTR:
        raise LinkError(f"waiting for the link failed: {os.strerror(code)}")
    return ready > 0


def wait_writable(descriptor: int, timeout_ns: int) -> bool:
    """Wait at most ``timeout_ns`` (below a second) until the descriptor takes more; return whether so."""
    polled = _PollFd(descriptor, select.POLLOUT, 0)
    timeout = _Timespec(0, timeout_ns)
    return wait_events(ctypes.addressof(polled), 1, ctypes.addressof(timeout))
