"""Fetching evidence from an appliance. What it is worth, :mod:`host_sdk.wire.attest` says."""

import secrets
from dataclasses import replace
from typing import Any

from host_sdk.operations import Operation, Operations
from host_sdk.wire.attest.collected import Evidence
from host_sdk.wire.attest.errors import LogMismatchError, MalformedEvidenceError
from host_sdk.wire.attest.events import MAX_EVENT, MAX_EVENTS
from host_sdk.wire.attest.quote import NONCE_SIZE, Quote

TRIES = 3  # of a log that is begun anew while it is being read


def new_nonce() -> bytes:
    """Return a nonce, from the operating system's randomness: who could foresee it could have an old quote ready."""
    return secrets.token_bytes(NONCE_SIZE)


def collect_evidence(operations: Operations, peer: int, nonce: bytes) -> Operation[Evidence]:
    """Ask an appliance for a quote over a nonce, and for the log that explains it; nothing of it is checked.

    Raises:
        MalformedEvidenceError: An answer is none.
        LogMismatchError: The log never held still, or is shorter than the quote says.
        StatusError: The appliance refuses.
    """
    for _ in range(TRIES):
        evidence = Evidence.parse((yield from operations.control(peer, "attest", nonce=nonce)))
        quote = Quote.decode(evidence.quote)
        events: list[bytes] = []
        log = quote.log
        while len(events) < quote.events and log == quote.log:
            log, page = _page((yield from operations.control(peer, "attest.log", after=len(events))))
            if log == quote.log and not page:
                raise LogMismatchError(f"the log ends after {len(events)} events, the quote is over {quote.events}")
            events += page
        if log == quote.log:
            return replace(evidence, events=tuple(events[: quote.events]))
    raise LogMismatchError(f"the log was begun anew while it was being read, {TRIES} times")


def _page(answer: dict[str, Any]) -> tuple[int, list[bytes]]:
    log, page = answer.get("log"), answer.get("events")
    if type(log) is not int or not isinstance(page, list) or len(page) > MAX_EVENTS:
        raise MalformedEvidenceError("a page of the log has no number, or no list of events")
    if not all(isinstance(event, bytes) and len(event) <= MAX_EVENT for event in page):
        raise MalformedEvidenceError(f"an event of the log is not at most {MAX_EVENT} bytes")
    return log, page
