"""A lab of containers: up, found by its labels, looked at, down. No file tells of it but what the engine keeps."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

from docker import DockerClient
from docker.errors import APIError
from docker.models.containers import Container

from host_sdk.lab.counters import parse_counters, read_counters
from host_sdk.lab.docker.build import Adapt, build_lab, container_log
from host_sdk.lab.docker.engine import LAB_LABEL, NODE_LABEL, ROLE_LABEL, TOPOLOGY_LABEL, opened_engine
from host_sdk.lab.docker.node_command import FAULTS, check_possible
from host_sdk.lab.docker.parts import APPLIANCE, TAP, flash_name, network_name
from host_sdk.lab.docker.remove import remove_lab
from host_sdk.lab.docker.stream_ring import StreamRing, start_tap
from host_sdk.lab.driver import LinkCounters, Progress
from host_sdk.lab.file_format import SWITCH
from host_sdk.lab.state import LabState, NodeState
from host_sdk.lab.topology import Appliance, Host, Topology, check_name
from host_sdk.wire.errors import ClosedError, ConfigError, DeviceError, NapuError

_TAIL_LINES: Final = 10
_SIGNALLED: Final = 128  # an exit status above says which signal it was
_FAILURES: Final[dict[str, type[NapuError]]] = {cls.__name__: cls for cls in (ConfigError, DeviceError)}
_OWN_COMMAND: Final = [sys.executable, "-m", "host_sdk.cli.main"]


class DockerLab:
    """A running lab of containers. Also a context manager that takes it down.

    Attributes:
        name: Its name.
        driver: What made it.
    """

    driver = "docker"

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def up(
        cls,
        topology: Topology,
        *,
        timeout_s: float,
        progress: Progress = lambda _: None,
        adapt: Adapt = lambda _, settings: settings,
    ) -> Self:
        """Build a lab and wait until all of its appliances serve. It outlives this process.

        Args:
            topology: What to build.
            timeout_s: Seconds that appliances have until they serve, from when the last one was started.
            progress: Called with a few words on what has just been done.
            adapt: Given an appliance and how its container is to be made, in the words of the Docker SDK, returns
                how it is made.

        Raises:
            ConfigError: A lab or container of this name is there, or containers cannot have what the topology says.
            EngineUnavailableError: No engine answers.
            ImageMissingError: The engine does not have the image.
            LinkPrivilegeError: The engine refuses the capability that raw frames need.
            EngineError: The engine refuses anything else.
            DeviceError: An appliance ended before it served; the message ends with its log.
            NapuTimeoutError: An appliance did not serve in time.
        """
        check_possible(topology)
        with opened_engine() as client:
            if _networks(client, topology.name):
                raise ConfigError(
                    f"lab {topology.name} is up already; end it with 'napu lab down --name {topology.name}' "
                    "or choose another name"
                )
            try:
                build_lab(client, topology, timeout_s, progress, adapt)
            except BaseException:
                remove_lab(client, topology.name)
                raise
        return cls(topology.name)

    @classmethod
    def find(cls, name: str) -> Self:
        """Return the lab of a name, whoever has brought it up in this engine.

        Raises:
            ConfigError: There is none.
            EngineUnavailableError: No engine answers.
        """
        check_name(name, "lab")
        with opened_engine() as client:
            if not _networks(client, name):
                raise ConfigError(f"no lab {name} is up in this engine; 'napu lab status' lists those that are")
        return cls(name)

    @staticmethod
    def names() -> list[str]:
        """Return the names of the labs in the engine.

        Raises:
            EngineUnavailableError: No engine answers.
        """
        with opened_engine() as client:
            found = client.api.networks(filters={"label": TOPOLOGY_LABEL})
        return sorted(network["Labels"][LAB_LABEL] for network in found)

    def topology(self) -> Topology:
        """Return what the lab was made from.

        Raises:
            ClosedError: The lab has ended.
        """
        with opened_engine() as client:
            return self._topology(client)

    def _topology(self, client: DockerClient) -> Topology:
        found = _networks(client, self.name)
        if not found:
            raise ClosedError(f"lab {self.name} is not up; bring it up again with 'napu lab up'")
        return Topology.from_mapping(json.loads(found[0]["Labels"][TOPOLOGY_LABEL]))

    def status(self) -> LabState:
        """Return how the lab is.

        Raises:
            ClosedError: It has ended.
        """
        with opened_engine() as client:
            topology = self._topology(client)
            containers = _containers(client, self.name)
            hosts = tuple(self._node(host, containers.get(host.name)) for host in topology.hosts)
            appliances = tuple(self._node(each, containers.get(each.name)) for each in topology.appliances)
        serving = all(node.announcement for node in appliances if node.exit_code is None)
        return LabState(
            name=self.name,
            phase="up" if serving else "starting",
            keeper=None,
            mtu=topology.mtu,
            link=topology.link,
            cabling=topology.cabling,
            hosts=hosts,
            appliances=appliances,
            driver=self.driver,
        )

    def _node(self, node: Host | Appliance, container: Container | None) -> NodeState:
        """Return how a node is; a container that was removed counts as killed."""
        flash = flash_name(self.name, node.name) if isinstance(node, Appliance) else ""
        if container is None:
            return NodeState(
                node.name, node.mac, 0, "", flash, -signal.SIGKILL, None, "(its container is gone)", "ended"
            )
        state: dict[str, Any] = container.attrs["State"]
        ended = state["Status"] in ("exited", "dead")
        announcement = container_log(container).announcement() if flash and not ended else None
        return NodeState(
            name=node.name,
            mac=node.mac,
            pid=state["Pid"],
            log="",
            flash=flash,
            exit_code=_exit_code(state["ExitCode"]) if ended else None,
            announcement=announcement,
            log_tail=container_log(container).tail(_TAIL_LINES) if ended else "",
            condition=_condition(container, network_name(self.name), serving=bool(announcement or not flash)),
            command=tuple(container.attrs["Config"]["Cmd"] or ()) if flash else (),
        )

    @contextlib.contextmanager
    def _container(self, node: str, *, running: bool = False) -> Iterator[Container]:
        """Give a node's container.

        Raises:
            ConfigError: There is no such node, or it has ended and was to be ``running``.
            ClosedError: The lab has ended.
            EngineError: The engine refuses what is done with it.
        """
        with opened_engine() as client:
            found = _containers(client, self.name).get(node)
            if found is None:
                known = ", ".join(each.name for each in self._topology(client).nodes)
                raise ConfigError(f"lab {self.name} has no node {node}; it has {known}")
            if running and found.status in ("exited", "dead"):
                code = _exit_code(found.attrs["State"]["ExitCode"])
                raise ConfigError(f"{node} of lab {self.name} has ended, with {code}; bring the lab up again")
            yield found

    def inside(self, node: str, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a command in a node's network namespace, with the files of this machine.

        Where this process may not enter that, it is one that runs it in the container.

        Raises:
            ConfigError: There is no such node, or it has ended.
            ClosedError: The lab has ended.
        """
        with self._container(node, running=True) as container:
            pid: int = container.attrs["State"]["Pid"]
            if os.geteuid() == 0 and _is_here(pid, str(container.id)):
                return [sys.executable, "-m", "host_sdk.lab.enter", "--pid", str(pid), "--", *command]
        return self.exec_command(node, command)

    def exec_command(self, node: str, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a command in a node's container.

        Raises:
            ConfigError: There is no such node, or it has ended.
            ClosedError: The lab has ended.
        """
        there = list(command)
        if there[: len(_OWN_COMMAND)] == _OWN_COMMAND:
            there[: len(_OWN_COMMAND)] = ["napu"]
        elif there[:1] == [sys.executable]:
            there[0] = "python-net-raw"
        with self._container(node, running=True) as container:
            return [sys.executable, "-m", "host_sdk.lab.docker.execute", str(container.name), "--", *there]

    def logs(self, node: str, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of a node's output; with ``follow`` go on until it ends.

        Raises:
            ConfigError: There is no such node.
            ClosedError: The lab has ended.
        """
        with self._container(node) as container:
            yield from container_log(container).lines(follow=follow)

    def faults(self, node: str, faults_in: str | None = None, faults_out: str | None = None) -> tuple[str, str]:
        """Change the damage that an appliance does to its frames, from now on; return what it is then.

        Raises:
            ConfigError: There is no such appliance, or a text is none of faults.
            ClosedError: The lab has ended.
            DeviceError: The appliance does not answer.
        """
        wanted = json.dumps({"in": faults_in, "out": faults_out})
        with self._container(node, running=True) as container:
            if container.labels[ROLE_LABEL] != APPLIANCE:
                raise ConfigError(f"{node} of lab {self.name} is a host; name an appliance")
            if container.status != "running":
                raise DeviceError(f"{node} is {container.status}, so it says nothing of its faults; let it go on first")
            done = container.exec_run(["python", "-m", "host_sdk.lab.fault_client", FAULTS, wanted])
        text = bytes(done.output).decode(errors="replace").strip()  # type: ignore[arg-type]  # it is no stream
        try:
            answer = json.loads(text)
        except ValueError:
            raise DeviceError(f"{node} does not say which faults there are: {text}") from None
        if "error" in answer:
            raise _FAILURES[answer["error"]](answer["message"])
        return answer["in"], answer["out"]

    def signal(self, node: str, number: signal.Signals) -> None:
        """Send a signal to a node's process.

        Raises:
            ConfigError: There is no such node, or it has ended.
            ClosedError: The lab has ended.
        """
        with self._container(node, running=True) as container:
            container.kill(signal=number.name)

    def pause(self, node: str) -> None:
        """Stop a node, with all its processes; see :meth:`signal` for what is raised."""
        with self._container(node, running=True) as container:
            if container.status != "paused":
                container.pause()

    def resume(self, node: str) -> None:
        """Let a paused node go on; see :meth:`signal` for what is raised."""
        with self._container(node, running=True) as container:
            if container.status == "paused":
                container.unpause()

    def unplug(self, node: str) -> None:
        """Take a node off the network: its interface goes away; see :meth:`signal` for what is raised."""
        with self._container(node, running=True) as container:
            if network_name(self.name) in container.attrs["NetworkSettings"]["Networks"]:
                assert container.client  # noqa: S101 - it comes from one
                container.client.networks.get(network_name(self.name)).disconnect(container)

    def plug(self, node: str) -> None:
        """Put an unplugged node back, with the address it had; see :meth:`signal` for what is raised."""
        with self._container(node, running=True) as container:
            if network_name(self.name) not in container.attrs["NetworkSettings"]["Networks"]:
                assert container.client  # noqa: S101 - it comes from one
                mac = next(each.mac for each in self._topology(container.client).nodes if each.name == node)
                container.client.networks.get(network_name(self.name)).connect(container, mac_address=mac)

    def ring(self, point: str) -> StreamRing:
        """Begin to capture at the switch or at a node's cable, by a container beside it.

        Raises:
            ConfigError: There is no such point.
            ClosedError: The lab has ended.
            LinkError: The capture cannot be had.
        """
        topology = self.topology()
        if point == SWITCH:
            return start_tap(self.name, "", "")
        with self._container(point, running=True) as container:
            mac = next(node.mac for node in topology.nodes if node.name == point)
            return start_tap(self.name, str(container.id), mac)

    def counters(self) -> dict[str, LinkCounters]:
        """Return by node what went over its cable; of nodes that run.

        Raises:
            ClosedError: The lab has ended.
        """
        found = {}
        with opened_engine() as client:
            for node, container in _containers(client, self.name).items():
                if container.status == "running":
                    with contextlib.suppress(APIError):  # it has just ended
                        found[node] = _counters(container)
            if not found:
                self._topology(client)
        return found

    def down(self) -> None:
        """End the lab; one that has ended already is no error.

        Raises:
            EngineError: The engine refuses, or does not answer.
        """
        with opened_engine() as client:
            remove_lab(client, self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()


def _networks(client: DockerClient, name: str) -> list[dict[str, Any]]:
    found = client.api.networks(filters={"label": [f"{LAB_LABEL}={name}", TOPOLOGY_LABEL]})
    return list(found)


def _containers(client: DockerClient, name: str) -> dict[str, Container]:
    """Return the containers of a lab's nodes, ended ones too."""
    found = client.containers.list(all=True, ignore_removed=True, filters={"label": f"{LAB_LABEL}={name}"})
    return {container.labels[NODE_LABEL]: container for container in found if container.labels[ROLE_LABEL] != TAP}


def _condition(container: Container, network: str, *, serving: bool) -> str:
    status: str = container.status
    if status in ("exited", "dead"):
        return "ended"
    if status in ("paused", "restarting"):
        return status
    if status == "running" and network not in container.attrs["NetworkSettings"]["Networks"]:
        return "unplugged"
    if not serving or status == "created":
        return "starting"
    health = (container.attrs["State"].get("Health") or {}).get("Status")
    return "unhealthy" if health == "unhealthy" else "up"


def _exit_code(status: int) -> int:
    return _SIGNALLED - status if status > _SIGNALLED else status


def _counters(container: Container) -> LinkCounters:
    """Return what went over a container's cable. The engine's own statistics of it are up to a second old."""
    pid: int = container.attrs["State"]["Pid"]
    if _is_here(pid, str(container.id)):
        found = read_counters(pid)
    else:
        output = bytes(container.exec_run(["cat", "/proc/net/dev"]).output)  # type: ignore[arg-type]  # it is no stream
        found = parse_counters(output.decode())
    cables = [each for name, each in found.items() if name != "lo"]
    return LinkCounters(*(sum(getattr(each, key) for each in cables) for key in LinkCounters.__slots__))


def _is_here(pid: int, container: str) -> bool:
    """Return whether a container's process runs on this machine, where it has this number."""
    try:
        return pid > 0 and container in Path("/proc", str(pid), "cgroup").read_text()
    except OSError:
        return False
