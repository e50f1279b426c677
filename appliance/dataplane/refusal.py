"""Answers that are not results: built for a batch from the headers of its requests."""

import numpy as np
from numpy.typing import NDArray

from appliance.dataplane.replies import ReplyWriter, reply_headers
from host_sdk.wire.header import Header
from host_sdk.wire.message import Message
from host_sdk.wire.schema import MAX_DETAIL, MAX_FRAGMENT_SIZE, REPLY_BIT, Flag, Opcode, Status


class Refusals:
    """Refuses requests, one by one with a sentence or by the batch without.

    Args:
        replies: Where the answers go.
        credit: What every answer grants.
    """

    def __init__(self, replies: ReplyWriter, credit: int) -> None:
        self._replies, self._credit = replies, credit

    def batch(
        self, peers: NDArray[np.uint64], requests: NDArray[np.void], status: Status, retry_after: int = 0
    ) -> None:
        """Refuse INFER requests.

        Args:
            peers: uint64 [n], who asked.
            requests: Structured [n] with the fields request, session, priority and flags.
            status: Why.
            retry_after: With BUSY, in units of 100 µs.
        """
        if len(peers) == 0:
            return
        headers = reply_headers(len(peers), Opcode.RESULT, status, self._credit)
        for name in ("request", "session", "priority"):
            headers[name] = requests[name]
        headers["flags"] = requests["flags"] & Flag.CRC
        headers["retry_after"] = retry_after
        self._replies.batch(peers, headers, np.zeros((len(peers), 0), np.uint8))

    def one(self, peer: int, request: Header, status: Status, detail: str = "", retry_after: int = 0) -> None:
        """Refuse one request with a sentence."""
        header = answer_header(request, status, self._credit, retry_after)
        body = detail.encode()[:MAX_DETAIL].decode("utf-8", "ignore").encode()
        self._replies.message(peer, Message(header, body), MAX_FRAGMENT_SIZE)

    def job(self, job: np.void, pipeline: int, status: Status, detail: str) -> None:
        """Refuse one INFER that was queued, with a sentence."""
        request = Header(
            opcode=Opcode.INFER,
            request=int(job["request"]),
            flags=int(job["flags"]),
            session=int(job["session"]),
            pipeline=pipeline,
            priority=int(job["priority"]),
        )
        self.one(int(job["peer"]), request, status, detail)


def answer_header(request: Header, status: Status, credit: int, retry_after: int = 0) -> Header:
    """Return the header of the answer to a request."""
    return Header(
        opcode=request.opcode | REPLY_BIT,
        request=request.request,
        flags=request.flags & Flag.CRC,
        session=request.session,
        pipeline=request.pipeline,
        priority=request.priority,
        credits=credit,
        status=status,
        retry_after=retry_after,
    )
