"""What the board measures: at boots, when pipelines change, when the log is full, over losses of power."""

import hashlib
from pathlib import Path

import msgpack
import pytest

from appliance.board.attestation import BOOTS_OBJECT, Constants, check_constants
from appliance.board.command import ArgumentError
from appliance.board.flash import Flash
from appliance.board.regmap import MAX_PART, AttestCommand
from host_sdk.wire.attest.events import MAX_EVENTS, Event, EventKind
from host_sdk.wire.attest.evidence import check_evidence
from host_sdk.wire.attest.quote import Quote
from host_sdk.wire.errors import ConfigError, DeviceError
from tests.rig.attested import CONSTANTS, NONCE, Attested, image


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def replayed(events: tuple[bytes, ...]) -> bytes:
    """Replay a log as the text has it."""
    value = bytes(32)
    for event in events:
        value = sha(value + sha(event))
    return value


def kinds(board: Attested) -> list[str]:
    evidence = board.evidence()
    quote = Quote.decode(evidence.quote)
    assert (quote.events, quote.value) == (len(evidence.events), replayed(evidence.events))
    return [EventKind(event[0]).name for event in evidence.events]


BEGINNING = ["ROM", "IMAGE", "CONFIGURATION"]


def test_a_boot_and_what_is_installed_and_removed(tmp_path: Path) -> None:
    board = Attested(tmp_path).boot()
    assert kinds(board) == BEGINNING
    board.load("digits")
    board.load("digits", size=20)
    assert board.unload("digits")
    assert not board.unload("digits")
    assert kinds(board) == [*BEGINNING, *["PIPELINE", "MODEL"] * 2, "PIPELINE_REMOVED"]
    events = [Event.decode(event) for event in board.evidence().events]
    assert events[0].digest == CONSTANTS.rom
    assert dict(events[1].facts) == {"security_counter": "5", "slot": "A", "version": "1.2.3"}
    assert events[5].digest == events[7].digest != events[3].digest
    assert events[4].digest == sha(b"digits")


def test_what_is_refused_is_not_measured(tmp_path: Path) -> None:
    board = Attested(tmp_path).boot()
    with pytest.raises(ConfigError):
        board.load("refused")
    assert kinds(board) == BEGINNING


def test_pipelines_outlive_the_firmware_and_are_measured_again(tmp_path: Path) -> None:
    board = Attested(tmp_path).boot()
    board.load("digits")
    board.load("words")
    board.unload("words")
    board.boot(2)
    assert kinds(board) == [*BEGINNING, "PIPELINE", "MODEL"]
    quote = Quote.decode(board.evidence().quote)
    assert (quote.epoch, quote.log) == (2, 2)


def test_a_full_log_is_begun_anew_and_says_so(tmp_path: Path) -> None:
    board = Attested(tmp_path).boot()
    name = "digits-" * 9  # so long that the log takes two pages
    for _ in range((MAX_EVENTS - 3) // 2):
        board.load(name)
    assert not check_evidence(board.evidence(), NONCE).restarted
    _, page = msgpack.unpackb(board.attestor.commands()[AttestCommand.LOG](msgpack.packb([0])))
    assert MAX_PART - 200 < sum(map(len, page)) <= MAX_PART
    last = Quote.decode(board.evidence().quote)
    assert last.events == 1023
    board.load("words")
    assert kinds(board) == ["RESTARTED", *BEGINNING, "PIPELINE", "MODEL", "PIPELINE", "MODEL"]
    evidence = board.evidence()
    first, now = Event.decode(evidence.events[0]), Quote.decode(evidence.quote)
    assert (first.digest, dict(first.facts)) == (last.value, {"events": "1023", "log": "1"})
    assert (now.epoch, now.log) == (1, 2)
    claims = check_evidence(evidence, NONCE)
    assert claims.restarted
    assert sorted(claims.served) == [name, "words"]
    board.boot()
    assert not check_evidence(board.evidence(), NONCE).restarted


def test_a_log_that_is_full_to_the_last_event_takes_a_removal_in_the_next(tmp_path: Path) -> None:
    board = Attested(tmp_path).boot()
    board.load("a")
    for _ in range((MAX_EVENTS - 5 - 1) // 2):
        board.load("b")
    board.unload("b")
    assert len(board.evidence().events) == MAX_EVENTS
    board.unload("a")
    assert kinds(board) == ["RESTARTED", *BEGINNING]


def test_the_history_of_boots_outlives_the_power_and_is_bounded(tmp_path: Path) -> None:
    board = Attested(tmp_path)
    for epoch in range(1, 70):
        board.booted = image(f"1.{epoch}")
        board.boot(reason=epoch % 4)
        if epoch % 10 == 0:
            board.power_on()
    boots = check_evidence(board.evidence(), NONCE).boots
    assert [boot.epoch for boot in boots] == list(range(6, 70))
    assert [boot.image.version for boot in boots if boot.image] == [f"1.{epoch}" for epoch in range(6, 70)]
    assert [boot.reason for boot in boots] == [epoch % 4 for epoch in range(6, 70)]


def test_a_boot_of_nothing_stands_in_the_history(tmp_path: Path) -> None:
    board = Attested(tmp_path, booted=None).boot()
    board.booted = image()
    board.boot(1)
    assert [boot.image for boot in check_evidence(board.evidence(), NONCE).boots] == [None, image()]


def test_a_damaged_history_is_begun_anew(tmp_path: Path) -> None:
    Attested(tmp_path).boot()
    Flash(tmp_path, 1 << 20).write(BOOTS_OBJECT, b"damaged")
    board = Attested(tmp_path, epoch=1).boot()
    assert [boot.epoch for boot in check_evidence(board.evidence(), NONCE).boots] == [2]


@pytest.mark.parametrize("nonce", [b"", bytes(31), bytes(33), bytes(100_000)])
def test_a_nonce_has_32_bytes(tmp_path: Path, nonce: bytes) -> None:
    with pytest.raises(ArgumentError, match="32"):
        Attested(tmp_path).boot().attestor.commands()[AttestCommand.QUOTE](nonce)


def test_quotes_come_at_a_bounded_rate(tmp_path: Path) -> None:
    board = Attested(tmp_path).boot()
    board.evidence()
    with pytest.raises(DeviceError, match="every 5 ms"):
        board.attestor.commands()[AttestCommand.QUOTE](NONCE)
    board.evidence()


@pytest.mark.parametrize("after", [-(1 << 62), -1, 3, 4, 1 << 62])
def test_pages_of_the_log_are_bounded_by_what_there_is(tmp_path: Path, after: int) -> None:
    board = Attested(tmp_path).boot()
    log, page = msgpack.unpackb(board.attestor.commands()[AttestCommand.LOG](msgpack.packb([after])))
    assert (log, len(page)) == (1, 3 if after < 0 else 0)


@pytest.mark.parametrize(
    "constants",
    [
        Constants("", bytes(32), {}),
        Constants("x" * 65, bytes(32), {}),
        Constants("napu1", bytes(32), {"link": "a\nb=c"}),
        Constants("napu1", bytes(32), {"link": "x" * 256}),
        Constants("napü", bytes(32), {}),
    ],
)
def test_what_no_quote_can_say_is_refused_before_the_board_starts(constants: Constants) -> None:
    with pytest.raises(DeviceError, match="cannot be measured"):
        check_constants(constants)
