"""What is told about a running lab; that of namespaces has its keeper write it to ``state.json``."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from host_sdk.lab.process import ProcessIdentity
from host_sdk.wire.errors import ConfigError, DeviceError


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node of a lab.

    Attributes:
        name: Its name in the topology.
        mac: Its address.
        pid: Its process, as seen from outside the lab; 0 where there is none.
        log: File that its output goes to; empty where an engine keeps it.
        flash: Directory or volume of its flash; empty for a host.
        exit_code: How it ended (negative: by that signal); None while it runs.
        announcement: What it announced when it began to serve.
        log_tail: The last lines of its log once it has ended.
        condition: How it is: ``starting``, ``up``, ``unhealthy`` (its own check fails), ``paused``, ``unplugged``,
            ``restarting`` or ``ended``.
        command: What it runs, argument by argument; nothing for a host.
    """

    name: str
    mac: str
    pid: int
    log: str
    flash: str = ""
    exit_code: int | None = None
    announcement: dict[str, object] | None = None
    log_tail: str = ""
    condition: str = "up"
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabState:
    """A lab as it was last seen.

    Attributes:
        name: Its name.
        phase: ``starting`` until all nodes serve, then ``up``.
        keeper: The process that holds it, with the switch in its network namespace; None where an engine does.
        mtu: Bytes of the largest PDU on its cables.
        link: What carries the appliances' frames.
        cabling: What joins its nodes.
        hosts: The hosts, in the topology's order.
        appliances: The appliances, likewise.
        driver: What made it.
    """

    name: str
    phase: Literal["starting", "up"]
    keeper: ProcessIdentity | None
    mtu: int
    link: str
    cabling: str
    hosts: tuple[NodeState, ...]
    appliances: tuple[NodeState, ...]
    driver: str = "netns"

    @property
    def host(self) -> NodeState:
        """The first host: whom commands act as."""
        return self.hosts[0]

    @property
    def nodes(self) -> tuple[NodeState, ...]:
        """All nodes, in the order of the switch's ports: hosts, then appliances."""
        return (*self.hosts, *self.appliances)

    def to_json(self) -> str:
        """Return the state as JSON; :meth:`from_json` reads it back."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "LabState":
        """Read what :meth:`to_json` wrote.

        Raises:
            DeviceError: It is that of another version.
        """
        data = json.loads(text)
        try:
            data["keeper"] = ProcessIdentity(**data["keeper"]) if data["keeper"] else None
            for key in ("hosts", "appliances"):
                data[key] = tuple(NodeState(**{**node, "command": tuple(node["command"])}) for node in data[key])
            return cls(**data)
        except (KeyError, TypeError):
            name, keeper = data.get("name"), data.get("keeper")
            raise DeviceError(
                f"lab {name} was made by another version of napu; take it down with that, or end {keeper}"
            ) from None

    def find(self, name: str, *, running: bool = False) -> NodeState:
        """Return the node of a name, hosts included.

        Raises:
            ConfigError: There is none; or it has ended, and was to be ``running``.
        """
        node = self.node(name)
        if node is None:
            known = ", ".join(each.name for each in self.nodes)
            raise ConfigError(f"lab {self.name} has no node {name}; it has {known}")
        if running and node.exit_code is not None:
            raise ConfigError(f"{name} of lab {self.name} has ended, with {node.exit_code}; bring the lab up again")
        return node

    def node(self, name: str) -> NodeState | None:
        """Return the node of a name, hosts included."""
        return next((node for node in self.nodes if node.name == name), None)
