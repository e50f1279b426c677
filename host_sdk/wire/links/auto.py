"""Opening a link from a line of text, and choosing the best one that works here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from host_sdk.wire.errors import ConfigError, InterfaceError, LinkError
from host_sdk.wire.links.base import Link
from host_sdk.wire.links.door import DoorLink
from host_sdk.wire.links.followed import FollowedLink, InterfaceLink
from host_sdk.wire.links.interface import Interface, find_interface, list_interfaces
from host_sdk.wire.links.packet import PacketLink
from host_sdk.wire.links.udp import UdpLink
from host_sdk.wire.links.xdp import XdpLink
from host_sdk.wire.schema import ETHERTYPE, UDP_PORT

SPECS = ("auto", "auto:IFACE", "xdp:IFACE", "packet:IFACE", "udp", "udp:HOST[:PORT]")
ANY = "any"  # as an IFACE: the Ethernet interface that is up, and after it the one that comes
_KINDS: dict[str, type[XdpLink] | type[PacketLink]] = {"xdp": XdpLink, "packet": PacketLink}  # best first
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - a link listens where frames may come from, as on Ethernet
_ROUTES = Path("/proc/thread-self/net/route")


@dataclass(frozen=True, slots=True)
class Choice:
    """A link that was opened.

    Attributes:
        link: The link; its new owner closes it.
        reason: One sentence: which link it is and why the better ones are not.
    """

    link: Link
    reason: str


class Probe(NamedTuple):
    """Whether a kind of link works on an interface, and why not or what to know of it."""

    kind: str
    usable: bool
    reason: str


def open_link(
    spec: str,
    *,
    ethertype: int = ETHERTYPE,
    port: int = UDP_PORT,
    peers: Sequence[str] = (),
    node: bool = False,
) -> Choice:
    """Open the link that a line of text describes.

    Args:
        spec: One of SPECS. ``auto`` tries xdp, packet and udp in this order; without an interface it takes
            the Ethernet interface that is up, of several the one of the default route, or else the first. So
            does any kind with ``any`` for IFACE, and follows: when that interface goes away, it goes on upon the
            one that comes.
        ethertype: EtherType on Ethernet.
        port: UDP port to bind to where the spec has none; 0 has the kernel choose one.
        peers: Addresses that a broadcast goes to over UDP.
        node: Whether a node is to serve on it: one on Ethernet waits for the return of an interface that was named,
            too, and has a door for who asks from this machine (:mod:`host_sdk.wire.links.door`).

    Raises:
        ConfigError: The text is none of SPECS.
        InterfaceError: The interface named is missing, down, or not Ethernet.
        LinkError: The kind asked for cannot be opened; of ``auto``, none can.
    """
    kind, colon, place = spec.partition(":")
    if colon and not place:
        raise ConfigError(_unknown(spec))
    if kind == "udp":
        host, _, number = place.partition(":")
        if number and not (number.isdecimal() and int(number) <= 0xFFFF):
            raise ConfigError(f"link {spec!r}: a UDP port is a number up to 65535; try udp:{host}:{UDP_PORT}")
        udp = UdpLink(host or _EVERYWHERE, int(number) if number else port, peers=peers)
        return Choice(udp, f"udp:{udp.format_address(udp.address)} was asked for.")
    if kind in _KINDS and place:
        modes: list[str] = []
        link = _open_on(place, _Opening(_KINDS[kind], ethertype, node, modes.append))
        return Choice(link, f"{spec} {f'({modes[0]} mode) ' if modes else ''}was asked for.")
    if kind == "auto":
        return _open_best(place, ethertype, lambda: UdpLink(_EVERYWHERE, port, peers=peers), node)
    raise ConfigError(_unknown(spec))


def _unknown(spec: str) -> str:
    return f"{spec!r} is not a link; write one of {', '.join(SPECS)}"


@dataclass(frozen=True, slots=True)
class _Opening:
    """How a link is opened on an interface: its kind, whether a node is to serve on it, who is told XDP's mode."""

    kind: type[PacketLink] | type[XdpLink]
    ethertype: int
    node: bool
    tell: Callable[[str], None] = lambda _: None

    def on(self, place: str) -> InterfaceLink:
        link = self.kind(_any_interface() if place == ANY else place, ethertype=self.ethertype)
        if isinstance(link, XdpLink):
            self.tell(link.mode)
        if not self.node:
            return link
        try:
            return DoorLink(link, self.ethertype)
        except OSError as error:
            link.close()
            raise LinkError(f"{link.kind}:{link.interface} cannot be given a door: {error}") from error


def _open_on(place: str, opening: _Opening) -> Link:
    """Open a link on an interface, and follow that where it is any, or a node's."""
    return FollowedLink(partial(opening.on, place)) if opening.node or place == ANY else opening.on(place)


def _any_interface() -> str:
    interface = default_interface()
    if interface is None:
        raise InterfaceError("no Ethernet interface is up; bring one up, or use udp")
    return interface.name


def _open_best(name: str, ethertype: int, open_udp: Callable[[], UdpLink], node: bool) -> Choice:
    """Open the first link that works; an interface that was named must exist and be up."""
    interface = find_interface(name) if name not in ("", ANY) else default_interface()
    # A node goes to another interface only where none was named.
    place = ANY if name == ANY or (node and not name) else interface.name if interface else ""
    refusals = []
    if interface is None:
        refusals.append("no Ethernet interface is up")
    else:
        for kind in _KINDS.values():
            try:
                link = _open_on(place, _Opening(kind, ethertype, node))
            except LinkError as error:
                refusals.append(f"{kind.kind}: {error}")
            else:
                return Choice(link, _sentence(f"{link.kind}:{interface.name}", refusals))
    udp = open_udp()
    return Choice(udp, _sentence(f"udp:{udp.format_address(udp.address)}", refusals))


def _sentence(chosen: str, refusals: list[str]) -> str:
    if not refusals:
        return f"{chosen} is the fastest link."
    return f"{chosen} is the fastest link that works here ({'; '.join(refusals)})."


def default_interface() -> Interface | None:
    """Return the Ethernet interface that is up; of several that of the default route, or else the first."""
    candidates = [interface for interface in list_interfaces() if interface.ethernet and interface.up]
    routed = _default_route()
    return next((one for one in candidates if one.name == routed), candidates[0] if candidates else None)


def _default_route() -> str | None:
    """Return the interface of this namespace's IPv4 default route, or None."""
    try:
        lines = _ROUTES.read_text().splitlines()[1:]
    except OSError:  # a kernel without IPv4, or no /proc
        return None
    routes = [line.split() for line in lines]
    return next((fields[0] for fields in routes if fields[1] == fields[7] == "00000000"), None)


def probe(interface: str) -> list[Probe]:
    """Try every kind of link on an interface, best first, by opening and closing it.

    Attaching an XDP program makes some network cards restart their queues, which loses frames for a moment.
    """
    probes = []
    for kind in (XdpLink, PacketLink):
        try:
            link = kind(interface)
        except LinkError as error:
            probes.append(Probe(kind.kind, False, str(error)))
            continue
        mode = f"{link.mode} mode, " if isinstance(link, XdpLink) else ""
        probes.append(Probe(kind.kind, True, f"{mode}PDUs of up to {link.mtu} bytes"))
        link.close()
    try:
        udp = UdpLink(port=0)
    except LinkError as error:
        return [*probes, Probe("udp", False, str(error))]
    probes.append(Probe("udp", True, f"PDUs of up to {udp.mtu} bytes, on any interface with an IPv4 address"))
    udp.close()
    return probes
