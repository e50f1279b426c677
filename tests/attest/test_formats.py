"""The bytes of events, boots, quotes and references: the golden ones of the text, and hostile ones."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.board.device_key import DeviceKey
from host_sdk.wire.attest.boots import Boot, BootedImage, decode_boots, encode_boots
from host_sdk.wire.attest.collected import Evidence
from host_sdk.wire.attest.errors import AttestationError, MalformedEvidenceError, MalformedReferenceError
from host_sdk.wire.attest.events import Event, EventKind, decode_facts, encode_facts, replay
from host_sdk.wire.attest.evidence import check_evidence
from host_sdk.wire.attest.quote import QUOTE_SIZE, Quote
from host_sdk.wire.attest.reference import Reference, ReferenceDevice, ReferenceImage, ReferencePipeline
from tests.firmware import ed25519_reference
from tests.rig.attested import SEED

PAGE = (Path(__file__).parents[2] / "docs" / "attestation.md").read_text(encoding="utf-8")
NONCE = bytes(range(32))
DIGESTS = st.binary(min_size=32, max_size=32)
FACTS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9._-]{0,9}", fullmatch=True),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40),
    max_size=6,
)
VERSIONS = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,31}", fullmatch=True)
BOOTED = st.builds(BootedImage, DIGESTS, VERSIONS, st.integers(0, 2**32 - 1), st.integers(0, 2))
BOOTS = st.lists(st.builds(Boot, st.integers(0, 65535), st.integers(0, 3), st.none() | BOOTED), max_size=64)


def sha(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def block(number: int) -> list[str]:
    """Return the lines of a block of hex in section 8, without offsets and words."""
    section = PAGE.partition("## 8.")[2]
    lines = re.findall(r"```hex\n(.*?)```", section, re.DOTALL)[number].splitlines()
    return [re.sub(r"^ *\d+ {2}", "", line).split(" ")[0] for line in lines]


def golden() -> Evidence:
    """Return the evidence of the text; its signature is compared with arithmetic in plain integers."""
    key, *signature = block(4)
    return Evidence(
        quote=bytes.fromhex("".join(block(3))),
        signature=bytes.fromhex("".join(signature)),
        key=bytes.fromhex(key),
        boots=bytes.fromhex("".join(block(2))),
        events=tuple(bytes.fromhex(line) for line in block(0)),
    )


def test_the_quote_of_the_text_is_what_is_made_of_what_it_says() -> None:
    text = golden()
    configuration = b"access=mutual\nlink=udp\n"
    events = [
        Event(EventKind.ROM, sha(b"rom")),
        Event(EventKind.IMAGE, sha(b"image"), {"security_counter": "5", "slot": "A", "version": "1.2.3"}),
        Event(EventKind.CONFIGURATION, sha(configuration), {"link": "udp", "access": "mutual"}),
        Event(EventKind.PIPELINE, sha(b"package"), {"name": "digits"}),
        Event(EventKind.MODEL, sha(b"model"), {"pipeline": "digits"}),
    ]
    assert [event.encode() for event in events] == list(text.events)
    old, new = BootedImage(sha(b"old image"), "1.2.2", 4, 0), BootedImage(sha(b"image"), "1.2.3", 5, 0)
    assert encode_boots([Boot(6, 1, old), Boot(7, 2, new)]) == text.boots
    value = replay(text.events)
    assert value.hex() == block(1)[-1]
    quote = Quote("napu1", NONCE, 7, 3, 5, value, sha(text.boots), len(text.boots), 123456).encode()
    assert quote == text.quote
    assert DeviceKey(SEED).public == text.key
    assert DeviceKey(SEED).sign(quote) == text.signature


def test_the_text_agrees_with_other_arithmetic_and_with_a_replay_of_its_own() -> None:
    text = golden()
    assert ed25519_reference.verify(text.key, b"NAPU attestation quote 1\0" + text.quote, text.signature)
    value = bytes(32)
    for event, after in zip(text.events, block(1), strict=True):
        value = sha(value + sha(event))
        assert value.hex() == after
    assert text.quote[64:96] == value
    assert text.quote[96:128] == sha(text.boots)
    claims = check_evidence(text, NONCE)
    assert [(pipeline.name, pipeline.model) for pipeline in claims.pipelines] == [("digits", sha(b"model"))]
    assert (claims.rom, claims.image.digest, claims.configuration["link"]) == (sha(b"rom"), sha(b"image"), "udp")


@given(st.sampled_from(EventKind), DIGESTS, FACTS)
def test_events_come_back(kind: EventKind, digest: bytes, facts: dict[str, str]) -> None:
    event = Event(kind, digest, facts)
    assert Event.decode(event.encode()) == event


@given(st.binary(max_size=200) | st.builds(lambda head, tail: head + tail, st.just(bytes([1])), st.binary()))
def test_bytes_are_an_event_in_one_form_alone_or_none(data: bytes) -> None:
    try:
        event = Event.decode(data)
    except MalformedEvidenceError:
        return
    assert event.encode() == data


@given(st.lists(st.sampled_from([b"a=1\n", b"b=2\n", b"b=2", b"=\n", b"c\n", b"\xff=1\n", b"d=\x00\n", b"e=\r\n"])))
def test_facts_have_one_form_alone(parts: list[bytes]) -> None:
    text = b"".join(parts)
    try:
        facts = decode_facts(text)
    except MalformedEvidenceError:
        return
    assert encode_facts(facts) == text


@pytest.mark.parametrize(
    "facts", [{"A": "1"}, {"a": "1\nb=2"}, {"a": "ä"}, {"a": "\udc80"}, {"a": "x" * 256}, {"": ""}, {"a=b": "c"}]
)
def test_facts_that_no_event_has(facts: dict[str, str]) -> None:
    with pytest.raises(MalformedEvidenceError):
        encode_facts(facts)


@given(BOOTS)
def test_boots_come_back(boots: list[Boot]) -> None:
    assert list(decode_boots(encode_boots(boots))) == boots


@given(st.binary(max_size=4).flatmap(lambda head: st.just(head + bytes(72 - len(head)))) | st.binary(max_size=300))
def test_bytes_are_a_history_in_one_form_alone_or_none(data: bytes) -> None:
    try:
        boots = decode_boots(data)
    except MalformedEvidenceError:
        return
    assert encode_boots(boots) == data


@given(st.integers(0, QUOTE_SIZE - 1), st.integers(1, 255))
def test_a_changed_byte_of_a_quote_is_another_quote_or_none(at: int, change: int) -> None:
    data = bytearray(golden().quote)
    data[at] ^= change
    try:
        quote = Quote.decode(bytes(data))
    except MalformedEvidenceError:
        return
    assert quote.encode() == data
    assert quote != Quote.decode(golden().quote)


@given(st.binary(max_size=400))
def test_hostile_bytes_are_no_quote(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError):
        Quote.decode(data)


@given(
    st.sampled_from(["quote", "signature", "key", "boots", "events"]),
    st.integers(0, 200),
    st.integers(0, 255),
    st.booleans(),
)
def test_evidence_with_any_byte_changed_or_cut_has_one_named_error(part: str, at: int, byte: int, cut: bool) -> None:
    evidence = golden()
    events = list(evidence.events)
    old = events[at % len(events)] if part == "events" else getattr(evidence, part)
    place = at % len(old)
    new = old[:place] if cut else old[:place] + bytes([byte]) + old[place + 1 :]
    if new == old:
        return
    if part == "events":
        events[at % len(events)] = new
        damaged = replace(evidence, events=tuple(events))
    else:
        damaged = replace(evidence, **{part: new})
    with pytest.raises(AttestationError) as caught:
        check_evidence(damaged, NONCE)
    assert str(caught.value).startswith(f"{caught.value.code}: ")


REFERENCE = Reference(
    sequence=3,
    issued=10,
    expires=20,
    roms=(sha(b"rom"),),
    images=(ReferenceImage(sha(b"image"), "1.2.3", 5),),
    configurations=({"access": "mutual"},),
    pipelines=(ReferencePipeline("digits", sha(b"package"), sha(b"model")),),
    devices=(ReferenceDevice("napu1", bytes(32)),),
)


def test_references_come_back() -> None:
    assert Reference.decode(REFERENCE.encode()) == REFERENCE
    assert Reference.decode(Reference(1, 2, 3).encode()) == Reference(1, 2, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": -1}, {"sequence": True}, {"sequence": 1.0}, {"expires": 2**64}, {"roms": "x"}, {"roms": [1]},
        {"roms": ["ab"]}, {"roms": ["AB" * 32]}, {"images": [{"digest": "ab" * 32}]}, {"images": [3]}, {"more": 1},
        {"configurations": [{"a": 1}]}, {"configurations": [["a"]]}, {"configurations": [{"a": "ä"}]},
        {"pipelines": [{"name": "x", "digest": "ab" * 32, "model": "ab" * 32, "more": 1}]},
        {"devices": [{"device": "x" * 256, "key": "ab" * 32}]}, {"roms": ["ab" * 32] * 4097},
    ],
)  # fmt: skip
def test_what_is_no_reference(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedReferenceError):
        Reference.decode(json.dumps({**REFERENCE.as_json(), **changes}).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"1" * 5000, b" " * (2 << 20)],
)
def test_hostile_json_is_no_reference(data: bytes) -> None:
    with pytest.raises(MalformedReferenceError):
        Reference.decode(data)


def test_a_key_that_stands_twice_is_refused() -> None:
    text = REFERENCE.encode().decode()
    with pytest.raises(MalformedReferenceError, match="twice"):
        Reference.decode(text.replace('"expires": 20', '"expires": 20, "expires": 99').encode())


@given(st.binary(max_size=300))
def test_hostile_bytes_are_no_reference(data: bytes) -> None:
    with pytest.raises(MalformedReferenceError):
        Reference.decode(data)
