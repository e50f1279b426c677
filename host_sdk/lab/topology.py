"""A lab as data: which appliances, which hosts, what cables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from host_sdk.lab import file_format
from host_sdk.lab.file_format import DEFAULT_MTU, DEFAULT_PROFILE, MAX_APPLIANCES, MUTUAL, OPEN
from host_sdk.lab.reader import Kind, Place, Values
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.links.faults import parse_faults

_MAC = "02:6e:61:70:{:02x}:{:02x}"
_FIRST_HOSTS_OCTET = 0x75  # where the appliances are as well, which begin at 1
_OTHER_HOSTS_OCTET = 0x74


def default_mac(index: int) -> str:
    """Return the address that a lab gives to its n-th appliance, counted from 1; 0 is the first host's."""
    return _MAC.format(_FIRST_HOSTS_OCTET, index)


def default_host_mac(index: int) -> str:
    """Return the address that a lab gives to its n-th host, counted from 0."""
    return _MAC.format(_OTHER_HOSTS_OCTET, index) if index else default_mac(0)


def check_name(name: str, what: str) -> str:
    """Return a name that is fit for a lab or a node.

    Raises:
        ConfigError: It is not.
    """
    return str(_checked(file_format.NAME, name, f"the name of the {what}"))


def _checked(kind: Kind, value: object, what: str) -> Any:
    """Return a value that did not have to come out of a file, checked as if it had."""
    return kind.read(value, Place(what))


@dataclass(frozen=True, slots=True)
class Appliance:
    """One appliance of a lab.

    Attributes:
        name: Unique in the lab; names the node's log and flash as well.
        mac: Its address, ``02:xx:xx:xx:xx:xx`` in lower case.
        profile: Name of the hardware profile, or path of its .toml file.
        arguments: Further arguments for the node's command line.
        command: What the node runs, argument by argument; nothing for what the driver runs by itself. ``{ready_fd}``
            becomes the number of the descriptor on which the node writes one JSON object in one line when it serves,
            ``{flash}`` its flash directory, ``{faults}`` the socket at which its faults can be changed.
        faults_in: Damage to frames that arrive, as :func:`host_sdk.wire.links.faults.parse_faults` reads it.
        faults_out: Damage to frames that are sent.
        fault_seed: Of the damage: the same frames get the same.
        pipelines: Directories of the pipelines that a new flash gets; those that ship with the project when empty.
        firmware: File of the firmware image that a new boot flash gets; empty for the installation's own.
        access: Who may control it: ``open`` or ``mutual``.
        credentials: Directory of its identity, where access is mutual.
        mtu: Bytes of the largest PDU on its cable; 0 for those of the lab.
    """

    name: str
    mac: str
    profile: str = DEFAULT_PROFILE
    arguments: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    faults_in: str = ""
    faults_out: str = ""
    fault_seed: int = 0
    pipelines: tuple[str, ...] = ()
    firmware: str = ""
    access: str = OPEN
    credentials: str = ""
    mtu: int = 0

    def __post_init__(self) -> None:
        check_name(self.name, "appliance")
        what = f"appliance {self.name}"
        _checked(file_format.MAC, self.mac, f"{what}: mac")
        for key, text in (("faults_in", self.faults_in), ("faults_out", self.faults_out)):
            try:
                parse_faults(text)
            except ConfigError as error:
                raise ConfigError(f"{what}: {key}: {error}") from None
        _checked(file_format.SEED, self.fault_seed, f"{what}: fault_seed")
        _checked(file_format.PROFILE, self.profile, f"{what}: profile")
        _checked(file_format.ACCESS, self.access, f"{what}: access")
        if bool(self.credentials) != (self.access == MUTUAL):
            raise ConfigError(f"{what}: access mutual needs credentials, and open has none; give both or neither")
        if self.mtu:
            _checked(file_format.MTU, self.mtu, f"{what}: mtu")
        if self.command and not any("{ready_fd}" in argument for argument in self.command):
            raise ConfigError(
                f"{what}: the command has no {{ready_fd}}, so the lab would never know that "
                "it serves; add it where the command takes the number of a descriptor"
            )


@dataclass(frozen=True, slots=True)
class Host:
    """A host of a lab: a machine from which one sends.

    Attributes:
        name: As an appliance's.
        mac: As an appliance's.
        mtu: As an appliance's.
    """

    name: str = "host"
    mac: str = default_mac(0)
    mtu: int = 0

    def __post_init__(self) -> None:
        check_name(self.name, "host")
        _checked(file_format.MAC, self.mac, f"host {self.name}: mac")
        if self.mtu:
            _checked(file_format.MTU, self.mtu, f"host {self.name}: mtu")


@dataclass(frozen=True, slots=True)
class Topology:
    """Appliances and hosts at one switch.

    Attributes:
        name: Unique among the labs of one user on one machine, or of one Docker engine.
        appliances: 1 to 254 of them.
        hosts: 1 to 16 of them; the first one is whom commands act as.
        mtu: Bytes of the largest PDU on every cable, 576 to 9000.
        link: What carries the appliances' frames: ``auto``, ``xdp`` or ``packet``.
        cabling: ``switch``, or ``direct``: one cable from the host to the appliance, and nothing to capture at.
        driver: What makes the lab: ``netns`` or ``docker``; empty where that was left open.

    Raises:
        ConfigError: A value is out of range, or names or addresses repeat.
    """

    name: str
    appliances: tuple[Appliance, ...]
    hosts: tuple[Host, ...] = (Host(),)
    mtu: int = DEFAULT_MTU
    link: str = "auto"
    cabling: str = "switch"
    driver: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "lab")
        what = f"lab {self.name}"
        for count, most, plural in (
            (len(self.appliances), MAX_APPLIANCES, "appliances"),
            (len(self.hosts), file_format.MAX_HOSTS, "hosts"),
        ):
            if not 1 <= count <= most:
                raise ConfigError(f"{what} has {count} {plural}; give 1 to {most}")
        _checked(file_format.MTU, self.mtu, f"{what}: mtu")
        _checked(file_format.LINK_KIND, self.link, f"{what}: link")
        _checked(file_format.CABLING, self.cabling, f"{what}: cabling")
        if self.driver:
            _checked(file_format.DRIVER, self.driver, f"{what}: driver")
        if self.cabling == "direct" and len(self.nodes) > 2:
            raise ConfigError(f"{what}: a direct cable has two ends; give one host and one appliance, or use a switch")
        for key, values in (("name", [node.name for node in self.nodes]), ("mac", [node.mac for node in self.nodes])):
            for value in values:
                if values.count(value) > 1:
                    raise ConfigError(f"{what}: two nodes have the {key} {value}; change one")
        for node in self.nodes:
            if node.mtu > self.mtu:
                raise ConfigError(
                    f"{what}: the cable of {node.name} has mtu {node.mtu}, and the lab {self.mtu}; raise the lab's"
                )

    @property
    def host(self) -> Host:
        """The first host."""
        return self.hosts[0]

    @property
    def nodes(self) -> tuple[Host | Appliance, ...]:
        """All nodes, in the order of the switch's ports: hosts, then appliances."""
        return (*self.hosts, *self.appliances)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object], file: str = "") -> "Topology":
        """Read a topology from plain data, as YAML or JSON give it, in the format of docs/labs.md.

        Args:
            mapping: The data.
            file: Name of the file that it comes from, for errors; paths in it are relative to its directory.

        Raises:
            ConfigError: A key is unknown or missing, or a value is of the wrong kind or out of range.
        """
        place = Place("lab", file, getattr(mapping, "line", 0))
        lab = file_format.LAB.read(mapping, place)
        directory = Path(file).absolute().parent if file else None
        try:
            hosts = tuple(_read_host(values, index) for index, values in enumerate(lab["hosts"] or ()))
            groups = _read_appliances(lab["appliances"], directory)
            cables = _Cables(hosts or (Host(),), groups)
            for values in lab["links"]:
                cables.apply(values)
            return cls(
                name=lab["name"],
                appliances=cables.appliances(),
                hosts=cables.hosts(),
                mtu=lab["mtu"],
                link=lab["link"],
                cabling=lab["cabling"],
                driver=lab["driver"],
            )
        except _PlacedError as error:
            raise ConfigError(str(error)) from None
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}" if file else str(error)) from None

    def to_mapping(self) -> dict[str, object]:
        """Return the topology as plain data; :meth:`from_mapping` reads it back."""
        shape: dict[str, object] = {"name": self.name}
        shape |= {"driver": self.driver} if self.driver else {}
        shape |= {"mtu": self.mtu, "link": self.link, "cabling": self.cabling}
        shape["hosts"] = [{"name": host.name, "mac": host.mac} for host in self.hosts]
        shape["appliances"] = [_appliance_mapping(appliance) for appliance in self.appliances]
        shape["links"] = [{"nodes": [node.name], "mtu": node.mtu} for node in self.nodes if node.mtu]
        return shape

    def with_commands(self, command: Callable[[Appliance], Sequence[str]]) -> "Topology":
        """Return the topology with a command for every appliance that has none of its own.

        Raises:
            ConfigError: A command has no ``{ready_fd}``.
        """
        return replace(
            self,
            appliances=tuple(
                each if each.command else replace(each, command=tuple(command(each))) for each in self.appliances
            ),
        )


class _PlacedError(ConfigError):
    """Says already where in the file it is."""


def _placed(values: Values, predicate: str) -> _PlacedError:
    return _PlacedError(str(values.place.error(predicate)))


def _appliance_mapping(appliance: Appliance) -> dict[str, object]:
    """Return an appliance as a lab file has it, without what is as by default."""
    found: dict[str, object] = {"name": appliance.name, "mac": appliance.mac}
    for key in file_format.APPLIANCE.keys:
        value = getattr(appliance, key.name, key.default)
        if value != key.default:
            found[key.name] = list(value) if isinstance(value, tuple) else value
    return found


def _read_host(values: Values, index: int) -> Host:
    return Host(name=values["name"], mac=values["mac"] or default_host_mac(index))


def _read_appliances(entries: Sequence[Values], directory: Path | None) -> list[tuple[str, list[Appliance]]]:
    """Return the appliances, those of an entry together with the name by which links call them."""
    groups: list[tuple[str, list[Appliance]]] = []
    made = 0
    for values in entries:
        group = []
        if values["mac"] and "count" in values.given:
            raise _placed(values, "has both mac and count; leave one of them out")
        for number in range(values["count"] or 1):
            made += 1
            if made > MAX_APPLIANCES:
                raise ConfigError(f"lab: more than {MAX_APPLIANCES} appliances; give 1 to {MAX_APPLIANCES}")
            name = f"{values['name']}{number + 1}" if values["count"] else values["name"]
            try:
                group.append(_read_appliance(values, name, made, number, directory))
            except ConfigError as error:
                raise _placed(values, f"is wrong: {error}") from None
        groups.append((values["name"], group))
    return groups


def _read_appliance(values: Values, name: str, index: int, number: int, directory: Path | None) -> Appliance:
    def path(text: str) -> str:
        return str(directory / text) if directory and text else text

    profile = values["profile"]
    return Appliance(
        name=name,
        mac=values["mac"] or default_mac(index),
        profile=path(profile) if profile.endswith(".toml") else profile,
        arguments=values["arguments"],
        command=values["command"],
        faults_in=values["faults_in"],
        faults_out=values["faults_out"],
        fault_seed=values["fault_seed"] + number,
        pipelines=tuple(path(each) for each in values["pipelines"]),
        firmware=path(values["firmware"]),
        access=values["access"],
        credentials=path(values["credentials"]),
    )


class _Cables:
    """Nodes whose cables are given what links say of them."""

    def __init__(self, hosts: Sequence[Host], groups: Sequence[tuple[str, list[Appliance]]]) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._order = [*hosts]
        self._groups = groups

    def hosts(self) -> tuple[Host, ...]:
        """Return the hosts."""
        return tuple(self._order)

    def appliances(self) -> tuple[Appliance, ...]:
        """Return the appliances."""
        return tuple(appliance for _, group in self._groups for appliance in group)

    def apply(self, values: Values) -> None:
        """Do to cables what one entry of the links says.

        Raises:
            ConfigError: There is no such node, or it has no such link.
        """
        both = [values["faults"], f"rate={values['rate']}" if values["rate"] else ""]
        there, back = [*both, values["faults_in"]], [*both, values["faults_out"]]
        for name in values["nodes"]:
            try:
                found = self._apply_to_hosts(name, values["mtu"], any((*there, *back)))
                found |= self._apply_to_appliances(name, values["mtu"], there, back)
            except ConfigError as error:
                raise _placed(values, f"is wrong: {error}") from None
            if not found:
                known = ", ".join([*(host.name for host in self._order), *(name for name, _ in self._groups)])
                raise _placed(values, f"is at {name}, which is no node; there are {known}")

    def _apply_to_hosts(self, name: str, mtu: int, damaged: bool) -> bool:
        found = False
        for index, host in enumerate(self._order):
            if host.name == name:
                if damaged:
                    raise ConfigError(
                        f"{name} is a host, and rate and faults are those of an appliance's link; name an appliance"
                    )
                self._order[index] = replace(host, mtu=mtu or host.mtu)
                found = True
        return found

    def _apply_to_appliances(self, name: str, mtu: int, there: list[str], back: list[str]) -> bool:
        found = False
        for called, group in self._groups:
            for index, each in enumerate(group):
                if name in (called, each.name):
                    group[index] = replace(
                        each,
                        mtu=mtu or each.mtu,
                        faults_in=",".join(filter(None, (each.faults_in, *there))),
                        faults_out=",".join(filter(None, (each.faults_out, *back))),
                    )
                    found = True
        return found
