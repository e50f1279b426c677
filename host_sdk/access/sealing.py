"""The client's side of sealed inference: a key for each appliance, asked for over its secure stream."""

from collections.abc import Callable, Generator
from typing import Any

from host_sdk.access.control import SecureControl
from host_sdk.wire.errors import (
    BusyError,
    NapuError,
    NapuTimeoutError,
    RemoteProtocolError,
    UnavailableError,
    UnknownSessionError,
)
from host_sdk.wire.exchange.answers import Event
from host_sdk.wire.exchange.request import Request
from host_sdk.wire.exchange.requester import Requester
from host_sdk.wire.links.base import SEALED_PEER
from host_sdk.wire.sealed.keys import MATERIAL_SIZE, SealKey, label_of
from host_sdk.wire.sealed.link import SealedLink

RENEW_AT = 1 << 30  # frames under one key in either direction; half of what it may seal
ASK_NS = 1_000_000_000  # between two times that a hint has a key asked about
_MARGIN_NS = 60_000_000_000  # before its end that a key is renewed
_PART = 10  # of its lifetime, if that is less
_MOST_MS = 7 * 24 * 3_600_000
_LATER = (BusyError, NapuTimeoutError, UnavailableError)

Steps = Generator[Request, list[Event], None]


class Sealing:
    """The keys of one client.

    Args:
        link: What seals and opens.
        requester: Whose requests under a key that is gone have failed.
        secure: What keys are asked for through.
        now: Monotonic ns.
    """

    def __init__(self, link: SealedLink, requester: Requester, secure: SecureControl, now: Callable[[], int]) -> None:
        self._link, self._requester, self._secure, self._now = link, requester, secure, now
        self._current: dict[int, tuple[SealKey, int]] = {}  # by the appliance's peer key; and when to renew it
        self._replaced: list[SealKey] = []
        self._ask_at: dict[int, int] = {}

    def route(self, peer: int) -> int | None:
        """Return the virtual peer of an appliance's key; None where one has to be asked for first."""
        key, renew_at = self._current.get(peer, (None, 0))
        if key is None or self._now() >= renew_at or key.spent >= RENEW_AT:
            return None
        return key.virtual_peer

    def load(self, peer: int) -> int:
        """Return how many INFER requests are outstanding at an appliance or wait to be sent."""
        key, _ = self._current.get(peer, (None, 0))
        return self._requester.load(key.virtual_peer) if key else 0

    def grant(self, peer: int, timeout_ns: int) -> Steps:
        """Ask for a key where there is none, or none that is good for long; a generator as those of SecureControl.

        Raises:
            StatusError: The appliance grants none.
            NapuTimeoutError: It does not answer.
        """
        if self.route(peer) is None:
            yield from self._ask(peer, 0, timeout_ns)

    def key(self, peer: int) -> SealKey | None:
        """Return the key of an appliance that was asked for last, None without one."""
        return self._current.get(peer, (None, 0))[0]

    @property
    def doubtful(self) -> bool:
        """Whether there are hints that a key is not known any more, and it is time to ask."""
        return bool(self._link.hinted) and any(self._ask_at.get(peer, 0) <= self._now() for peer in self._link.hinted)

    def confirm(self, timeout_ns: int) -> Steps:
        """Ask over TLS whether the keys that hints are about are still in force; where one is not, get another.

        A hint is nobody's word: only the appliance's own answer ends a session. Requests under a key that is gone fail
        with UNKNOWN_SESSION, as when an appliance restarts.
        """
        now = self._now()
        for peer in [peer for peer in self._link.hinted if self._ask_at.get(peer, 0) <= now]:
            self._link.hinted.discard(peer)
            self._ask_at[peer] = now + ASK_NS
            key, _ = self._current.get(peer, (None, 0))
            if key is None:
                continue
            try:
                yield from self._ask(peer, key.number, timeout_ns)
            except _LATER:
                pass  # whoever still waits sends again, and gets the next hint
            except NapuError as error:
                self._lose(key, error)
                self._current.pop(peer, None)

    def _ask(self, peer: int, known: int, timeout_ns: int) -> Steps:
        address = self._link.format_address(peer)
        answer = yield from self._secure.ask(peer, address, {"op": "grant", "key": known}, timeout_ns)
        number, lifetime_ms = _number(answer, "key", SEALED_PEER - 1), _number(answer, "lifetime_ms", _MOST_MS)
        if number == known:
            return
        # The stream that was answered in is the last one that is idle, as nothing has run in between.
        material = self._secure.export(peer, label_of(number), MATERIAL_SIZE)
        lifetime_ns = lifetime_ms * 1_000_000
        now = self._now()
        key = SealKey(number, peer, material, responder=False, expires_ns=now + lifetime_ns)
        old, _ = self._current.get(peer, (None, 0))
        self._link.keys.add(key)
        self._current[peer] = key, now + lifetime_ns - min(_MARGIN_NS, lifetime_ns // _PART)
        if old is not None:
            self._replace(old, gone=known == old.number)

    def _replace(self, old: SealKey, *, gone: bool) -> None:
        """Let what is under way under a key come to its end; forget the keys under which nothing is."""
        if gone:
            self._lose(old, UnknownSessionError("the key is gone; the appliance may have restarted"))
        else:
            self._replaced.append(old)
        for key in self._replaced:
            if not self._requester.load(key.virtual_peer):
                self._lose(key, UnknownSessionError("the key was replaced"))
        self._replaced = [key for key in self._replaced if self._link.keys.get(key.number)]

    def _lose(self, key: SealKey, error: NapuError) -> None:
        self._link.keys.remove(key.number)
        self._requester.forget(key.virtual_peer, error)


def _number(answer: dict[str, Any], name: str, high: int) -> int:
    value = answer.get(name)
    if type(value) is not int or not 1 <= value <= high:
        raise RemoteProtocolError(f"the answer to grant has no {name} in range")
    return value
