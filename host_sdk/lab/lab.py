"""A lab of network namespaces on this machine: up, found, looked at, tapped, down."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from host_sdk.lab.capability import capability
from host_sdk.lab.counters import NOTHING, read_counters
from host_sdk.lab.directory import TOPOLOGY, LabDirectory, base_directory, find_directories, lab_directory
from host_sdk.lab.driver import LinkCounters
from host_sdk.lab.file_format import SWITCH
from host_sdk.lab.log_lines import lines_of
from host_sdk.lab.node import log_tail
from host_sdk.lab.port import INTERFACE, port_name
from host_sdk.lab.process import ProcessIdentity, is_stopped, signal_tree
from host_sdk.lab.state import LabState, NodeState
from host_sdk.lab.tap import Tap
from host_sdk.lab.topology import Topology
from host_sdk.wire.errors import (
    ClosedError,
    ConfigError,
    DeviceError,
    LinkError,
    LinkPrivilegeError,
    NapuError,
    NapuTimeoutError,
)
from host_sdk.wire.links.fault_control import ask_faults
from host_sdk.wire.schema import ETHERTYPE

DEFAULT_TIMEOUT_S: Final = 30.0
_BUILD_S: Final = 30.0  # for all that is not waiting for nodes to serve; far more than it takes
_STOP_TRIES: Final = 200
_STOP_LOOK_S: Final = 0.01
_DOWN_S: Final = 3.0  # the keeper gives its nodes 2
_FAILURES: Final[dict[str, type[NapuError]]] = {
    cls.__name__: cls for cls in (DeviceError, LinkError, LinkPrivilegeError, NapuTimeoutError)
}


class Lab:
    """A running lab. Also a context manager that takes it down.

    Attributes:
        name: Its name.
        driver: What made it.
    """

    driver = "netns"

    def __init__(self, directory: LabDirectory, guard: "subprocess.Popen[bytes] | None" = None) -> None:
        self.name = directory.name
        self._directory = directory
        self._guard = guard

    @classmethod
    def up(cls, topology: Topology, *, detach: bool = False, timeout_s: float = DEFAULT_TIMEOUT_S) -> "Lab":
        """Build a lab and wait until all of its appliances serve.

        Args:
            topology: What to build; every appliance must have its command.
            detach: Let the lab outlive this process. Otherwise it ends when this process does, in any way.
            timeout_s: Seconds that appliances have until they serve.

        Raises:
            ConfigError: A lab of this name is up, or an appliance has no command.
            LinkPrivilegeError: This machine does not let this user have network namespaces.
            LinkError: The kernel cannot build the lab.
            DeviceError: An appliance ended before it served; the message ends with its log.
            NapuTimeoutError: An appliance did not serve in time.
        """
        for appliance in topology.appliances:
            if not appliance.command:
                raise ConfigError(f"appliance {appliance.name} has no command; use with_commands() first")
        allowed = capability()
        if allowed.kind == "none":
            raise LinkPrivilegeError(allowed.reason)
        directory = lab_directory(topology.name)
        lock = directory.claim()
        try:
            directory.write_json(TOPOLOGY, topology.to_mapping())
            where = ["--new" if allowed.kind == "root" else "--new-user"]
            keeper = [f"--directory={directory.path}", f"--timeout={timeout_s}"]
            if detach:
                where.append("--detach")
                keeper.append("--detach")
            guard, ready = _start_keeper(where, keeper, lock, directory.log("keeper"))
        except BaseException:
            directory.remove()
            raise
        finally:
            os.close(lock)
        lab = cls(directory, guard)
        try:
            lab._await_ready(ready, timeout_s + _BUILD_S)
        except BaseException:
            lab.down()
            raise
        finally:
            os.close(ready)
        if detach:
            lab._reap_guard()  # it has put the real one into the background
        return lab

    @classmethod
    def find(cls, name: str) -> "Lab":
        """Return the lab of a name, whoever of this user's processes has brought it up.

        Raises:
            ConfigError: There is none.
        """
        directory = lab_directory(name)
        if not directory.is_live():
            raise ConfigError(f"no lab {name} is up; 'napu lab status' lists those that are")
        return cls(directory)

    @staticmethod
    def names() -> list[str]:
        """Return the names of this user's labs; what labs that have died left behind is removed."""
        return [found.name for found in find_directories(base_directory(os.environ, os.geteuid()))]

    def status(self) -> LabState:
        """Return how the lab is: its keeper's last word.

        Raises:
            ClosedError: It has ended, or has only just been begun.
        """
        state = self._directory.read_state() if self._directory.is_live() else None
        if state is None:
            raise ClosedError(f"lab {self.name} is not up; bring it up again with 'napu lab up'")
        return replace(
            state,
            hosts=tuple(self._conditioned(node) for node in state.hosts),
            appliances=tuple(self._conditioned(node) for node in state.appliances),
        )

    def _conditioned(self, node: NodeState) -> NodeState:
        condition = "up"
        if node.exit_code is not None:
            condition = "ended"
        elif node.flash and node.announcement is None:
            condition = "starting"
        elif is_stopped(node.pid):
            condition = "paused"
        elif self._directory.unplugged(node.name).exists():
            condition = "unplugged"
        return replace(node, condition=condition)

    def topology(self) -> Topology:
        """Return what the lab was made from.

        Raises:
            ClosedError: The lab has ended.
        """
        self.status()
        return Topology.from_mapping(json.loads((self._directory.path / TOPOLOGY).read_text()))

    def inside(self, node: str, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a command in the network namespace of a node.

        Args:
            node: Name of the host or an appliance, or ``switch``.
            command: The command and its arguments.

        Raises:
            ConfigError: There is no such node.
            ClosedError: The lab has ended.
        """
        state = self.status()
        if node == SWITCH:
            pid = _keeper(state).pid
        elif found := state.node(node):
            pid = found.pid
        else:
            known = [SWITCH, *(each.name for each in state.nodes)]
            raise ConfigError(f"lab {self.name} has no node {node}; it has {', '.join(known)}")
        return [sys.executable, "-m", "host_sdk.lab.enter", "--pid", str(pid), "--", *command]

    def exec_command(self, node: str, command: Sequence[str]) -> list[str]:
        """Return what :meth:`inside` does: nodes of namespaces share the files and the user of this machine."""
        return self.inside(node, command)

    def logs(self, node: str, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of a node's output; with ``follow`` go on until it ends.

        Raises:
            ConfigError: There is no such node.
            ClosedError: The lab has ended.
        """
        return lines_of(Path(self._node(node).log), self._runs(node) if follow else None)

    def _runs(self, node: str) -> Callable[[], bool]:
        def runs() -> bool:
            try:
                return self._node(node).exit_code is None
            except ClosedError:
                return False

        return runs

    def _node(self, name: str, *, running: bool = False) -> NodeState:
        return self.status().find(name, running=running)

    def signal(self, node: str, number: signal.Signals) -> None:
        """Send a signal to a node's process.

        Raises:
            ConfigError: There is no such node, or it has ended.
            ClosedError: The lab has ended.
        """
        found = self._node(node, running=True)
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(found.pid)
            try:
                self._node(node, running=True)  # so that the number was still this node's when it was opened
                signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    def pause(self, node: str) -> None:
        """Stop a node's process and all that it has started; see :meth:`signal` for what is raised."""
        pid = self._node(node, running=True).pid
        signal_tree(pid, signal.SIGSTOP)
        for _ in range(_STOP_TRIES):
            if is_stopped(pid):
                break
            time.sleep(_STOP_LOOK_S)

    def resume(self, node: str) -> None:
        """Let a paused node go on; see :meth:`signal` for what is raised."""
        signal_tree(self._node(node, running=True).pid, signal.SIGCONT)

    def unplug(self, node: str) -> None:
        """Take the node's port of the switch down.

        Raises:
            ConfigError: There is no such node, or no switch.
            ClosedError: The lab has ended.
            LinkError: It cannot be done.
        """
        self._set_port(node, "down")
        self._directory.unplugged(node).touch()

    def plug(self, node: str) -> None:
        """Take the port of an unplugged node up; see :meth:`unplug` for what is raised."""
        self._set_port(node, "up")
        self._directory.unplugged(node).unlink(missing_ok=True)

    def _set_port(self, node: str, state: str) -> None:
        lab = self.status()
        if lab.cabling != "switch":
            raise ConfigError(f"lab {self.name} is one cable, with no switch to pull it out of; make one with a switch")
        port = port_name(lab.nodes.index(lab.find(node)))
        command = self.inside(SWITCH, [sys.executable, "-m", "host_sdk.lab.port_state", port, state])
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_S, check=False)
        if done.returncode != 0:
            raise LinkError(f"the cable of {node} stays as it is: {done.stderr.strip()}")

    def ring(self, point: str) -> None:
        """Return None: captures are made :meth:`inside`, where frames are not copied once more.

        Raises:
            ConfigError: There is no such point.
        """
        self.inside(point, ())

    def counters(self) -> dict[str, LinkCounters]:
        """Return by node what went over its cable; of nodes that run.

        Raises:
            ClosedError: The lab has ended.
        """
        state = self.status()
        running = [(index, node) for index, node in enumerate(state.nodes) if node.exit_code is None]
        if state.cabling == "direct":
            return {node.name: read_counters(node.pid).get(INTERFACE, NOTHING) for _, node in running}
        ports = read_counters(_keeper(state).pid)
        return {node.name: ports.get(port_name(index), NOTHING).turned() for index, node in running}

    def faults(self, node: str, faults_in: str | None = None, faults_out: str | None = None) -> tuple[str, str]:
        """Change the damage that an appliance does to its frames, from now on; return what it is then.

        Args:
            node: Name of the appliance.
            faults_in: Damage to frames that arrive, as text; None leaves it as it is.
            faults_out: Damage to frames that are sent; likewise.

        Raises:
            ConfigError: There is no such appliance, or a text is none of faults.
            ClosedError: The lab has ended.
            DeviceError: The appliance does not answer, or its command takes no faults.
        """
        state = self.status()
        if all(node != each.name for each in state.appliances):
            known = ", ".join(each.name for each in state.appliances)
            raise ConfigError(f"lab {self.name} has no appliance {node}; it has {known}")
        return ask_faults(self._directory.faults(node), faults_in, faults_out)

    def tap(self, path: Path, *, ethertype: int | None = ETHERTYPE) -> Tap:
        """Begin to capture at the switch; see :meth:`Tap.start`.

        Raises:
            ClosedError: The lab has ended.
            ConfigError: The lab has no switch.
            LinkError: The capture cannot be had.
        """
        state = self.status()
        if state.cabling != "switch":
            raise ConfigError(f"lab {self.name} is one cable and has no switch to capture at; make one with a switch")
        return Tap.start(path, _keeper(state), ethertype)

    def down(self) -> None:
        """End the lab, which takes at most about 3 s; one that has ended already is no error.

        Raises:
            LinkError: It does not end.
        """
        state = self._directory.await_state()
        if state is not None and not _keeper(state).end(signal.SIGTERM, _DOWN_S):
            _keeper(state).end(signal.SIGKILL, _DOWN_S)
        self._reap_guard()
        if not self._directory.wait_gone():
            raise LinkError(f"lab {self.name} does not end; see {self._directory.log('keeper')}")

    def _await_ready(self, ready: int, timeout_s: float) -> None:
        """Wait for the keeper's announcement."""
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([ready], [], [], timeout_s)[0]:
                raise NapuTimeoutError(f"the keeper of lab {self.name} says nothing: {self._keeper_log()}")
            piece = os.read(ready, 65536)
            if not piece:
                raise LinkError(f"the keeper of lab {self.name} ended: {self._keeper_log()}")
            line += piece
        failure = json.loads(line)
        if failure:
            raise _FAILURES[failure["error"]](f"lab {self.name}: {failure['message']}")

    def _keeper_log(self) -> str:
        return log_tail(self._directory.log("keeper"))

    def _reap_guard(self) -> None:
        if self._guard is None:
            return
        try:
            self._guard.wait(_DOWN_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        self._guard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()


def _keeper(state: LabState) -> ProcessIdentity:
    if state.keeper is None:
        raise ClosedError(f"lab {state.name} has no keeper, so it is none of namespaces")
    return state.keeper


def _start_keeper(
    where: list[str], arguments: list[str], lock: int, log: Path
) -> tuple["subprocess.Popen[bytes]", int]:
    """Start the keeper below its guard; return the guard and the descriptor that the keeper announces on.

    The lock is inherited by both, so it is free only when everything in the lab is gone.
    """
    python = [sys.executable, "-m"]
    ready, ready_writer = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, ready_writer)
        owner = os.pidfd_open(os.getpid())
        stack.callback(os.close, owner)
        output = stack.enter_context(log.open("wb"))
        keeper = ["host_sdk.lab.keeper", f"--ready-fd={ready_writer}", f"--owner-fd={owner}", *arguments]
        guard = subprocess.Popen(
            [*python, "host_sdk.lab.enter", *where, "--", *python, *keeper],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(lock, ready_writer, owner),
            start_new_session=True,
        )
    return guard, ready
