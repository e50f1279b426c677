"""The process that a lab lives and dies with: ``python -m host_sdk.lab.keeper --directory … --ready-fd N``.

It starts in the switch's network namespace and as first process of the lab's PID namespace (see
:mod:`host_sdk.lab.enter`), so that its end, in whatever way, is the end of everything in the lab. It builds
the lab from its topology in the lab's directory, announces on ``--ready-fd`` that all nodes serve or why
not, watches them, and takes the lab down when it gets SIGTERM or its owner ends.
"""

import argparse
import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from host_sdk.lab.directory import TOPOLOGY, LabDirectory
from host_sdk.lab.namespace import silence_ipv6, visible_pid
from host_sdk.lab.node import Node
from host_sdk.lab.process import ProcessIdentity
from host_sdk.lab.state import LabState
from host_sdk.lab.switch import Switch, connect
from host_sdk.lab.topology import Topology
from host_sdk.wire.errors import DeviceError, NapuError, NapuTimeoutError

GRACE_NS = 2_000_000_000  # what nodes get to end after SIGTERM


class _StopError(BaseException):
    """The lab shall end. Not an Exception, so that nothing on the way takes it for a fault."""


def _ignore_stops() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    _ignore_stops()  # a second one shall not interrupt what the first one began
    raise _StopError


class Keeper:
    """Builds, watches and ends one lab.

    Args:
        directory: The lab's directory, locked by a descriptor that this process has inherited.
        topology: What to build.
        owner: Pidfd of the process with which the lab shall end.
        clock: Monotonic time in ns.
    """

    def __init__(self, directory: LabDirectory, topology: Topology, owner: int, clock: Callable[[], int]) -> None:
        self._directory = directory
        self._clock = clock
        self._owner = owner
        self._mtus = [node.mtu or topology.mtu for node in topology.nodes]
        self._hosts = [Node(host.name, host.mac, directory) for host in topology.hosts]
        self._appliances = [Node(each.name, each.mac, directory, each.command) for each in topology.appliances]
        self._nodes = [*self._hosts, *self._appliances]
        self._state = LabState(
            name=topology.name,
            phase="starting",
            keeper=ProcessIdentity.of(visible_pid()),
            mtu=topology.mtu,
            link=topology.link,
            cabling=topology.cabling,
            hosts=tuple(node.state for node in self._hosts),
            appliances=tuple(node.state for node in self._appliances),
        )
        self._selector = selectors.DefaultSelector()
        self._wake, wake = socket.socketpair()
        for end in (self._wake, wake):
            end.setblocking(False)
        self._wake_writer = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # only so that it wakes the selector
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._selector.register(owner, selectors.EVENT_READ)

    def start(self, timeout_ns: int) -> None:
        """Build the lab and wait until all appliances have announced themselves.

        Raises:
            LinkError: The kernel cannot build the switch or a cable, or refuses to.
            DeviceError: A node ended before it served.
            NapuTimeoutError: A node did not serve in time.
        """
        deadline = self._clock() + timeout_ns
        self._write_state()
        silence_ipv6()
        for node in self._nodes:
            node.start()
        ends = [(node.await_namespace(), node.state.mac) for node in self._nodes]
        if self._state.cabling == "direct":
            connect(min(self._mtus), ends)
            self._await_plugged()
        else:
            self._join_by_switch(ends)
        for node in self._nodes:
            node.go()
        for node in self._appliances:
            self._selector.register(node.ready, selectors.EVENT_READ, node)
        self._await_announcements(deadline, timeout_ns)
        self._state = replace(self._state, phase="up")
        self._write_state()

    def _join_by_switch(self, ends: list[tuple[int, str]]) -> None:
        with contextlib.closing(Switch(self._state.mtu)) as switch:
            for (pid, mac), mtu in zip(ends, self._mtus, strict=True):
                switch.plug(pid, mac, mtu)
            self._await_plugged()
            switch.wait_forwarding()

    def _await_plugged(self) -> None:
        for node in self._nodes:
            node.await_plugged()

    def _await_announcements(self, deadline: int, timeout_ns: int) -> None:
        while waiting := [node for node in self._appliances if node.state.announcement is None]:
            left = deadline - self._clock()
            if left <= 0:
                raise NapuTimeoutError(
                    f"{', '.join(node.state.name for node in waiting)}: no announcement within "
                    f"{timeout_ns / 1e9:g} s; give more time, or see why in the log: {waiting[0].log_tail()}"
                )
            self._turn(left)
            for node in self._nodes:
                if node.state.exit_code is not None:
                    raise DeviceError(node.obituary())

    def detach(self) -> None:
        """Let the lab outlive its owner."""
        self._selector.unregister(self._owner)

    def watch(self) -> NoReturn:
        """Keep the state up to date until the lab shall end."""
        while True:
            if self._turn(None):
                self._write_state()

    def _turn(self, timeout_ns: int | None) -> bool:
        """Wait for something and deal with it; return whether a node has changed."""
        changed = False
        for key, _ in self._selector.select(None if timeout_ns is None else timeout_ns / 1e9):
            if key.fd == self._owner:
                raise _StopError
            if key.fileobj is self._wake:
                self._wake.recv(4096)
                changed |= self._reap()
            elif key.data.read_announcement():
                self._selector.unregister(key.fileobj)
                changed = True
        return changed

    def _reap(self) -> bool:
        """Take note of children that have ended, the orphans that the first process gets among them."""
        changed = False
        while (ended := _first_ended()) is not None:
            node = next((node for node in self._nodes if node.pid == ended), None)
            if node is None:
                os.waitpid(ended, 0)
            else:
                node.bury()
                changed = True
        return changed

    def _write_state(self) -> None:
        self._state = replace(
            self._state,
            hosts=tuple(node.state for node in self._hosts),
            appliances=tuple(node.state for node in self._appliances),
        )
        self._directory.write_state(self._state)

    def end(self) -> None:
        """End the nodes, in peace if they do so in time."""
        _ignore_stops()
        self._selector.close()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._reap()
        deadline = self._clock() + GRACE_NS
        for node in self._nodes:
            node.signal(signal.SIGTERM)
        while any(node.runs() for node in self._nodes) and (left := deadline - self._clock()) > 0:
            self._turn(left)
        for node in self._nodes:
            node.signal(signal.SIGKILL)


def _first_ended() -> int | None:
    """Return a child that has ended, without reaping it; None when there is none."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return ended.si_pid if ended else None


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m host_sdk.lab.keeper", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="the lab's directory")
    parser.add_argument("--ready-fd", type=int, required=True, help="pipe for one line of JSON")
    parser.add_argument("--owner-fd", type=int, required=True, help="pidfd of the process to end with")
    parser.add_argument("--detach", action="store_true", help="end with it only until all nodes serve")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds until all nodes must serve")
    return parser.parse_args(argv)


def _announce(descriptor: int, error: NapuError | None) -> None:
    line = {"error": type(error).__name__, "message": str(error)} if error else {}
    with contextlib.suppress(BrokenPipeError):  # the owner has gone, which ends the lab by itself
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    os.close(descriptor)


def main(argv: Sequence[str] | None = None) -> int:
    """Keep the lab until it shall end; return 1 when it could not be built."""
    arguments = _parse(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    directory = LabDirectory(arguments.directory)
    topology = Topology.from_mapping(json.loads((directory.path / TOPOLOGY).read_text()))
    keeper = Keeper(directory, topology, arguments.owner_fd, time.monotonic_ns)
    try:
        keeper.start(int(arguments.timeout * 1e9))
        if arguments.detach:
            keeper.detach()
        _announce(arguments.ready_fd, None)
        keeper.watch()
    except NapuError as error:
        _announce(arguments.ready_fd, error)
        code = 1
    except _StopError:
        code = 0
    finally:
        keeper.end()
    directory.remove()  # not after a fault of its own, of which the owner reads in the log
    return code


if __name__ == "__main__":
    sys.exit(main())
