"""Network namespaces without names for tests: they vanish with the object, or with the process."""

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pyroute2 import IPRoute

_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWNET = 0x4000_0000
_HERE = "/proc/thread-self/ns/net"
_LIBC = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


class Namespace:
    """One network namespace, in which the calling thread can be for a while."""

    def __init__(self) -> None:
        outside = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_LIBC.unshare(_CLONE_NEWNET), "unshare")
            self.fd = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
            with IPRoute() as ip:
                ip.link("set", index=1, state="up")
        finally:
            _check(_LIBC.setns(outside, _CLONE_NEWNET), "setns")
            os.close(outside)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling thread in the namespace; sockets that are opened meanwhile stay in it."""
        outside = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_LIBC.setns(self.fd, _CLONE_NEWNET), "setns")
            yield
        finally:
            _check(_LIBC.setns(outside, _CLONE_NEWNET), "setns")
            os.close(outside)

    @contextlib.contextmanager
    def ip(self) -> Iterator[IPRoute]:
        """Open pyroute2's interface to the namespace."""
        with self.entered(), IPRoute() as ip:
            yield ip

    def index(self, name: str) -> int:
        """Return the number of an interface."""
        with self.ip() as ip:
            return int(ip.link_lookup(ifname=name)[0])

    def set(self, name: str, **facts: object) -> None:
        """Change an interface: ``state="up"``, ``mtu=``, ``ifname=``, ``address=``, ``master=``."""
        with self.ip() as ip:
            ip.link("set", index=ip.link_lookup(ifname=name)[0], **facts)

    def delete(self, name: str) -> None:
        """Delete an interface."""
        with self.ip() as ip:
            ip.link("del", index=ip.link_lookup(ifname=name)[0])

    def wait_until_sending(self, name: str) -> None:
        """Wait until an interface sends: for a moment after it came up, the kernel throws frames away."""
        deadline = time.monotonic() + 5
        with self.ip() as ip:
            while ip.link("get", ifname=name)[0].get("operstate") != "UP":
                assert time.monotonic() < deadline, f"{name} does not come up"
                time.sleep(0.001)

    def close(self) -> None:
        """Let go of the namespace."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def veth(left: Namespace, left_name: str, right: Namespace, right_name: str, mtu: int = 1500) -> None:
    """Connect two namespaces (or one with itself) by a veth pair, both ends up."""
    with left.ip() as ip:
        peer = {"ifname": right_name, "net_ns_fd": right.fd, "mtu": mtu}
        ip.link("add", ifname=left_name, kind="veth", mtu=mtu, peer=peer)
    left.set(left_name, state="up")
    right.set(right_name, state="up")
    left.wait_until_sending(left_name)
    right.wait_until_sending(right_name)


def bridge(switch: Namespace, name: str, ports: list[str]) -> None:
    """Make a bridge of interfaces of a namespace."""
    with switch.ip() as ip:
        ip.link("add", ifname=name, kind="bridge")
    index = switch.index(name)
    for port in ports:
        switch.set(port, master=index)
    switch.set(name, state="up")


def run_unprivileged(body: Callable[[], None], *, namespaces: bool = True, timeout_s: float = 20.0) -> None:
    """Run ``body`` in a child process as an ordinary user, with a user and network namespace of its own or not.

    Raises:
        PermissionError: User namespaces are not allowed here.
        AssertionError: The body failed; the message has its traceback.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_run_child(body, writing, namespaces))
    os.close(writing)
    deadline = time.monotonic() + timeout_s
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.01)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reading) as pipe:
        report = pipe.read()
    if code == 77:
        raise PermissionError(report)
    assert code == 0, report or f"the child ended with {code}"


def _run_child(body: Callable[[], None], writing: int, namespaces: bool) -> int:
    try:
        _become_unprivileged()
        if namespaces:
            _enter_user_namespace()
    except OSError as error:
        os.write(writing, str(error).encode())
        return 77
    try:
        body()
    except BaseException:  # noqa: BLE001 - whatever it is, the parent reports it
        os.write(writing, traceback.format_exc().encode())
        return 1
    finally:
        sys.stdout.flush()
    return 0


def _become_unprivileged() -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        _check(_LIBC.prctl(4, 1, 0, 0, 0), "prctl")  # PR_SET_DUMPABLE: else /proc/self belongs to root


def _enter_user_namespace() -> None:
    uid, gid = os.getuid(), os.getgid()
    _check(_LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNET), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
