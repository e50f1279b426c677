"""Namespaces at one bridge for tests, in which processes can be started and whose cables can be pulled."""

import contextlib
from collections.abc import Iterator

from tests.rig.netns import Namespace, bridge, veth


class Switched:
    """A bridge in a namespace of its own, and places at it.

    Attributes:
        switch: Namespace of the bridge.
        places: Namespaces at it by name, each with the interface ``eth0``.
    """

    def __init__(self, switch: Namespace, places: dict[str, Namespace]) -> None:
        self.switch, self.places = switch, places
        self._cables = len(places)

    def pull(self, place: str, interface: str = "eth0") -> None:
        """Take an interface of a place away, with its cable."""
        self.places[place].delete(interface)

    def plug(self, place: str, interface: str, *, mac: str = "", mtu: int = 1500) -> None:
        """Give a place an interface with a cable to the bridge, as ``docker network connect`` does."""
        self._cables += 1
        port = f"port{self._cables}"
        with self.switch.ip() as ip:
            peer = {"ifname": interface, "net_ns_fd": self.places[place].fd, "mtu": mtu}
            if mac:
                peer["address"] = mac
            ip.link("add", ifname=port, kind="veth", mtu=mtu, peer=peer)
        self.switch.set(port, master=self.switch.index("br0"), state="up")
        self.places[place].set(interface, state="up")
        self.places[place].wait_until_sending(interface)

    def mac(self, place: str, interface: str = "eth0") -> str:
        """Return the address of an interface."""
        with self.places[place].ip() as ip:
            return str(ip.link("get", ifname=interface)[0].get("address"))


@contextlib.contextmanager
def switched(*names: str, mtu: int = 1500) -> Iterator[Switched]:
    """Make namespaces at one bridge; they vanish at the end."""
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(Namespace())
        places = {name: stack.enter_context(Namespace()) for name in names}
        for number, place in enumerate(places.values()):
            veth(switch, f"port{number}", place, "eth0", mtu)
        bridge(switch, "br0", [f"port{number}" for number in range(len(places))])
        yield Switched(switch, places)
