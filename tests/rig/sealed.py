"""Sealed hosts for tests: a key at a device and at a port on its switch, without firmware or TLS in between."""

import hashlib
from dataclasses import dataclass

from appliance.board.keys import GrantedKeys
from appliance.dataplane.grants import Granting
from host_sdk.wire.links.base import SEALED_PEER
from host_sdk.wire.links.memory import MemoryLink
from host_sdk.wire.roles import Grant
from host_sdk.wire.sealed.keys import MATERIAL_SIZE, KeyRing, SealKey
from host_sdk.wire.sealed.link import SealedLink, Tally
from tests.rig.port import Port

HOUR = 3600 * 1_000_000_000


def material(number: int) -> bytes:
    return hashlib.sha512(b"material of %d" % number).digest()[:MATERIAL_SIZE]


def keys_of(port: Port) -> GrantedKeys:
    """Return a device's keys, as its board sees them."""
    grants = port.device._state.grants
    assert grants is not None
    return GrantedKeys(grants, port.device._dataplane, port.clock)


@dataclass
class SealedHost:
    """A port whose frames are sealed, and what an attacker beside it has: its link, and its address."""

    port: Port
    inner: MemoryLink
    key: SealKey
    tally: Tally


def sealed_host(port: Port, number: int, grant: Grant, *, serial: str = "", lifetime_ns: int = HOUR) -> SealedHost:
    """Attach a host to a device's switch and grant it a key; its session is open."""
    inner = port.switch.attach()
    ring, tally = KeyRing(), Tally()
    keys_of(port).grant(Granting(number, inner.address, material(number), grant, serial or f"{number:x}", lifetime_ns))
    expires = port.clock.now_ns() + lifetime_ns
    key = SealKey(number, port.node.address, material(number), responder=False, expires_ns=expires)
    ring.add(key)
    link = SealedLink(inner, ring, tally, port.clock.now_ns, responder=False)
    return SealedHost(
        Port(port.switch, port.device, port.clock, port.node, link, SEALED_PEER | number), inner, key, tally
    )
