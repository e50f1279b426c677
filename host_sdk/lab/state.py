"""What a lab's keeper tells about its lab, in the file ``state.json``."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from host_sdk.lab.process import ProcessIdentity


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node of a lab.

    Attributes:
        name: Its name in the topology.
        mac: Its address.
        pid: Its process, as seen from outside the lab; 0 before there is one.
        log: File that its output goes to.
        flash: Directory of its flash; empty for the host.
        exit_code: How it ended (negative: by that signal); None while it runs.
        announcement: What it announced when it began to serve.
        log_tail: The last lines of its log once it has ended.
    """

    name: str
    mac: str
    pid: int
    log: str
    flash: str = ""
    exit_code: int | None = None
    announcement: dict[str, object] | None = None
    log_tail: str = ""


@dataclass(frozen=True, slots=True)
class LabState:
    """A lab as its keeper last saw it.

    Attributes:
        name: Its name.
        phase: ``starting`` until all nodes serve, then ``up``.
        keeper: The process that holds it; the switch is in this one's network namespace.
        mtu: Bytes of the largest PDU on its cables.
        link: What carries the appliances' frames.
        cabling: What joins its nodes.
        host: The process that holds the host's network namespace.
        appliances: The appliances, in the topology's order.
    """

    name: str
    phase: Literal["starting", "up"]
    keeper: ProcessIdentity
    mtu: int
    link: str
    cabling: str
    host: NodeState
    appliances: tuple[NodeState, ...]

    def to_json(self) -> str:
        """Return the state as JSON; :meth:`from_json` reads it back."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "LabState":
        """Read what :meth:`to_json` wrote."""
        data = json.loads(text)
        data["keeper"] = ProcessIdentity(**data["keeper"])
        data["host"] = NodeState(**data["host"])
        data["appliances"] = tuple(NodeState(**node) for node in data["appliances"])
        return cls(**data)

    def node(self, name: str) -> NodeState | None:
        """Return the node of a name, the host included."""
        return next((node for node in (self.host, *self.appliances) if node.name == name), None)
