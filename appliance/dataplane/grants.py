"""Whom keys were granted to, and what their certificates allow them: pipelines, a rate, a share of the credits."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from appliance.dataplane.sessions import IDLE_NS, Opening
from appliance.dataplane.table import Loaded
from appliance.dataplane.tenants import TenantTable
from host_sdk.wire.errors import DeviceError
from host_sdk.wire.links.base import SEALED_PEER
from host_sdk.wire.roles import Grant
from host_sdk.wire.schema import RETRY_AFTER_UNIT_US, Status
from host_sdk.wire.sealed.keys import KeyRing, SealKey

MAX_KEYS = 1024
MAX_KEYS_EACH = 64  # of one certificate
BURST_S = 0.1  # of its rate that a tenant may use at once, and one request in any case
_UNITS_PER_S = 1_000_000 // RETRY_AFTER_UNIT_US
_LONGEST_WAIT = 0xFFFF
_MOST_NAMES = 256  # of pipelines, for which it is remembered who may run them


@dataclass(slots=True)
class Meter:
    """Lets through ``rate`` requests a second, and BURST_S of them at once."""

    rate: int
    tokens: float = math.inf
    filled: int = 0

    @property
    def burst(self) -> float:
        """Requests that may come at once."""
        return max(1.0, self.rate * BURST_S)

    def take(self, count: int, now: int) -> int:
        """Take tokens for as many of ``count`` requests at ``now`` (ns) as there are; return how many."""
        self.tokens = min(self.burst, self.tokens + (now - self.filled) * self.rate / 1e9)
        self.filled = now
        taken = min(count, int(self.tokens))
        self.tokens -= taken
        return taken


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a key was granted to.

    Attributes:
        key: The key.
        serial: Number of the certificate, hexadecimal.
        grant: What the certificate allows.
        granted_ns: When.
    """

    key: SealKey
    serial: str
    grant: Grant
    granted_ns: int

    @property
    def used_ns(self) -> int:
        """When the key was used last, or granted."""
        return max(self.key.used_ns, self.granted_ns)


@dataclass(frozen=True, slots=True)
class Granting:
    """A key to put into force.

    Attributes:
        number: The key's.
        peer: The address that it is granted to.
        material: From the exporter of the stream.
        grant: What the certificate allows.
        serial: Number of the certificate, hexadecimal.
        lifetime_ns: How long it is in force.
    """

    number: int
    peer: int
    material: bytes
    grant: Grant
    serial: str
    lifetime_ns: int


class GrantTable:
    """The holders of keys. Used on the dataplane's thread alone.

    A holder's *index* is what sessions keep of it; index 0 is whoever has no key, who may do anything that does not
    have to come sealed.

    Args:
        keys: What the link opens and seals with.
        tenants: The tenants that have a weight.
    """

    def __init__(self, keys: KeyRing, tenants: TenantTable) -> None:
        self._keys, self._tenants = keys, tenants
        self._holders: list[Holder | None] = [None] * (MAX_KEYS + 1)
        self._indices: dict[int, int] = {}  # by number of the key
        self._free = list(range(MAX_KEYS, 0, -1))
        self._meters: list[Meter | None] = [None] * (MAX_KEYS + 1)
        self._meter_ids = np.zeros(MAX_KEYS + 1, np.int64)  # id() of each holder's meter; 0 for none
        self._allowed: dict[str, NDArray[np.bool_]] = {}

    @property
    def keys(self) -> int:
        """Keys in force."""
        return len(self._indices)

    # ---- keys come and go ----------------------------------------------------------------------------------------

    def add(self, granting: Granting, now: int) -> list[int]:
        """Put a key into force; return the virtual peers of those that made room for it.

        Raises:
            DeviceError: The number is taken, the peer is no address, or all keys are in use.
        """
        if granting.number in self._indices:
            raise DeviceError(f"there is a key {granting.number:#x} already")
        if not 0 < granting.peer < SEALED_PEER:
            raise DeviceError("a key is granted to an address, and not through another key")
        gone = self._make_room(granting.serial, now)
        key = SealKey(
            granting.number,
            granting.peer,
            granting.material,
            responder=True,
            expires_ns=now + granting.lifetime_ns,
            share=granting.grant.share,
        )
        index = self._indices[key.number] = self._free.pop()
        meter = self._meters[index] = self._meter(granting.grant)
        self._meter_ids[index] = id(meter) if meter else 0
        self._holders[index] = Holder(key, granting.serial, granting.grant, now)
        self._allowed.clear()
        self._keys.add(key)
        return gone

    def _make_room(self, serial: str, now: int) -> list[int]:
        mine = [each for each in self._all() if each.serial == serial]
        if len(mine) >= MAX_KEYS_EACH:
            return [self._remove(min(mine, key=lambda each: each.used_ns))]
        if self._free:
            return []
        idlest = min(self._all(), key=lambda each: each.used_ns)
        if now - idlest.used_ns < IDLE_NS:
            raise DeviceError(f"all {MAX_KEYS} keys are in use")
        return [self._remove(idlest)]

    def _meter(self, grant: Grant) -> Meter | None:
        """Return the meter of a tenant, which all with its rate share; None without limit."""
        if not grant.rate:
            return None
        for index in self._indices.values():
            holder, meter = self._holders[index], self._meters[index]
            if holder and meter and (holder.grant.tenant, meter.rate) == (grant.tenant, grant.rate):
                return meter
        return Meter(grant.rate)

    def _remove(self, holder: Holder) -> int:
        index = self._indices.pop(holder.key.number)
        self._holders[index] = self._meters[index] = None
        self._meter_ids[index] = 0
        self._free.append(index)
        self._allowed.clear()
        self._keys.remove(holder.key.number)
        return holder.key.virtual_peer

    def _all(self) -> list[Holder]:
        return [holder for index in self._indices.values() if (holder := self._holders[index])]

    def lifetime_ns(self, number: int, peer: int, serial: str, now: int) -> int:
        """Return how long a key is still in force for a certificate at an address; 0 where it is not."""
        holder = self._holders[self._indices.get(number, 0)]
        if holder is None or (holder.key.peer, holder.serial) != (peer, serial):
            return 0
        return max(0, holder.key.expires_ns - now)

    def serials(self) -> list[str]:
        """Return the certificates that have keys."""
        return sorted({holder.serial for holder in self._all()})

    def drop(self, serial: str) -> list[int]:
        """Drop the keys of a certificate; return their virtual peers."""
        return [self._remove(holder) for holder in self._all() if holder.serial == serial]

    def expire(self, now: int) -> list[int]:
        """Drop the keys whose time is over; return their virtual peers."""
        return [self._remove(holder) for holder in self._all() if now >= holder.key.expires_ns]

    # ---- what they allow -----------------------------------------------------------------------------------------

    def limited(self, opening: Opening) -> Opening:
        """Return what an OPEN asks for as its key allows it; without a key, nobody's tenant can be claimed."""
        index = self._indices.get(opening.peer - SEALED_PEER, 0)
        holder = self._holders[index]
        if holder is None:
            return replace(opening, tenant=0)
        grant = holder.grant
        return replace(opening, tenant=self._tenants.index(grant.tenant), holder=index, share=grant.share)

    def allowed(self, pipeline: str) -> NDArray[np.bool_]:
        """Return by index who may run a pipeline, bool [MAX_KEYS + 1]."""
        found = self._allowed.get(pipeline)
        if found is None:
            if len(self._allowed) >= _MOST_NAMES:
                self._allowed.clear()
            found = self._allowed[pipeline] = np.array(
                [
                    not holder or not holder.grant.pipelines or pipeline in holder.grant.pipelines
                    for holder in self._holders
                ]
            )
        return found

    def refusal(self, index: int, peer: int, loaded: Loaded) -> Status | None:
        """Return why a session's requests for a pipeline are refused; None where they are not."""
        if loaded.sealed and peer < SEALED_PEER:
            return Status.NOT_SEALED
        return None if self.allowed(loaded.pipeline.manifest.name)[index] else Status.NOT_PERMITTED

    def metered(self, index: int) -> bool:
        """Return whether there is a limit to a holder's rate."""
        return self._meters[index] is not None

    def within_rate(
        self, holders: NDArray[np.uint16], asking: NDArray[np.bool_], now: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Take a token for each request that asks for one, as far as its tenant has them.

        Args:
            holders: Of the requests, uint16 [n], in the order of arrival.
            asking: Which of them are to be counted, bool [n].
            now: ns.

        Returns:
            Which are within their rate, or were not asked about, bool [n]; and how long the others should wait, in
            units of 100 µs, int64 [n].
        """
        within, wait = np.ones(len(holders), np.bool_), np.zeros(len(holders), np.int64)
        ids = self._meter_ids[holders]
        if not ids.any():
            return within, wait
        meters = {id(meter): meter for index in set(holders.tolist()) if (meter := self._meters[index])}
        for number, meter in meters.items():
            mine = np.flatnonzero((ids == number) & asking)
            over = mine[meter.take(len(mine), now) :]
            within[over] = False
            turns = np.arange(1, len(over) + 1) * _UNITS_PER_S // meter.rate
            wait[over] = np.clip(turns, 1, _LONGEST_WAIT)
        return within, wait
