"""Fetching evidence from appliances that are slow, busy with their log, or hostile."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

import pytest

from host_sdk.attestation import TRIES, collect_evidence, new_nonce
from host_sdk.operations import Operations
from host_sdk.wire.attest.collected import Evidence
from host_sdk.wire.attest.errors import AttestationError, LogMismatchError, MalformedEvidenceError
from host_sdk.wire.attest.evidence import check_evidence
from host_sdk.wire.attest.quote import Quote
from tests.rig.attested import NONCE, Attested

PEER = 7
Answer = Callable[[str, dict[str, Any]], dict[str, Any]]


class Scripted:
    """Answers operations as the test says, and notes them."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.asked = answer, [("", 0)][:0]

    def control(self, peer: int, operation: str, **arguments: Any) -> Generator[Any, Any, dict[str, Any]]:
        assert peer == PEER
        self.asked.append((operation, arguments.get("after", 0)))
        return self.answer(operation, arguments)
        yield


def collect(answer: Answer) -> tuple[Evidence, list[tuple[str, int]]]:
    scripted = Scripted(answer)
    steps = collect_evidence(cast("Operations", scripted), PEER, NONCE)
    with pytest.raises(StopIteration) as stop:
        next(steps)
    return stop.value.value, scripted.asked


def quoted(board: Attested, nonce: bytes) -> dict[str, Any]:
    evidence = board.evidence(nonce)
    return {"quote": evidence.quote, "signature": evidence.signature, "key": evidence.key, "boots": evidence.boots}


@pytest.fixture
def board(tmp_path: Path) -> Attested:
    board = Attested(tmp_path).boot()
    board.load("digits")
    return board


def page(board: Attested, after: int, most: int = 2) -> dict[str, Any]:
    evidence = board.evidence()
    return {"log": Quote.decode(evidence.quote).log, "events": list(evidence.events[after : after + most])}


def test_a_log_is_read_page_by_page_and_no_further_than_the_quote(board: Attested) -> None:
    def answer(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if operation == "attest":
            return quoted(board, arguments["nonce"])
        board.load("later")  # after the quote
        return page(board, arguments["after"])

    evidence, asked = collect(answer)
    assert asked == [("attest", 0), ("attest.log", 0), ("attest.log", 2), ("attest.log", 4)]
    assert [pipeline.name for pipeline in check_evidence(evidence, NONCE).pipelines] == ["digits"]


def test_a_log_that_is_begun_anew_meanwhile_is_asked_for_again(board: Attested) -> None:
    boots = iter([True, False, False, False, False])

    def answer(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if operation == "attest":
            return quoted(board, arguments["nonce"])
        if next(boots):
            board.boot()
        return page(board, arguments["after"])

    evidence, asked = collect(answer)
    assert [operation for operation, _ in asked].count("attest") == 2
    assert check_evidence(evidence, NONCE).quote.epoch == 2


def test_a_log_that_never_holds_still_is_given_up(board: Attested) -> None:
    def answer(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return quoted(board, arguments["nonce"]) if operation == "attest" else page(board.boot(), arguments["after"])

    with pytest.raises(LogMismatchError, match=f"{TRIES} times"):
        collect(answer)


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ({}, MalformedEvidenceError),
        ({"log": "1", "events": []}, MalformedEvidenceError),
        ({"log": 1, "events": b"x"}, MalformedEvidenceError),
        ({"log": 1, "events": ["text"]}, MalformedEvidenceError),
        ({"log": 1, "events": [bytes(3000)]}, MalformedEvidenceError),
        ({"log": 1, "events": [b""] * 1025}, MalformedEvidenceError),
        ({"log": 1, "events": []}, LogMismatchError),
        ({"log": 2, "events": []}, LogMismatchError),
    ],
)
def test_pages_of_hostile_appliances(board: Attested, log: dict[str, Any], error: type[AttestationError]) -> None:
    def answer(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return quoted(board, arguments["nonce"]) if operation == "attest" else log

    with pytest.raises(error):
        collect(answer)


@pytest.mark.parametrize(
    "changes", [{"quote": b""}, {"quote": None}, {"quote": bytes(192)}, {"key": b"k"}, {"signature": "s"}, {"boots": 3}]
)
def test_quotes_of_hostile_appliances(board: Attested, changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedEvidenceError):
        collect(lambda _, arguments: {**quoted(board, arguments["nonce"]), **changes})


def test_nonces_are_not_the_same_twice() -> None:
    assert len({new_nonce() for _ in range(100)}) == 100
