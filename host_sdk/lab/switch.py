"""What joins the nodes of a lab: a switch, or one cable.

The switch is a bridge in the network namespace of the process that makes it.
"""

import contextlib
import errno
import time
from collections.abc import Iterator, Sequence

from pyroute2 import IPRoute, NetlinkError

from host_sdk.lab.port import BRIDGE, INTERFACE, port_name
from host_sdk.wire.errors import LinkError, LinkPrivilegeError

_FORWARDING = 3  # <linux/if_bridge.h>: BR_STATE_FORWARDING
_TRIES = 500  # of 10 ms each


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code in (errno.EPERM, errno.EACCES):
            raise LinkPrivilegeError(f"the kernel refuses to {what}: {error}; run as root") from error
        raise LinkError(f"the kernel cannot {what}: {error}; a lab needs its modules 'bridge' and 'veth'") from error


def connect(mtu: int, ends: Sequence[tuple[int, str]]) -> None:
    """Lay a cable between two network namespaces; its ends there are called ``eth0``, down.

    Args:
        mtu: Bytes that it carries behind the Ethernet header.
        ends: Of each a process in the namespace, as this one's PID namespace counts, and the address.

    Raises:
        LinkError: The kernel cannot, or refuses.
    """
    near, far = ({"ifname": INTERFACE, "address": mac, "mtu": mtu, "net_ns_pid": pid} for pid, mac in ends)
    with IPRoute() as netlink, _explained("make a veth pair"):
        netlink.link("add", kind="veth", peer=far, **near)


class Switch:
    """A bridge that sends nothing of its own: no spanning tree, no multicast snooping.

    Its ports are the near ends of veth pairs. It and they have addresses 06:…, which no node of a topology can have.

    Args:
        mtu: Bytes that it forwards behind the Ethernet header at most.

    Raises:
        LinkPrivilegeError: The kernel refuses the bridge to this user.
        LinkError: The kernel has no bridge.
    """

    def __init__(self, mtu: int) -> None:
        self._ports: list[str] = []
        self._netlink = IPRoute()
        try:
            with _explained("make a bridge"):
                self._netlink.link(
                    "add",
                    ifname=BRIDGE,
                    kind="bridge",
                    address="06:6e:61:70:75:ff",
                    br_stp_state=0,
                    br_mcast_snooping=0,
                )
                self._bridge = self._netlink.link_lookup(ifname=BRIDGE)[0]
                self._netlink.link("set", index=self._bridge, mtu=mtu, state="up")
        except LinkError:
            self._netlink.close()
            raise

    def plug(self, pid: int, mac: str, mtu: int) -> None:
        """Lay a cable from a new port to the network namespace of a process; its end there is ``eth0``, down.

        Args:
            pid: The process, as this one's PID namespace counts.
            mac: Address of the far end.
            mtu: Bytes that the cable carries behind the Ethernet header, at most those of the switch.

        Raises:
            LinkError: The kernel cannot, or refuses.
        """
        port = port_name(len(self._ports))
        far = {"ifname": INTERFACE, "address": mac, "mtu": mtu, "net_ns_pid": pid}
        with _explained("make a veth pair"):
            self._netlink.link(
                "add",
                ifname=port,
                kind="veth",
                mtu=mtu,
                address=f"06:6e:61:70:75:{len(self._ports):02x}",
                master=self._bridge,
                peer=far,
            )
            index = self._netlink.link_lookup(ifname=port)[0]
            self._netlink.link("set", index=index, state="up")
        self._ports.append(port)

    def wait_forwarding(self) -> None:
        """Wait until every port forwards, which is a moment after both ends of its cable are up.

        Raises:
            LinkError: One does not within 5 s.
        """
        for port in self._ports:
            for _ in range(_TRIES):
                link = self._netlink.link("get", ifname=port)[0]
                if link.get(("linkinfo", "slave_data", "state")) == _FORWARDING:
                    break
                time.sleep(0.01)
            else:
                raise LinkError(f"port {port} of the switch does not forward; was its other end set down?")

    def close(self) -> None:
        """Give back the socket to the kernel; the bridge stays until its namespace goes."""
        self._netlink.close()
