"""Requests of class *once* at a device: executed at most once, answered again, collected in any order of fragments."""

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rig.frames import (
    BAD_CRC,
    BUSY,
    CLOSE,
    INFER,
    OK,
    OPEN,
    REASSEMBLY_TIMEOUT,
    REPLY,
    UNKNOWN_SESSION,
    Pdu,
    decode,
    message,
)
from tests.rig.packages import tensor_package
from tests.rig.port import TRAILER_FLAG, Port, make_port
from tests.rig.tiny_models import doubler

ONCE, BARE = 9, 8  # with flag CRC and without, which the OPEN had not either
CANCEL, SETTLE, RESEND, WORKING, UNKNOWN, GRANT = 0x20, 0x21, 0x22, 0xA0, 0xA1, 0xA2
CANCELLED, DEADLINE_EXCEEDED = 20, 17
SMALL, LONG = 8, 1000  # floats of a body and an answer; the long one takes three frames


_bases = itertools.count(1)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    packages = (
        tensor_package("small", doubler((1, SMALL)), batch=8),
        tensor_package("long", doubler((1, LONG)), batch=4),
        tensor_package("slow", doubler((1, SMALL)), batch=8, delay_us=1_000_000),
    )
    for made in make_port(tmp_path, *packages):
        yield made
        counters = made.device.counters()
        assert counters["rx_frames"] == sum(value for name, value in counters.items() if name.startswith("frames_"))
        assert (made.device._state.sessions.outstanding >= 0).all()


def handle(port: Port, name: str) -> int:
    return next(int(entry["handle"]) for entry in port.device.pipelines() if entry["name"] == name)  # type: ignore[call-overload]


def values(number: int, count: int = SMALL) -> np.ndarray:
    return (np.arange(count) + number % 1000 * 1000).astype("<f4")


def once(port: Port, number: int, name: str = "small", **fields: int) -> Pdu:
    """Return request ``number`` of the session, which counts from 1: the OPEN had id 1."""
    body = values(number, LONG if name == "long" else SMALL).tobytes()
    return port.infer(1 + number, body, pipeline=handle(port, name), **{"flags": ONCE, **fields})


def frames(pdu: Pdu, fragment_size: int = 1468) -> list[bytes]:
    return message(pdu, fragment_size)


def notice(port: Port, opcode: int, number: int, body: bytes = b"") -> bytes:
    (data,) = message(Pdu(opcode, body, 1 + number, flags=ONCE, session=port.session), 1468)
    return data


def executed(port: Port) -> int:
    return port.device.counters()["inferences"]


def doubled(pdu: Pdu, number: int) -> bool:
    return np.array_equal(np.frombuffer(pdu.payload[: SMALL * 4], "<f4"), 2 * values(number))


# ---- copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [BARE, ONCE, BARE | TRAILER_FLAG, ONCE | TRAILER_FLAG])
@pytest.mark.parametrize("runt", [False, True], ids=["fast", "general"])
def test_a_copy_gets_the_same_bytes_and_is_not_executed(port: Port, flags: int, runt: bool) -> None:
    data = frames(once(port, 1, flags=flags))
    (first,) = port.exchange([*data, *([b"runt"] if runt else [])])
    assert port.fast() == (0 if runt else 1)
    for _ in range(3):
        assert port.exchange(data) == [first]
    assert decode(first).flags == flags
    assert doubled(decode(first), 1)
    assert executed(port) == 1
    assert port.device.counters()["frames_duplicate"] == port.device.counters()["replays"] == 3


def test_copies_in_one_batch_are_executed_once(port: Port) -> None:
    data = [frames(once(port, number))[0] for number in (1, 2, 2, 1, 3, 1)]
    replies = [decode(reply) for reply in port.exchange(data)]
    answers = [reply for reply in replies if reply.opcode == INFER | REPLY]
    assert sorted(reply.request - 1 for reply in replies if reply.opcode == WORKING) == [1, 1, 2]
    assert sorted(answer.request - 1 for answer in answers) == [1, 2, 3]
    assert all(doubled(answer, answer.request - 1) for answer in answers)
    assert executed(port) == 3
    assert port.device.counters()["frames_duplicate"] == 3


def test_a_copy_of_one_that_waits_hears_that_it_is_worked_on(port: Port) -> None:
    data = frames(once(port, 1, "slow"))
    assert port.exchange(data) == []
    (word,) = [decode(reply) for reply in port.exchange(data)]
    assert (word.opcode, word.request, word.session) == (WORKING, 2, port.session)
    assert word.retry_after >= 1
    port.clock.advance(2_000_000_000)
    (answer,) = [decode(reply) for reply in port.exchange([])]
    assert (answer.opcode, answer.status, executed(port)) == (INFER | REPLY, OK, 1)


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_and_number_of_copies(port: Port, data: st.DataObject) -> None:
    session = port.ask([Pdu(OPEN, msgpack.packb({"fragment_size": 1468}), next(_bases) << 32)])[0]
    base, port.session = session.request, session.session
    before = executed(port)
    numbers = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=40))
    seen: dict[int, bytes] = {}
    for begin in range(0, len(numbers), 7):
        batch = numbers[begin : begin + 7]
        pdus = [port.infer(base + n, values(n).tobytes(), pipeline=handle(port, "small"), flags=ONCE) for n in batch]
        for reply in port.exchange([frame for pdu in pdus for frame in frames(pdu)]):
            if decode(reply).opcode == WORKING:
                continue
            number = decode(reply).request - base
            assert seen.setdefault(number, reply) == reply
            assert doubled(decode(reply), number)
    assert set(seen) == set(numbers)
    assert executed(port) - before == len(set(numbers))


def test_what_the_window_has_left_behind_is_dropped(port: Port) -> None:
    window = port.device._state.answers.window
    port.exchange(frames(once(port, 1)))
    port.exchange(frames(once(port, 1 + window)))
    assert port.exchange(frames(once(port, 1))) == []
    assert port.device.counters()["frames_outdated"] == 1
    assert executed(port) == 2


def test_a_datagram_is_executed_as_often_as_it_comes(port: Port) -> None:
    data = frames(once(port, 1, flags=0))
    assert port.exchange(data) == port.exchange(data)
    assert executed(port) == 2


# ---- many frames -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [ONCE, ONCE | TRAILER_FLAG])
@pytest.mark.parametrize("fragment_size", [1468, 1002, 1000, 544])
def test_fragments_in_any_order_land(port: Port, fragment_size: int, flags: int) -> None:
    generator = np.random.default_rng(fragment_size)
    for number in range(1, 12):
        data = frames(once(port, number, "long", flags=flags), fragment_size)
        order = generator.permutation(len(data))
        cut = int(generator.integers(0, len(data)))
        answers = port.exchange([data[at] for at in order[:cut]]) if cut else []
        answers += port.exchange([data[at] for at in order[cut:]])
        results = [decode(reply) for reply in answers if decode(reply).opcode == INFER | REPLY]
        body = b"".join(pdu.payload for pdu in sorted(results, key=lambda pdu: pdu.fragment))
        assert {pdu.status for pdu in results} == {OK}
        assert np.array_equal(np.frombuffer(body[: LONG * 4], "<f4"), 2 * values(number, LONG))
    assert executed(port) == 11
    assert port.device._dataplane.collecting == 0


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_a_burst_of_requests_is_cut_into_batches(port: Port, data: st.DataObject) -> None:
    base, before = next(_bases) << 20, executed(port)
    flags = data.draw(st.sampled_from([ONCE, ONCE | TRAILER_FLAG]))
    count = data.draw(st.integers(1, 9))
    size = data.draw(st.sampled_from([1468, 1000, 544]))  # with 1000 all fragments are of one size
    burst = [frame for number in range(count) for frame in frames(once(port, base + number, "long", flags=flags), size)]
    for one, other in data.draw(st.lists(st.tuples(*[st.integers(0, len(burst) - 1)] * 2), max_size=2)):
        burst[one], burst[other] = burst[other], burst[one]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(burst) - 1), max_size=4)))
    bodies: dict[int, dict[int, bytes]] = {}
    for begin, end in itertools.pairwise([0, *cuts, len(burst)]):
        for reply in map(decode, port.exchange(burst[begin:end])):
            if reply.opcode == INFER | REPLY:
                assert reply.status == OK
                assert (
                    bodies.setdefault(reply.request - 1, {}).setdefault(reply.fragment, reply.payload) == reply.payload
                )
    assert sorted(bodies) == [base + number for number in range(count)]
    for number, parts in bodies.items():
        body = b"".join(parts[at] for at in range(len(parts)))
        assert np.array_equal(np.frombuffer(body[: LONG * 4], "<f4"), 2 * values(number, LONG))
    assert executed(port) == before + count
    assert port.device._dataplane.collecting == 0


def test_a_wrong_crc_among_whole_requests_is_refused_and_costs_no_other_its_answer(port: Port) -> None:
    bursts = [frames(once(port, number, "long", flags=ONCE)) for number in range(1, 6)]
    bursts[2][1] = bursts[2][1][:-1] + bytes([bursts[2][1][-1] ^ 1])
    replies = [decode(reply) for reply in port.exchange([frame for burst in bursts for frame in burst])]
    assert {reply.request - 1: reply.status for reply in replies} == {1: OK, 2: OK, 3: BAD_CRC, 4: OK, 5: OK}
    assert executed(port) == 4


def test_two_requests_whose_fragments_mingle(port: Port) -> None:
    first, second = frames(once(port, 1, "long")), frames(once(port, 2, "long"))
    mingled = [frame for pair in zip(first, second, strict=True) for frame in pair]
    results = [decode(reply) for reply in port.exchange(mingled)]
    assert sorted({pdu.request for pdu in results}) == [2, 3]
    assert executed(port) == 2


def test_a_grant_says_what_has_arrived(port: Port) -> None:
    data = frames(once(port, 1, "long"))
    assert port.exchange([data[0]]) == []
    (reply,) = port.exchange([data[2]])  # the last one, and number 1 is missing
    grant = decode(reply)
    assert (grant.opcode, grant.request, grant.session, grant.flags) == (GRANT, 2, port.session, ONCE)
    opcode, _, window, base = struct.unpack_from(">BBHI", grant.payload)
    assert (opcode, base, grant.payload[8:-4]) == (INFER, 1, b"\x40")  # 0 is there; of 1 and 2 the second
    assert window >= 1
    (again,) = port.exchange([data[0]])  # a second copy of a fragment
    assert again == reply
    assert port.device.counters()["frames_fragment_duplicate"] == 1
    results = [decode(part) for part in port.exchange([data[1]])]
    assert {pdu.status for pdu in results} == {OK}
    assert executed(port) == 1


def test_a_late_fragment_of_what_was_answered_gets_the_answer_again(port: Port) -> None:
    data = frames(once(port, 1, "long"))
    answer = port.exchange(data)
    assert port.exchange([data[1]]) == answer
    assert executed(port) == 1
    port.clock.advance(10_000_000_000)
    assert port.exchange([]) == []  # and nothing that would never be whole is left of it


def test_fragments_that_stay_away_are_given_up_and_the_request_can_come_again(port: Port) -> None:
    data = frames(once(port, 1, "long"))
    port.exchange(data[:2])
    port.clock.advance(3_000_000_000)
    (refusal,) = [decode(reply) for reply in port.exchange([])]
    assert (refusal.status, refusal.request) == (REASSEMBLY_TIMEOUT, 2)
    assert {decode(part).status for part in port.exchange(data)} == {OK}
    assert executed(port) == 1


def test_a_damaged_request_of_many_frames_can_come_again(port: Port) -> None:
    pdu = once(port, 1, "long", flags=ONCE)
    (refusal,) = [decode(reply) for reply in port.exchange(message(pdu, 1468, spoil_crc=True))]
    assert refusal.status == 35
    assert {decode(part).status for part in port.exchange(frames(pdu))} == {OK}
    assert executed(port) == 1


def test_an_unknown_session_or_pipeline_is_refused_at_the_first_fragment(port: Port) -> None:
    for change, status in (({"session": 77}, UNKNOWN_SESSION), ({"pipeline": 999}, 49)):
        pdu = Pdu(**{**vars_of(once(port, 1, "long")), **change})
        assert [decode(reply).status for reply in port.exchange(frames(pdu)[:1])] == [status]


def vars_of(pdu: Pdu) -> dict[str, object]:
    return {name: getattr(pdu, name) for name in pdu.__dataclass_fields__}


# ---- answers of many frames ------------------------------------------------------------------------------------------


def arrived(have: str, window: int = 64) -> bytes:
    """Return the body of a RESEND, by hand: ``have`` is one character for each fragment, 1 where it is there."""
    base = len(have) - len(have.lstrip("1"))
    rest = have[base:].rstrip("0")
    bits = int(rest.ljust(-(-len(rest) // 8) * 8, "0") or "0", 2).to_bytes(-(-len(rest) // 8), "big")
    return struct.pack(">BBHI", INFER | REPLY, 0, window, base) + bits


def test_a_resend_gets_what_is_missing(port: Port) -> None:
    answer = port.exchange(frames(once(port, 1, "long")))
    assert len(answer) == 3
    assert port.exchange([notice(port, RESEND, 1, arrived("101"))]) == [answer[1]]
    assert port.exchange([notice(port, RESEND, 1, arrived("100"))]) == answer[1:]
    assert port.exchange([notice(port, RESEND, 1, arrived("000", window=1))]) == answer[:1]
    assert executed(port) == 1


def test_an_answer_comes_by_as_many_fragments_as_its_requester_takes(port: Port) -> None:
    opened = port.ask([Pdu(OPEN, msgpack.packb({"fragment_size": 1468, "fragments": 2}), 50)])[0]
    pdu = port.infer(51, values(1, LONG).tobytes(), pipeline=handle(port, "long"), flags=ONCE, session=opened.session)
    assert [decode(part).fragment for part in port.exchange(frames(pdu))] == [0, 1]


def test_a_resend_of_what_nobody_keeps_gets_unknown(port: Port) -> None:
    for data in (
        notice(port, RESEND, 9, arrived("1")),
        *message(Pdu(RESEND, arrived("1"), 5, flags=ONCE, session=77), 1468),
        Pdu(RESEND, arrived("1"), 5, fragment_size=1468).encode(),
    ):
        (reply,) = port.exchange([data])
        assert decode(reply).opcode == UNKNOWN


@pytest.mark.parametrize("body", [b"", b"\x90\0\0\x40\0\0\0", b"\x90\0\0\0\0\0\0\0", bytes(137)])
def test_a_resend_that_says_nothing_is_dropped(port: Port, body: bytes) -> None:
    assert port.exchange([notice(port, RESEND, 1, body)]) == []
    assert port.device.counters()["frames_not_known"] == 1


def test_settled_answers_are_given_back(port: Port) -> None:
    port.exchange(frames(once(port, 1, "long")))
    port.exchange(frames(once(port, 2, "long")))
    port.exchange(frames(once(port, 3, "long")))
    held = port.device.counters()["answers_kept_bytes"]
    assert port.exchange([notice(port, SETTLE, 1, b"\x40")]) == []  # 1, and of those behind it the second: 3
    left = port.device.counters()["answers_kept_bytes"]
    assert left < held
    assert port.exchange(frames(once(port, 1, "long"))) == port.exchange(frames(once(port, 3, "long"))) == []
    assert len(port.exchange([frames(once(port, 2, "long"))[0]])) == 3
    assert port.device.counters()["frames_outdated"] == 6
    assert executed(port) == 3


def test_no_room_to_keep_an_answer_is_busy_before_it_is_executed(tmp_path: Path) -> None:
    for port in make_port(tmp_path, tensor_package("long", doubler((1, LONG))), kept_answers_bytes=1 << 15):
        asked = [frames(once(port, number, "long")) for number in range(1, 12)]
        statuses = [decode(port.exchange(data)[0]).status for data in asked]
        assert BUSY in statuses
        assert executed(port) == statuses.count(OK) >= 1
        port.exchange([notice(port, SETTLE, 11)])
        assert decode(port.exchange(frames(once(port, 12, "long")))[0]).status == OK


# ---- cancel ----------------------------------------------------------------------------------------------------------


def test_cancel_ends_what_waits(port: Port) -> None:
    port.exchange(frames(once(port, 1, "slow")))
    (answer,) = [decode(reply) for reply in port.exchange([notice(port, CANCEL, 1)])]
    assert (answer.opcode, answer.status, answer.request) == (INFER | REPLY, CANCELLED, 2)
    port.clock.advance(2_000_000_000)
    assert port.exchange([]) == []
    assert [decode(reply).status for reply in port.exchange(frames(once(port, 1, "slow")))] == [CANCELLED]
    assert executed(port) == 0


@pytest.mark.parametrize("sent", [0, 1, 2])
def test_cancel_before_the_request_is_whole(port: Port, sent: int) -> None:
    data = frames(once(port, 1, "long"))
    if sent:
        port.exchange(data[:sent])
    replies = [decode(reply) for reply in port.exchange([notice(port, CANCEL, 1)])]
    assert [reply.status for reply in replies] == ([CANCELLED] if sent else [])
    replies = [decode(reply) for reply in port.exchange(data)]
    assert {reply.status for reply in replies} == {CANCELLED}
    assert executed(port) == 0


def test_cancel_of_what_was_answered_changes_nothing(port: Port) -> None:
    data = frames(once(port, 1))
    answer = port.exchange(data)
    assert port.exchange([notice(port, CANCEL, 1)]) == []
    assert port.exchange(data) == answer


def test_a_datagram_can_be_cancelled_while_it_waits(port: Port) -> None:
    pdu = once(port, 1, "slow", flags=0)
    port.exchange(frames(pdu))
    plain = Pdu(CANCEL, b"", pdu.request, session=port.session, fragment_size=1468).encode()
    assert [decode(reply).status for reply in port.exchange([plain])] == [CANCELLED]
    assert port.exchange([plain]) == []
    assert port.device.counters()["frames_not_known"] == 1
    port.clock.advance(2_000_000_000)
    assert port.exchange([]) == []


# ---- credit, order, deadlines ----------------------------------------------------------------------------------------


def test_no_session_has_more_outstanding_than_its_credits(tmp_path: Path) -> None:
    package = tensor_package("slow", doubler((1, SMALL)), batch=64, delay_us=1_000_000)
    for port in make_port(tmp_path, package, credits=16):
        data = [frames(once(port, number, "slow"))[0] for number in range(1, 22)]
        refused = [decode(reply) for reply in port.exchange(data)]
        assert {pdu.request - 1: pdu.status for pdu in refused} == dict.fromkeys(range(17, 22), BUSY)
        assert all(pdu.retry_after >= 1 and pdu.credits == 16 for pdu in refused)
        port.clock.advance(2_000_000_000)
        assert [decode(reply).status for reply in port.exchange([])] == [OK] * 16
        assert port.exchange([data[-1]]) == []  # what was refused was not taken: it can come again
        port.clock.advance(2_000_000_000)
        assert [decode(reply).status for reply in port.exchange([])] == [OK]
        assert executed(port) == 17


def test_an_infer_behind_the_close_of_its_session_is_refused(port: Port) -> None:
    request = once(port, 1)
    close = Pdu(CLOSE, b"", 99, session=port.session, fragment_size=1468).encode()
    replies = [decode(reply) for reply in port.exchange([close, *frames(request)])]
    assert {(pdu.opcode, pdu.status) for pdu in replies} == {(CLOSE | REPLY, OK), (INFER | REPLY, UNKNOWN_SESSION)}


def test_an_infer_before_the_close_of_its_session_is_answered(port: Port) -> None:
    close = Pdu(CLOSE, b"", 99, session=port.session, fragment_size=1468).encode()
    replies = [decode(reply) for reply in port.exchange([*frames(once(port, 1)), close])]
    assert {(pdu.opcode, pdu.status) for pdu in replies} == {(CLOSE | REPLY, OK), (INFER | REPLY, OK)}


@pytest.mark.parametrize(("stage", "ran"), [("_prepare", 0), ("_invoke", 1)])
def test_no_stage_is_begun_behind_the_deadline(
    port: Port, monkeypatch: pytest.MonkeyPatch, stage: str, ran: int
) -> None:
    pipeline = port.device._state.table.named("small").pipeline  # type: ignore[union-attr]
    run = getattr(type(pipeline), stage)

    def slowly(*arguments: object) -> object:
        port.clock.advance(10_000_000)
        return run(*arguments)

    monkeypatch.setattr(type(pipeline), stage, slowly)
    pdus = [once(port, number, tail=5_000 if number % 2 else 50_000) for number in range(1, 5)]
    replies = [decode(reply) for reply in port.exchange([frame for pdu in pdus for frame in frames(pdu)])]
    statuses = {pdu.request - 1: pdu.status for pdu in replies}
    assert statuses == {1: DEADLINE_EXCEEDED, 2: OK, 3: DEADLINE_EXCEEDED, 4: OK}
    counters = port.device.counters()
    assert counters["inferences"] == 2 + 2 * ran
    assert counters["expired_before_dla"] == (0 if ran else 2)
    assert counters["expired_after_dla"] == (2 if ran else 0)


def test_an_expired_request_that_waited_does_not_reach_the_dla(port: Port) -> None:
    port.exchange(frames(once(port, 1, "slow", tail=50_000)))
    port.clock.advance(60_000_000)
    (answer,) = [decode(reply) for reply in port.exchange([])]
    assert answer.status == DEADLINE_EXCEEDED
    assert (executed(port), port.device.counters()["expired_in_queue"]) == (0, 1)
    assert [decode(reply).status for reply in port.exchange(frames(once(port, 1, "slow")))] == [DEADLINE_EXCEEDED]


# ---- sessions --------------------------------------------------------------------------------------------------------


def opened(port: Port, number: int, **asked: object) -> tuple[Pdu, dict[str, object]]:
    (reply,) = port.ask([Pdu(OPEN, msgpack.packb({"fragment_size": 1468, **asked}), number)])
    return reply, msgpack.unpackb(reply.payload) if reply.status == OK else {}


def test_what_an_opened_says(port: Port) -> None:
    reply, said = opened(port, 500)
    assert said["base"] == 500
    assert said["next"] == 501
    assert said["window"] == 128
    assert said["credits"] == reply.credits == 64


def test_a_resumed_session_goes_on_far_behind_what_was_seen(port: Port) -> None:
    port.exchange(frames(once(port, 1)))
    reply, said = opened(port, 900, resume=port.session)
    assert (reply.session, said["base"]) == (port.session, 1)
    assert int(str(said["next"])) >= 2 + (1 << 32)
    late = port.infer(int(str(said["next"])), values(7).tobytes(), pipeline=handle(port, "small"), flags=ONCE)
    assert [decode(answer).status for answer in port.exchange(frames(late))] == [OK]
    other, _ = opened(port, 901, resume=0x7777_0001)
    assert other.session not in (0, port.session, 0x7777_0001)


def test_nobody_resumes_the_session_of_another(port: Port) -> None:
    own, stranger = port.link, port.switch.attach()
    port.link = stranger
    reply, said = opened(port, 700, resume=port.session)
    port.link = own
    stranger.close()
    assert reply.session != port.session
    assert said["base"] == 700


def test_idle_sessions_expire(port: Port) -> None:
    port.exchange(frames(once(port, 1)))
    port.clock.advance(301 * 1_000_000_000)
    port.exchange([])
    assert [decode(reply).status for reply in port.exchange(frames(once(port, 1)))] == [UNKNOWN_SESSION]
    assert port.device.counters()["sessions_expired"] == 1


def test_ten_thousand_sessions_and_what_each_takes(tmp_path: Path) -> None:
    for port in make_port(tmp_path, tensor_package("small", doubler((1, SMALL)), batch=8)):
        body, own, asking = values(1).tobytes(), port.link, msgpack.packb({"fragment_size": 1468})
        for base in (1 << 20, 1 << 40):  # 5000 sessions, which is what one peer may have, and as many of another
            for begin in range(base, base + 1_000_000, 40_000):
                sessions = port.ask([Pdu(OPEN, asking, begin + at * 200) for at in range(200)])
                assert {pdu.status for pdu in sessions} == {OK}
                fields = {"pipeline": handle(port, "small"), "flags": ONCE}
                asked = [port.infer(pdu.request + 1, body, session=pdu.session, **fields) for pdu in sessions]
                assert {pdu.status for pdu in port.ask(asked)} == {OK}
            port.link = port.switch.attach()
        port.link.close()
        port.link = own
        counters, answers = port.device.counters(), port.device._state.answers
        assert counters["sessions"] == 10_001
        assert counters["inferences"] == 10_000
        assert answers.held == 10_000 * 128 * 128
        assert answers.session_bytes(100) == 128 * (128 + 8 + 4)


@pytest.mark.parametrize("size", [544, 1000, 1468])
def test_an_opened_is_as_long_as_its_padded_open(port: Port, size: int) -> None:
    least = len(msgpack.packb({"fragment_size": size, "padding": bytes(300)}))
    asked = Pdu(OPEN, msgpack.packb({"fragment_size": size, "padding": bytes(300 + size - least)}), 4_000 + size)
    assert len(asked.payload) == size
    (reply,) = port.exchange(message(asked, size))
    assert len(reply) == 32 + size


@pytest.mark.parametrize(
    "asked",
    [{"resume": -1}, {"resume": "x"}, {"tenant": 7}, {"tenant": "x" * 65}, {"fragments": 0}, {"fragments": 65536}],
)
def test_an_open_that_asks_for_nonsense_is_refused(port: Port, asked: dict[str, object]) -> None:
    assert opened(port, 600, **asked)[0].status == 65


def test_the_id_of_an_open_leaves_room_to_count(port: Port) -> None:
    assert opened(port, 1 << 62)[0].status == 65
    assert opened(port, (1 << 62) - 1)[0].status == OK


# ---- threads ---------------------------------------------------------------------------------------------------------


def test_permutations_of_small_histories(port: Port) -> None:
    """Every order of two requests of three fragments, each sent twice over, gives each its own answer once executed."""
    number = itertools.count(1)
    generator = np.random.default_rng(1)
    for _ in range(150):
        first, second = next(number), next(number)
        data = frames(once(port, first, "long")) * 2 + frames(once(port, second, "long")) * 2
        before, results = executed(port), {}
        for begin in range(0, 12, 4):
            order = generator.permutation(12)
            batch = [data[at] for at in order[begin : begin + 4]]
            for reply in port.exchange(batch):
                pdu = decode(reply)
                if pdu.opcode == INFER | REPLY:
                    results.setdefault((pdu.request, pdu.fragment), reply)
                    assert results[pdu.request, pdu.fragment] == reply
        for reply in port.exchange(data[:6]) + port.exchange(data[6:]):
            pdu = decode(reply)
            if pdu.opcode == INFER | REPLY:
                assert results.setdefault((pdu.request, pdu.fragment), reply) == reply
        assert executed(port) - before == 2
        assert len(results) == 6


@pytest.mark.parametrize("flags", [0, ONCE, ONCE | TRAILER_FLAG])
def test_what_is_over_the_credit_is_refused_alike_on_both_paths(tmp_path: Path, flags: int) -> None:
    for port in make_port(tmp_path, tensor_package("small", doubler((1, SMALL)), batch=8), credits=16):
        data = [frames(once(port, number, flags=flags))[0] for number in range(1, 31)]
        fast = port.exchange(data)
        assert port.fast() == 16
        later = [frames(once(port, number, flags=flags))[0] for number in range(31, 61)]
        slow = port.exchange([b"runt", *later])
        for replies, first in ((fast, 2), (slow, 32)):
            statuses = {decode(reply).request - first: decode(reply).status for reply in replies}
            assert statuses == {at: OK if at < 16 else BUSY for at in range(30)}
        one = next(reply for reply in fast if decode(reply).status == BUSY)
        other = next(reply for reply in slow if decode(reply).status == BUSY)
        assert len(one) == len(other)
        assert (one[:8], one[16:30]) == (other[:8], other[16:30])  # all but the request and retry_after
        assert executed(port) == 32
        counters = port.device.counters()
        assert counters["rx_frames"] == sum(value for name, value in counters.items() if name.startswith("frames_"))
        assert counters["answers_busy"] == 28


@pytest.mark.parametrize("runt", [False, True], ids=["fast", "general"])
def test_of_a_flood_over_the_credit_the_first_are_refused_and_the_others_counted(tmp_path: Path, runt: bool) -> None:
    for port in make_port(tmp_path, tensor_package("small", doubler((1, SMALL)), batch=8), credits=16):
        data = [frames(once(port, number))[0] for number in range(1, 101)]
        statuses = [decode(reply).status for reply in port.exchange([*data, *([b"runt"] if runt else [])])]
        assert sorted(statuses) == [OK] * 16 + [BUSY] * 16
        counters = port.device.counters()
        assert counters["frames_over_credit"] == 100 - 32
        assert [decode(reply).status for reply in port.exchange(data[99:])] == [
            OK
        ]  # it was not taken: it can come again


@pytest.mark.parametrize("change", [{"deadline": 7}, {"priority": 9}, {"fragment_size": 1000}])
def test_fragments_that_contradict_each_other_are_given_up(port: Port, change: dict[str, int]) -> None:
    first = frames(once(port, 1, "long"))
    fields = {"tail": change["deadline"]} if "deadline" in change else change
    size = fields.pop("fragment_size", 1468)
    other = frames(once(port, 1, "long", **fields), size)
    assert port.exchange(first[:1]) == []
    statuses = {decode(reply).status for reply in port.exchange(other[1:2]) if decode(reply).opcode == INFER | REPLY}
    assert statuses == {37}
    assert {decode(reply).status for reply in port.exchange(first)} == {OK}
    assert executed(port) == 1


@pytest.mark.parametrize("odd_first", [False, True])
@pytest.mark.parametrize("fields", [{"length": 4 * LONG + 1}, {"length": 4 * LONG + 8}])
def test_fragments_that_contradict_each_other_end_a_request_whoever_collects_them(
    port: Port, fields: dict[str, int], odd_first: bool
) -> None:
    """The length of a request that no pipeline takes in place has it collected elsewhere than the right one."""
    number = 1 << 40
    body = values(number, LONG).tobytes()
    size = 1400
    right = Pdu(
        INFER, body[:size], number, ONCE, port.session, handle(port, "long"), length=len(body), fragment_size=size
    )
    shared = {name: getattr(right, name) for name in right.__dataclass_fields__}
    odd = Pdu(**{**shared, **fields, "fragment": 1, "payload": body[size : 2 * size]})
    pair = [odd.encode(), right.encode()] if odd_first else [right.encode(), odd.encode()]
    answers = [decode(data) for pdu in pair for data in port.exchange([pdu])]
    assert [(answer.opcode, answer.request, answer.status) for answer in answers] == [(INFER | REPLY, number, 37)]
    assert port.device.counters()["collecting"] == port.device.counters()["reassembling"] == 0
    whole = [
        decode(data)
        for data in port.exchange(message(Pdu(INFER, body, number, ONCE, port.session, handle(port, "long"))))
    ]
    assert {answer.status for answer in whole} == {OK}
