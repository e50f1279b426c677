"""Answers that are not results: built for a batch from the headers of its requests."""

import numpy as np
from numpy.typing import NDArray

from appliance.dataplane.replies import ReplyWriter, reply_headers
from appliance.dataplane.state import State
from host_sdk.wire.header import Header
from host_sdk.wire.message import Extension, Message, encode_extensions
from host_sdk.wire.schema import MAX_DETAIL, MAX_FRAGMENT_SIZE, REFUSED_HEADER, REPLY_BIT, Flag, Opcode, Status


class Refusals:
    """Refuses requests that were not taken, one by one with a sentence or by the batch without.

    Args:
        replies: Where the answers go.
        state: What every answer grants.
    """

    def __init__(self, replies: ReplyWriter, state: State) -> None:
        self._replies, self._state = replies, state

    def batch(
        self,
        peers: NDArray[np.uint64],
        requests: NDArray[np.void],
        status: Status,
        retry_after: NDArray[np.int64] | int = 0,
    ) -> None:
        """Refuse INFER requests.

        Args:
            peers: uint64 [n], who asked.
            requests: Structured [n] with the fields request, session, priority and flags.
            status: Why.
            retry_after: With BUSY, in units of 100 µs; of each, int64 [n], or the same for all.
        """
        if len(peers) == 0:
            return
        headers = refusal_headers(requests, status, self._state.credits)
        headers["retry_after"] = retry_after
        self._replies.batch(peers, headers, np.zeros((len(peers), 0), np.uint8))

    def one(self, peer: int, request: Header, status: Status, detail: str = "", retry_after: int = 0) -> None:
        """Refuse one request with a sentence.

        One of several fragments may have been damaged on the way, which only its CRC shows, when it is whole: so its
        requester is told which header was refused.
        """
        header = answer_header(request, status, self._state.credits, retry_after)
        if request.fragments == 1 or not request.flags & Flag.CRC:
            self._replies.message(peer, Message(header, sentence(detail)), MAX_FRAGMENT_SIZE)
            return
        refused = Extension(REFUSED_HEADER, request.encode())
        body = sentence(detail, MAX_DETAIL - len(encode_extensions((refused,))))
        self._replies.message(peer, Message(header, body, (refused,)), MAX_FRAGMENT_SIZE)


def refusal_headers(requests: NDArray[np.void], status: Status, credit: int) -> NDArray[np.void]:
    """Return the headers of answers that refuse INFER requests, HEADER_DTYPE [n]."""
    headers = reply_headers(len(requests), Opcode.RESULT, status, credit)
    for name in ("request", "session", "priority"):
        headers[name] = requests[name]
    headers["flags"] = requests["flags"] & (Flag.CRC | Flag.ONCE)
    return headers


def sentence(detail: str, longest: int = MAX_DETAIL) -> bytes:
    """Return a sentence as the body of a refusal, cut between characters where it is too long."""
    return detail.encode()[:longest].decode("utf-8", "ignore").encode()


MOST_REFUSED = 16  # requests over their session's credit that are answered BUSY, of those that arrive at once


def answer_header(request: Header, status: Status, credit: int, retry_after: int = 0) -> Header:
    """Return the header of the answer to a request."""
    once = Flag.ONCE if request.opcode == Opcode.INFER else 0
    return Header(
        opcode=request.opcode | REPLY_BIT,
        request=request.request,
        flags=request.flags & (Flag.CRC | once),
        session=request.session,
        pipeline=request.pipeline if status == Status.OK else 0,
        priority=request.priority,
        credits=credit,
        status=status,
        retry_after=retry_after,
    )
