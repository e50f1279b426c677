"""Every row of the requester's table: the request is brought into the state, the event happens, the row is done."""

from collections.abc import Callable
from typing import Any

import pytest

from host_sdk.wire.errors import NapuTimeoutError
from host_sdk.wire.exchange import course, sending
from host_sdk.wire.exchange.states import REQUEST_RULES, RequestAction, RequestEvent, RequestState
from host_sdk.wire.header import Header, decode_header
from host_sdk.wire.schema import Opcode
from tests.wire.window_bench import BUSY, MS, WindowBench, answer, grant, notice, only, said

S, E, A = RequestState, RequestEvent, RequestAction
BODY = bytes(range(90))  # five fragments
Row = tuple[RequestState, RequestEvent]
# What has no id cannot be spoken of, and room is there before a request is sent, not after.
ROWS = [
    (state, event)
    for state, event in REQUEST_RULES
    if (state is S.WAITING) <= (event in (E.ROOM, E.GIVEN_UP)) and (event is E.ROOM) <= (state is S.WAITING)
]


class Recorded(dict[Row, Any]):
    """The rules, and which of them were looked up."""

    def __init__(self) -> None:
        super().__init__(REQUEST_RULES)
        self.rows: list[Row] = []

    def __getitem__(self, row: Row) -> Any:
        self.rows.append((RequestState(row[0]), RequestEvent(row[1])))
        return super().__getitem__(row)


class Case:
    """One request in a state."""

    def __init__(self, state: RequestState) -> None:
        self.bench = WindowBench(credits=1)
        self.first: list[bytes] = []
        if state is S.WAITING:
            self.bench.submit([b"before"], timeout_ms=60_000)
            self.before = decode_header(self.bench.send()[0])
        (self.token,) = self.bench.submit([BODY])
        self.first = self.bench.send()
        if state is S.WAITING:
            assert self.first == []
            return
        self.asked = decode_header(self.first[0])
        self.reply = answer(self.asked, b"the answer in three fragments, no less than that")
        assert len(self.reply) == 3
        {
            S.SENT: lambda: None,
            S.HELD: lambda: self.bench.take(notice(Opcode.WORKING, self.asked)),
            S.PAUSED: lambda: self.bench.take(*answer(self.asked, status=BUSY, retry_after=300)),
            S.PARTIAL: lambda: self.bench.take(self.reply[0]),
            S.SETTLED: lambda: self.bench.take(*answer(self.asked)),
        }[state]()
        self.bench.became()
        self.bench.send()
        assert self.state is state

    @property
    def state(self) -> RequestState:
        window = self.bench.window._course
        return RequestState(int(window.slots.states[self.asked.request % 128]))


def happen(case: Case, event: RequestEvent) -> None:
    bench, asked = case.bench, case.asked if hasattr(case, "asked") else Header(0, 0)
    events: dict[RequestEvent, Callable[[], object]] = {
        E.ROOM: lambda: bench.events.extend(bench.take(*answer(case.before))[:0]),
        E.TIMEOUT: lambda: setattr(bench, "now", bench.window.next_timer() or bench.now + 5000 * MS),
        E.GRANT: lambda: bench.take(grant(asked, "10010")),
        E.WORKING: lambda: bench.window.take(*framed(notice(Opcode.WORKING, asked, retry_after=9000)), bench.now),
        E.UNKNOWN: lambda: bench.window.take(*framed(notice(Opcode.UNKNOWN, asked)), bench.now),
        E.PART: lambda: bench.window.take(*framed(case.reply[1]), bench.now),
        E.ANSWER: lambda: bench.window.take(*framed(answer(asked, b"whole", 64)[0]), bench.now),
        E.REFUSED: lambda: bench.window.take(*framed(answer(asked, status=BUSY, retry_after=9999)[0]), bench.now),
        E.GIVEN_UP: lambda: setattr(bench, "now", bench.now + 6000 * MS),
    }
    events[event]()


def framed(pdu: bytes) -> tuple[Header, bytes]:
    return decode_header(pdu), pdu


@pytest.mark.parametrize(("state", "event"), ROWS, ids=lambda value: value.name)
def test_a_row_is_followed(state: RequestState, event: RequestEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    action, then = REQUEST_RULES[state, event]
    case = Case(state)
    rules = Recorded()
    monkeypatch.setattr(course, "REQUEST_RULES", rules)
    monkeypatch.setattr(sending, "REQUEST_RULES", rules)
    happen(case, event)
    sent = [pdu for pdu in case.bench.send() if not hasattr(case, "before") or decode_header(pdu) != case.before]
    opcodes = [decode_header(pdu).opcode for pdu in sent]
    fragments = [decode_header(pdu).fragment for pdu in sent]
    events = case.bench.became()
    if state is S.SETTLED:
        assert (sent, events, rules.rows) == ([], [], [])  # nothing of it is known any more, so nothing is looked up
        return
    if not (state is S.WAITING and event is E.ROOM):  # whose rule stands at the head of sending.py
        assert (state, event) in rules.rows
    if state is not S.WAITING:
        assert case.state is then
    expected: dict[RequestAction, tuple[list[int], list[int]]] = {
        A.SEND: ([Opcode.INFER] * 5, [0, 1, 2, 3, 4]),
        A.RESTART: ([Opcode.INFER] * 5, [0, 1, 2, 3, 4]),
        A.PROBE: ([Opcode.INFER], [4]),
        A.FILL: ([Opcode.INFER] * 2, [1, 2]),  # sent before fragment 3, which has arrived
        A.ASK: ([Opcode.RESEND], [0]),
        A.FAIL: ([Opcode.CANCEL], [0]),
    }
    if (state, event) == (S.HELD, E.GRANT):
        expected[A.FILL] = ([Opcode.INFER] * 3, [1, 2, 4])  # all were there, so these are forgotten
    if action is A.RESTART and state is S.PAUSED:
        assert opcodes.pop(0) == Opcode.SETTLE  # before it is sent again because of BUSY
        fragments.pop(0)
    assert (opcodes, fragments) == expected.get(action, ([], []))
    assert [pdu for pdu in sent if decode_header(pdu).opcode == Opcode.INFER and pdu not in case.first] == (
        sent if action is A.SEND else []
    )
    outcome = {A.DELIVER: None, A.FAIL: NapuTimeoutError, A.FAIL_UNSENT: NapuTimeoutError}
    if action not in outcome:
        assert events == []
        if action is A.HOLD:
            assert case.bench.window.next_timer() == case.bench.now + 900 * MS
        if action is A.PAUSE:
            assert case.bench.window.next_timer() == case.bench.now + 999_900_000
        if action is A.ASK:
            assert said(sent[0]).have(3).tolist() == [True, False, False]
        return
    last = only(events[-1:])
    assert last.tokens.tolist() == [case.token]
    if state is S.PAUSED and action is A.FAIL:
        assert "BUSY" in str(last.error)  # the last answer is what it failed of
    else:
        assert type(last.error) is (outcome[action] or type(None))
    if action is A.DELIVER:
        assert last.bodies.tobytes() == b"whole"


def test_only_ignored_rows_are_left_out() -> None:
    for row in set(REQUEST_RULES) - set(ROWS):
        assert REQUEST_RULES[row][0] is A.IGNORE
