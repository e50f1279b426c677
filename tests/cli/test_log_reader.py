"""Following a log whose node forgets, restarts and lies."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.cli.log_reader import LogEvent, LogLine, LogReader, Lost, PowerCycle
from host_sdk.wire.errors import NapuTimeoutError, RemoteProtocolError


class Ring:
    """A node's log as the protocol describes it, with room for a few lines."""

    def __init__(self, room: int = 4) -> None:
        self.room, self.now, self.lines = room, 0.0, list[dict[str, Any]]()

    def say(self, *texts: str) -> None:
        for text in texts:
            self.now += 0.25
            sequence = self.lines[-1]["sequence"] + 1 if self.lines else 1
            self.lines = [*self.lines, {"sequence": sequence, "time_s": self.now, "text": text}][-self.room :]

    def ask(self, after: int) -> dict[str, Any]:
        lines = [line for line in self.lines if line["sequence"] > after]
        return {"lines": lines, "next": lines[-1]["sequence"] if lines else after}


def shown(events: list[LogEvent]) -> list[Any]:
    return [event.text if isinstance(event, LogLine) else event for event in events]


def test_lines_come_once_and_in_order() -> None:
    ring = Ring()
    reader = LogReader(ring.ask)
    assert reader.read() == []
    ring.say("a", "b")
    assert reader.read() == [LogLine(1, 0.25, "a"), LogLine(2, 0.5, "b")]
    assert reader.read() == []
    ring.say("c")
    assert shown(reader.read()) == ["c"]


def test_what_the_ring_forgot_is_told() -> None:
    ring = Ring(room=4)
    ring.say(*"abcdef")
    reader = LogReader(ring.ask)
    assert shown(reader.read()) == [Lost(2), *"cdef"]
    ring.say(*"ghij")  # the last known line is gone, but none after it
    assert shown(reader.read()) == [*"ghij"]
    ring.say(*"klmnop")
    assert shown(reader.read()) == [Lost(2), *"mnop"]


@pytest.mark.parametrize("texts", ["", "a", "ab", "abc", "abcd", "abcdefgh"])
def test_a_node_that_was_switched_on_anew_is_read_from_its_start(texts: str) -> None:
    ring = Ring(room=8)
    ring.say(*"xyz")
    ring.now = 100.0
    ring.say("late")
    reader = LogReader(ring.ask)
    reader.read()
    anew = Ring(room=8)
    anew.say(*texts)
    ring.lines = anew.lines
    assert shown(reader.read()) == [PowerCycle(), *texts]
    assert reader.read() == []


def test_a_question_that_fails_loses_nothing() -> None:
    ring, down = Ring(), [False]

    def ask(after: int) -> dict[str, Any]:
        if down[0]:
            raise NapuTimeoutError("no answer")
        return ring.ask(after)

    reader = LogReader(ask)
    ring.say("a")
    assert shown(reader.read()) == ["a"]
    down[0] = True
    ring.say("b")
    with pytest.raises(NapuTimeoutError):
        reader.read()
    down[0] = False
    assert shown(reader.read()) == ["b"]


@given(st.lists(st.integers(0, 9), max_size=12))
def test_what_is_shown_and_what_is_lost_add_up(bursts: list[int]) -> None:
    ring, said, told = Ring(room=4), 0, 0
    reader = LogReader(ring.ask)
    for burst in bursts:
        ring.say(*(str(said + number) for number in range(1, burst + 1)))
        said += burst
        for event in reader.read():
            if isinstance(event, LogLine):
                told += 1
                assert event.text == str(told)
            else:
                assert isinstance(event, Lost)
                told += event.count
        assert told == said


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"lines": 5},
        {"lines": ["text"]},
        {"lines": [{"sequence": "1", "time_s": 0.0, "text": ""}]},
        {"lines": [{"sequence": True, "time_s": 0.0, "text": ""}]},
        {"lines": [{"sequence": 1, "time_s": None, "text": ""}]},
        {"lines": [{"sequence": 1, "time_s": 0.0, "text": b""}]},
        {"lines": [{"sequence": 0, "time_s": 0.0, "text": ""}]},
        {"lines": [{"sequence": 2, "time_s": 0.0, "text": ""}, {"sequence": 2, "time_s": 0.0, "text": ""}]},
    ],
)
def test_what_is_no_page_of_a_log_is_an_error(answer: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        LogReader(lambda _: answer).read()
