"""One test for each attack on evidence: each ends in its named error or verdict."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.board.device_key import DeviceKey
from host_sdk.wire.attest.boots import encode_boots
from host_sdk.wire.attest.collected import Evidence
from host_sdk.wire.attest.compare import Verdict, compare
from host_sdk.wire.attest.errors import (
    AttestationError,
    BadQuoteSignatureError,
    BootsMismatchError,
    LogMismatchError,
    NotExplainedError,
    WrongNonceError,
)
from host_sdk.wire.attest.events import Event, EventKind, replay
from host_sdk.wire.attest.evidence import check_evidence, explain
from host_sdk.wire.attest.quote import Quote
from host_sdk.wire.attest.reference import Reference, ReferenceDevice, ReferenceImage, ReferencePipeline
from tests.rig.attested import CONSTANTS, NONCE, SEED, Attested, image

OTHER = bytes(reversed(range(32)))


@pytest.fixture
def board(tmp_path: Path) -> Attested:
    board = Attested(tmp_path).boot()
    board.load("digits")
    return board


def reference(board: Attested) -> Reference:
    """Return a reference of all that a board has, by hand from the hardware's own words."""
    booted = board.booted
    assert booted
    return Reference(
        sequence=1,
        issued=0,
        expires=1,
        roms=(CONSTANTS.rom,),
        images=(ReferenceImage(booted.digest, booted.version, booted.counter),),
        configurations=({"access": "mutual"},),
        pipelines=tuple(
            ReferencePipeline(
                str(served["name"]), bytes.fromhex(str(served["digest"])), bytes.fromhex(str(served["model_sha256"]))
            )
            for served in board.hardware.pipelines()
        ),
        devices=(ReferenceDevice("napu1", DeviceKey(SEED).public),),
    )


def verdicts(board: Attested, expected: Reference | None, key: bytes | None = None, device: str = "") -> set[Verdict]:
    claims = check_evidence(board.evidence(), NONCE)
    return {finding.verdict for finding in compare(claims, expected, key, device)} - {Verdict.GOOD}


def forged(evidence: Evidence, seed: bytes = SEED, **changes: object) -> Evidence:
    """Return evidence whose quote was changed and signed anew: what a board would sign that is not a board."""
    quote = replace(Quote.decode(evidence.quote), **changes).encode()  # type: ignore[arg-type]
    key = DeviceKey(seed)
    return replace(evidence, quote=quote, signature=key.sign(quote), key=key.public)


def test_what_is_as_it_should_be(board: Attested) -> None:
    assert verdicts(board, reference(board)) == set()
    assert verdicts(board, reference(board), DeviceKey(SEED).public, "napu1") == set()
    assert len(compare(check_evidence(board.evidence(), NONCE), reference(board))) == 6


def test_a_quote_that_is_replayed(board: Attested) -> None:
    old = board.evidence(NONCE)
    with pytest.raises(WrongNonceError, match="^WRONG_NONCE: "):
        check_evidence(old, OTHER)
    check_evidence(board.evidence(OTHER), OTHER)


def test_a_signature_of_another_key(board: Attested) -> None:
    evidence = board.evidence()
    with pytest.raises(BadQuoteSignatureError, match="^BAD_QUOTE_SIGNATURE: "):
        check_evidence(replace(evidence, key=DeviceKey(OTHER).public), NONCE)
    with pytest.raises(BadQuoteSignatureError):
        check_evidence(replace(evidence, signature=evidence.signature[::-1]), NONCE)


def test_a_signature_of_something_else_than_a_quote(board: Attested) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    evidence = board.evidence()
    bare = Ed25519PrivateKey.from_private_bytes(SEED).sign(evidence.quote)  # without what stands before a quote
    with pytest.raises(BadQuoteSignatureError):
        check_evidence(replace(evidence, signature=bare), NONCE)


@pytest.mark.parametrize("attack", ["tampered", "dropped", "dropped last", "reordered", "doubled", "another", "empty"])
def test_a_log_that_is_not_the_boards(board: Attested, attack: str) -> None:
    evidence = board.evidence()
    events = list(evidence.events)
    if attack == "tampered":
        events[3] = Event(EventKind.PIPELINE, OTHER, {"name": "digits"}).encode()
    elif attack == "dropped":
        del events[2]
    elif attack == "dropped last":
        del events[-2:]
    elif attack == "reordered":
        events[3], events[4] = events[4], events[3]
    elif attack == "doubled":
        events += events[-2:]
    elif attack == "another":
        board.load("other")
        events = list(board.evidence().events)
    else:
        events = []
    with pytest.raises(LogMismatchError, match="^LOG_MISMATCH: "):
        check_evidence(replace(evidence, events=tuple(events)), NONCE)


@pytest.mark.parametrize(
    "events",
    [
        [Event(EventKind.ROM, OTHER)],
        [Event(EventKind.IMAGE, OTHER), Event(EventKind.ROM, OTHER)],
        [Event(EventKind.PIPELINE, OTHER, {"name": "a"})],
        [Event(EventKind.PIPELINE, OTHER, {"name": "a"}), Event(EventKind.MODEL, OTHER, {"pipeline": "b"})],
        [Event(EventKind.MODEL, OTHER, {"pipeline": "digits"})],
        [Event(EventKind.PIPELINE_REMOVED, OTHER, {"name": "never"})],
        [Event(EventKind.PIPELINE_REMOVED, OTHER, {"name": "digits"})],
        [Event(EventKind.RESTARTED, OTHER)],
    ],
    ids=lambda events: "+".join(event.kind.name for event in events),
)
def test_a_log_that_no_board_makes_though_it_is_signed(board: Attested, events: list[Event]) -> None:
    evidence = board.evidence()
    longer = (*evidence.events, *(event.encode() for event in events))
    signed = forged(replace(evidence, events=longer), events=len(longer), value=replay(longer))
    with pytest.raises(LogMismatchError):
        check_evidence(signed, NONCE)


def test_a_configuration_whose_digest_is_not_of_its_facts(board: Attested) -> None:
    evidence = board.evidence()
    events = list(evidence.events)
    events[2] = Event(EventKind.CONFIGURATION, OTHER, {"access": "mutual"}).encode()
    with pytest.raises(LogMismatchError, match="not that of its facts"):
        check_evidence(forged(replace(evidence, events=tuple(events)), value=replay(events)), NONCE)


def test_a_history_that_is_not_the_boards(board: Attested) -> None:
    evidence = board.boot().evidence()
    assert len(check_evidence(evidence, NONCE).boots) == 2
    for boots in (evidence.boots[72:], evidence.boots[:72], b"", bytes(144)):
        with pytest.raises(BootsMismatchError, match="^BOOTS_MISMATCH: "):
            check_evidence(replace(evidence, boots=boots), NONCE)
    for boots in (evidence.boots[:72], b""):  # signed, and yet not of this boot
        digest = hashlib.sha256(boots).digest()
        signed = forged(replace(evidence, boots=boots), boots=digest, boots_size=len(boots))
        with pytest.raises(BootsMismatchError):
            check_evidence(signed, NONCE)


def test_another_image_of_the_same_signer(board: Attested) -> None:
    good = reference(board)
    board.booted = image("1.2.4")
    assert verdicts(board.boot(), good) == {Verdict.UNKNOWN_IMAGE}
    renamed = replace(good, images=(replace(good.images[0], digest=board.booted.digest),))
    assert verdicts(board, renamed) == {Verdict.UNKNOWN_IMAGE}  # of that digest, but with another version


def test_another_rom_and_configuration(board: Attested, tmp_path: Path) -> None:
    good = reference(board)
    constants = replace(CONSTANTS, rom=OTHER, configuration={**CONSTANTS.configuration, "access": "open"})
    other = Attested(tmp_path / "other", constants=constants).boot()
    assert verdicts(other, good) == {Verdict.UNKNOWN_ROM, Verdict.WRONG_CONFIGURATION}
    assert verdicts(other, replace(good, configurations=({},))) == {Verdict.UNKNOWN_ROM}
    assert verdicts(other, replace(good, configurations=())) == {Verdict.UNKNOWN_ROM, Verdict.WRONG_CONFIGURATION}


def test_a_pipeline_that_the_reference_does_not_know(board: Attested) -> None:
    good = reference(board)
    board.load("words")
    assert verdicts(board, good) == {Verdict.UNKNOWN_PIPELINE, Verdict.UNKNOWN_MODEL}
    board.unload("words")  # what it did is not undone
    assert verdicts(board, good) == {Verdict.UNKNOWN_PIPELINE, Verdict.UNKNOWN_MODEL}
    claims = check_evidence(board.evidence(), NONCE)
    assert [pipeline.name for pipeline in claims.pipelines] == ["digits", "words"]
    assert list(claims.served) == ["digits"]


def test_a_pipeline_of_a_good_name_and_another_package(board: Attested) -> None:
    good = reference(board)
    board.load("digits", size=11)
    assert verdicts(board, good) == {Verdict.UNKNOWN_PIPELINE}


def test_another_devices_key(board: Attested, tmp_path: Path) -> None:
    good = reference(board)
    swapped = Attested(tmp_path / "other", seed=OTHER).boot()
    swapped.load("digits")
    assert verdicts(swapped, good) == {Verdict.WRONG_DEVICE_KEY}
    assert verdicts(swapped, replace(good, devices=())) == {Verdict.DEVICE_KEY_NOT_PINNED}
    assert verdicts(swapped, replace(good, devices=()), DeviceKey(SEED).public) == {Verdict.WRONG_DEVICE_KEY}
    # The key is known, but as that of another device.
    listed = (*good.devices, ReferenceDevice("napu2", DeviceKey(OTHER).public))
    assert verdicts(swapped, replace(good, devices=listed)) == {Verdict.WRONG_DEVICE_KEY}


def test_a_good_device_that_answers_for_another(board: Attested) -> None:
    assert verdicts(board, reference(board), device="napu2") == {Verdict.WRONG_DEVICE}


def test_without_a_reference_nothing_is_good_but_a_key_that_was_given(board: Attested) -> None:
    assert verdicts(board, None) == {Verdict.NOT_COMPARED, Verdict.DEVICE_KEY_NOT_PINNED}
    assert verdicts(board, None, DeviceKey(SEED).public) == {Verdict.NOT_COMPARED}
    assert verdicts(board, None, OTHER) == {Verdict.NOT_COMPARED, Verdict.WRONG_DEVICE_KEY}


def test_trailers_of_this_and_of_earlier_epochs_are_explained(board: Attested) -> None:
    old = board.booted
    board.booted = image("1.2.4", slot=1)
    claims = check_evidence(board.boot(2).evidence(), NONCE)
    prefix = hashlib.sha256(b"digits").digest()[:8]
    for epoch, booted in ((1, old), (2, board.booted)):
        explained = explain(claims, epoch, prefix)
        assert (explained.boot.epoch, explained.boot.image) == (epoch, booted)
        assert [pipeline.name for pipeline in explained.pipelines] == ["digits"]
    for epoch, digest in ((3, prefix), (1, bytes(8))):
        with pytest.raises(NotExplainedError, match="^NOT_EXPLAINED: "):
            explain(claims, epoch, digest)


def test_every_error_has_a_name_of_its_own() -> None:
    kinds = AttestationError.__subclasses__()
    assert len({kind.code for kind in kinds}) == len(kinds) == 10
    assert encode_boots([]) == b""
