"""A lab as data: which appliances, which host, what cable."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from host_sdk.lab.reader import Reader
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.links.faults import parse_faults
from host_sdk.wire.schema import MIN_MTU

DEFAULT_MTU = 1500
JUMBO_MTU = 3400  # as much as a veth pair takes with XDP in native mode
MAX_MTU = 9000  # with XDP in generic mode, or AF_PACKET
MAX_APPLIANCES = 254  # the last octet of a MAC address that the lab assigns
LINKS = ("auto", "xdp", "packet")
CABLINGS = ("switch", "direct")
SWITCH = "switch"  # how the switch is named where a node's name is asked for

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_MAC = re.compile(r"02(:[0-9a-f]{2}){5}")
_RESERVED = frozenset({SWITCH, "keeper"})


def default_mac(index: int) -> str:
    """Return the address that a lab gives to its n-th appliance, counted from 1; 0 is the host's."""
    return f"02:6e:61:70:75:{index:02x}"


def check_name(name: str, what: str) -> str:
    """Return a name that is fit for a lab or a node.

    Raises:
        ConfigError: It is not.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise ConfigError(
            f"{what}: {name!r} is no name; use 1 to 32 of a-z, 0-9 and inner hyphens, and none of "
            f"{', '.join(sorted(_RESERVED))}"
        )
    return name


def _check_mac(mac: str, what: str) -> None:
    if not _MAC.fullmatch(mac):
        raise ConfigError(f"{what}: {mac!r} is no MAC address for a lab; write 02:xx:xx:xx:xx:xx, lower case")


@dataclass(frozen=True, slots=True)
class Appliance:
    """One appliance of a lab.

    Attributes:
        name: Unique in the lab; names the node's log and flash as well.
        mac: Its address, ``02:xx:xx:xx:xx:xx`` in lower case.
        profile: Name of the hardware profile.
        arguments: Further arguments for the node's command line.
        command: What the node runs, argument by argument. ``{ready_fd}`` becomes the number of the descriptor
            on which the node writes one JSON object in one line when it serves, ``{flash}`` its flash
            directory, ``{faults}`` the socket at which its faults can be changed.
        faults_in: Damage to frames that arrive, as :func:`host_sdk.wire.links.faults.parse_faults` reads it.
        faults_out: Damage to frames that are sent.
        fault_seed: Of the damage: the same frames get the same.
    """

    name: str
    mac: str
    profile: str = "napu-s"
    arguments: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    faults_in: str = ""
    faults_out: str = ""
    fault_seed: int = 0

    def __post_init__(self) -> None:
        check_name(self.name, "appliance")
        _check_mac(self.mac, f"appliance {self.name}")
        for key, text in (("faults_in", self.faults_in), ("faults_out", self.faults_out)):
            try:
                parse_faults(text)
            except ConfigError as error:
                raise ConfigError(f"appliance {self.name}: {key}: {error}") from None
        if not 0 <= self.fault_seed < 1 << 63:
            raise ConfigError(f"appliance {self.name}: fault_seed is {self.fault_seed}; give 0 to 2^63 - 1")
        if not self.profile:
            raise ConfigError(f"appliance {self.name}: the profile is empty; name one, or leave it out")
        if self.command and not any("{ready_fd}" in argument for argument in self.command):
            raise ConfigError(
                f"appliance {self.name}: the command has no {{ready_fd}}, so the lab would never know that "
                "it serves; add it where the command takes the number of a descriptor"
            )


@dataclass(frozen=True, slots=True)
class Host:
    """The lab's host: a namespace from which one sends.

    Attributes:
        name: As an appliance's.
        mac: As an appliance's.
    """

    name: str = "host"
    mac: str = default_mac(0)

    def __post_init__(self) -> None:
        check_name(self.name, "host")
        _check_mac(self.mac, f"host {self.name}")


@dataclass(frozen=True, slots=True)
class Topology:
    """Appliances and a host at one switch.

    Attributes:
        name: Unique among the labs of one user on one machine.
        appliances: 1 to 254 of them.
        host: The host.
        mtu: Bytes of the largest PDU on every cable, 576 to 9000.
        link: What carries the appliances' frames: ``auto``, ``xdp`` or ``packet``.
        cabling: ``switch``, or ``direct``: one cable from the host to the only appliance, and nothing to capture at.

    Raises:
        ConfigError: A value is out of range, or names or addresses repeat.
    """

    name: str
    appliances: tuple[Appliance, ...]
    host: Host = field(default_factory=Host)
    mtu: int = DEFAULT_MTU
    link: str = "auto"
    cabling: str = "switch"

    def __post_init__(self) -> None:
        check_name(self.name, "lab")
        if not 1 <= len(self.appliances) <= MAX_APPLIANCES:
            count = len(self.appliances)
            raise ConfigError(f"lab {self.name} has {count} appliances; give 1 to {MAX_APPLIANCES}")
        if not MIN_MTU <= self.mtu <= MAX_MTU:
            raise ConfigError(f"lab {self.name}: mtu is {self.mtu}; give {MIN_MTU} to {MAX_MTU} bytes")
        if self.link not in LINKS:
            raise ConfigError(f"lab {self.name}: link {self.link!r} is not known; give {', '.join(LINKS)}")
        if self.cabling not in CABLINGS:
            raise ConfigError(f"lab {self.name}: cabling {self.cabling!r} is not known; give {', '.join(CABLINGS)}")
        if self.cabling == "direct" and len(self.appliances) > 1:
            raise ConfigError(f"lab {self.name}: a direct cable has two ends; give one appliance, or use a switch")
        nodes: list[Host | Appliance] = [self.host, *self.appliances]
        for what, values in (("name", [node.name for node in nodes]), ("mac", [node.mac for node in nodes])):
            for value in values:
                if values.count(value) > 1:
                    raise ConfigError(f"lab {self.name}: two nodes have the {what} {value}; change one")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> "Topology":
        """Read a topology from plain data, as YAML or JSON give it; ``mac`` may be left out everywhere.

        Raises:
            ConfigError: A key is unknown or missing, or a value is of the wrong kind or out of range.
        """
        lab = Reader(mapping, "lab", ("name", "appliances", "host", "mtu", "link", "cabling"))
        host = Reader(lab.mapping("host"), "host", ("name", "mac"))
        return cls(
            name=lab.text("name"),
            appliances=tuple(
                _read_appliance(entry, index) for index, entry in enumerate(lab.sequence("appliances"), 1)
            ),
            host=Host(name=host.text("name", "host"), mac=host.text("mac", default_mac(0))),
            mtu=lab.number("mtu", DEFAULT_MTU),
            link=lab.text("link", "auto"),
            cabling=lab.text("cabling", "switch"),
        )

    def to_mapping(self) -> dict[str, object]:
        """Return the topology as plain data; :meth:`from_mapping` reads it back."""
        return {
            "name": self.name,
            "appliances": [
                {
                    "name": appliance.name,
                    "mac": appliance.mac,
                    "profile": appliance.profile,
                    "arguments": list(appliance.arguments),
                    "command": list(appliance.command),
                    "faults_in": appliance.faults_in,
                    "faults_out": appliance.faults_out,
                    "fault_seed": appliance.fault_seed,
                }
                for appliance in self.appliances
            ],
            "host": {"name": self.host.name, "mac": self.host.mac},
            "mtu": self.mtu,
            "link": self.link,
            "cabling": self.cabling,
        }

    def with_commands(self, command: Callable[[Appliance], Sequence[str]]) -> "Topology":
        """Return the topology with the command of every appliance filled in.

        Raises:
            ConfigError: A command has no ``{ready_fd}``.
        """
        return replace(self, appliances=tuple(replace(each, command=tuple(command(each))) for each in self.appliances))


def _read_appliance(entry: object, index: int) -> Appliance:
    keys = ("name", "mac", "profile", "arguments", "command", "faults_in", "faults_out", "fault_seed")
    reader = Reader(entry, f"appliances[{index - 1}]", keys)
    return Appliance(
        name=reader.text("name"),
        mac=reader.text("mac", default_mac(index)),
        profile=reader.text("profile", "napu-s"),
        arguments=reader.texts("arguments"),
        command=reader.texts("command"),
        faults_in=reader.text("faults_in", ""),
        faults_out=reader.text("faults_out", ""),
        fault_seed=reader.number("fault_seed", 0),
    )
