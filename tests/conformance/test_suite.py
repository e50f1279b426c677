"""The suite at the real device in memory: it passes, and devices that are wrong in one thing do not."""

import re
from pathlib import Path

import pytest

from host_sdk.conformance import tables
from host_sdk.conformance.case import DeadTargetError, FailedError
from host_sdk.conformance.connect import greet, parse_target
from host_sdk.conformance.frames import CRC, Frame, message
from host_sdk.conformance.patterns import Mask, MaskedBytes, Pattern
from host_sdk.conformance.report import Report
from host_sdk.conformance.run import Outcome, Verdict, run_all
from host_sdk.conformance.suite import CASES, UNOBSERVABLE, chosen
from host_sdk.wire.errors import ConfigError
from host_sdk.wire.schema import Opcode
from tests.conformance.device import World, device_world
from tests.conformance.mutants import LEAST_KILLED, attack, long_package, mutants
from tests.rig import frames as by_hand
from tests.rig.packages import image_package, tensor_package

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
SHORT, LONG, MEDIA = (tensor_package("raw"), 1500), (long_package(), 1500), (image_package(), 1500)


def passed(outcomes: list[Outcome]) -> set[str]:
    """Check that no case failed; return the numbers of those that passed."""
    failed = [f"{entry.case.number} {entry.case.sentence}: {entry.reason}" for entry in outcomes if entry.expected]
    assert not failed, "\n".join(failed)
    return {entry.case.number for entry in outcomes if entry.verdict is Verdict.PASS}


def test_the_right_device_passes_every_case_in_one_way_or_another(tmp_path: Path) -> None:
    ways = [SHORT, LONG, MEDIA, (tensor_package("raw"), 576)]
    seen: set[str] = set()
    for number, (package, mtu) in enumerate(ways):
        with device_world(tmp_path / str(number), package, mtu=mtu) as world:
            world.get_ready()
            seen |= passed(list(run_all(CASES, world.rig, slow=True)))
            counters = world.device.counters()
            assert counters["sessions"] == 0, "a case has left a session"
            assert counters["reassembling"] == counters["collecting"] == 0, "a case has left a message unfinished"
    with device_world(tmp_path / "mutual", SHORT[0], mutual=True) as world:
        world.get_ready()
        seen |= passed(list(run_all(CASES, world.rig, slow=True)))
    left = {case.number for case in CASES} - seen
    assert left == {"N-001.1"}, "nothing but the EtherType, which a switch in memory has not"


def test_devices_that_are_wrong_in_one_thing_are_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    everyone = list(mutants())
    alive = [mutant.name for number, mutant in enumerate(everyone) if not attack(mutant, tmp_path / str(number))]
    rate = 1 - len(alive) / len(everyone)
    with capsys.disabled():
        print(f"\nconformance: {len(everyone) - len(alive)} of {len(everyone)} mutants were found out: {rate:.1%}")  # noqa: T201
    assert len(everyone) >= 40
    assert rate >= LEAST_KILLED, alive


def test_every_rule_has_a_case_or_a_reason_why_not() -> None:
    rules = set(re.findall(r"^- \[(N-\d{3})\]", PROTOCOL, re.MULTILINE))
    with_case = set(tables.rule_cases())
    assert with_case | set(UNOBSERVABLE) == rules
    assert with_case & set(UNOBSERVABLE) == set()


def test_cases_have_numbers_and_sentences_of_their_own() -> None:
    assert len(CASES) >= 120
    assert len({case.number for case in CASES}) == len(CASES)
    assert len({case.sentence for case in CASES}) == len(CASES)


def test_the_tables_of_the_documentation_are_fresh() -> None:
    text = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    renewal = "run: python -m host_sdk.conformance.tables docs/conformance.md"
    assert tables.renew(text) == text, renewal
    with pytest.raises(ValueError, match="cases"):
        tables.renew(text.replace("<!-- generated: cases -->", ""))


def test_cases_are_chosen_by_rule_and_by_number() -> None:
    assert {case.rules[0] for case in chosen(["N-011"])} == {"N-011"}
    assert [case.number for case in chosen(["N-011.2"])] == ["N-011.2"]
    assert any(case.number.startswith("N-103") for case in chosen(["N-067"]))
    with pytest.raises(ConfigError, match="requesters alone"):
        chosen(["N-015"])
    with pytest.raises(ConfigError, match="--list"):
        chosen(["N-999"])


@pytest.mark.parametrize("fields", [{}, {"flags": 1}, {"flags": 1, "priority": 3, "session": 7, "deadline": 9}])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_frames_are_those_that_the_text_describes(fields: dict[str, int], size: int) -> None:
    body = bytes(range(50))
    expected = by_hand.message(by_hand.Pdu(16, body, 77, tail=fields.get("deadline", 0), **_without(fields)), size)
    assert message(Frame(16, body, 77, **fields), size) == expected


def _without(fields: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in fields.items() if name != "deadline"}


@pytest.fixture
def world(tmp_path: Path) -> "World":  # type: ignore[misc]
    with device_world(tmp_path, SHORT[0]) as made:
        made.get_ready()
        yield made


def test_verbs_say_what_was_expected_and_what_came(world: World) -> None:
    rig, request = world.rig, world.rig.number()
    rig.send(Frame(Opcode.CLOSE, request=request).encode())
    with pytest.raises(FailedError) as failure:
        rig.expect(Pattern(opcode=Opcode.OPENED, request=request))
    assert failure.value.expected == f"opcode OPENED, request {request:#x}"
    assert f"CLOSED request {request:#x} session 0x0 status UNKNOWN_SESSION" in failure.value.got
    assert [line[:6] for line in failure.value.frames[-2:]] == ["-> 010", "<- 018"]
    # What was not meant is kept.
    assert rig.expect(Pattern(opcode=Opcode.CLOSED)).request == request
    rig.expect_quiet()
    rig.send(Frame(Opcode.CLOSE, request=request).encode())
    with pytest.raises(FailedError, match="no frame with any frame"):
        rig.expect_quiet()


def test_masks_and_dont_cares(world: World) -> None:
    rig = world.rig
    reply = rig.ask(Frame(Opcode.CLOSE, b"", 0x1234, CRC, 0x5678_0009))
    meant = Pattern(opcode=(1, Opcode.CLOSED), session=Mask(0x5678_0000, 0xFFFF_0000), status=range(40, 50))
    assert meant.matches(reply)
    assert not Pattern(session=Mask(0x5678_0000, 0xFFFF_FFFF)).matches(reply)
    assert not Pattern(status=range(1, 5)).matches(reply)
    first = reply.payload[:2]
    assert Pattern(payload=MaskedBytes(first, b"\xff\xff")).matches(reply)
    flipped = bytes([first[0] ^ 0x81, first[1]])
    assert not Pattern(payload=MaskedBytes(flipped, b"\xff\xff")).matches(reply)
    assert Pattern(payload=MaskedBytes(flipped, b"\x7e\xff")).matches(reply)
    assert not Pattern(payload=MaskedBytes(bytes(600), bytes(600))).matches(reply)
    assert str(Pattern()) == "any frame"
    assert "0x56780000 under mask 0xffff0000" in str(meant)


def test_a_target_that_goes_silent_ends_the_run(world: World) -> None:
    running = run_all(chosen(["N-010"]), world.rig)
    outcomes = [next(running)]
    world.link.tell = lambda _peer, _pdu: []
    outcomes.append(next(running))
    with pytest.raises(DeadTargetError, match="answers nothing any more"):
        next(running)
    assert [outcome.verdict for outcome in outcomes] == [Verdict.PASS, Verdict.FAIL]
    with pytest.raises(DeadTargetError, match="does not answer"):
        greet(world.rig, "the device")
    report = Report("memory", {}, outcomes)
    assert report.failed
    assert report.counts["fail"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("udp:192.0.2.7", ("udp:0.0.0.0:0", "192.0.2.7:34997")),
        ("udp:192.0.2.7:5", ("udp:0.0.0.0:0", "192.0.2.7:5")),
        ("packet:eth0:02:00:00:00:00:01", ("packet:eth0", "02:00:00:00:00:01")),
        ("xdp:eth0", ("xdp:eth0", "")),
    ],
)
def test_targets_are_links_and_addresses(text: str, expected: tuple[str, str]) -> None:
    assert parse_target(text) == expected


@pytest.mark.parametrize("text", ["", "udp", "udp:", "usb:1", "eth0"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="udp:HOST"):
        parse_target(text)
