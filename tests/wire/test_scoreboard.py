"""The scoreboard of a request's fragments, held against one that looks at all of them every time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.exchange.scoreboard import NOT_SENT, THERE, Scoreboard

INFER = 0x10


class Plain:
    """When each fragment was sent last, and nothing else."""

    def __init__(self, count: int) -> None:
        self.sent = [NOT_SENT] * count

    def take(self, arrived: Arrived) -> list[int]:
        have = arrived.have(len(self.sent)).tolist()
        fresh = [(time, index) for index, time in enumerate(self.sent) if have[index] and time >= 0]
        for index, time in enumerate(self.sent):
            if have[index]:
                self.sent[index] = THERE
            elif time == THERE:
                self.sent[index] = NOT_SENT
        newest = max(fresh, default=(NOT_SENT, 0))
        return [index for index, time in enumerate(self.sent) if time >= 0 and (time, index) < newest]


@given(st.data())
def test_it_is_what_one_would_find_by_looking_at_all(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 30))
    board, plain, last = Scoreboard(count), Plain(count), count - 1
    for now in range(data.draw(st.integers(1, 12))):
        end, most = data.draw(st.integers(0, count)), data.draw(st.integers(0, 8))
        fresh = [index for index in range(min(end, last)) if plain.sent[index] == NOT_SENT][:most]
        assert board.unsent(end, most).tolist() == fresh
        again = [index for index, time in enumerate(plain.sent) if time >= 0 and data.draw(st.booleans())]
        which = sorted({*fresh, *again, *([last] if data.draw(st.booleans()) else [])})
        if which:
            board.send(np.array(which), now)
            for index in which:
                plain.sent[index] = now
        have = [data.draw(st.booleans()) for _ in range(data.draw(st.integers(0, count)))]
        arrived = Arrived.of(INFER, np.array(have + [False] * (count - len(have)), np.bool_), 8)
        lost, sent = board.take(arrived)
        assert lost.tolist() == plain.take(arrived)
        assert sent is None or 0 <= sent <= now
        assert board.under_way().tolist() == [index for index, time in enumerate(plain.sent) if time >= 0]
        unsent = [index for index, time in enumerate(plain.sent) if time == NOT_SENT]
        assert board.first_unsent() == min(unsent, default=count)
        assert board.left == len(set(unsent) - {last})
        assert board.last_unsent == (plain.sent[last] == NOT_SENT)


def test_only_what_was_sent_once_measures() -> None:
    board = Scoreboard(5)
    board.send(np.array([0, 1]), 100)
    board.send(np.array([1]), 200)
    assert board.take(Arrived(INFER, 1, 8))[1] == 100
    assert board.take(Arrived(INFER, 2, 8))[1] is None  # which of the two came?
    board.restart()
    board.send(np.array([1]), 300)
    assert board.take(Arrived(INFER, 2, 8))[1] == 300


def test_what_must_not_be_sent_again_yet_is_as_if_it_had_not_been_sent() -> None:
    board = Scoreboard(6)
    board.send(np.array([0, 1, 2, 3, 5]), 1)
    board.take(Arrived(INFER, 1, 2))
    board.withdraw(3)
    assert (board.under_way().tolist(), board.first_unsent()) == ([1, 2, 5], 3)
    board.send(np.array([3]), 2)
    lost, sent = board.take(Arrived(INFER, 4, 8))
    assert (lost.tolist(), sent) == ([5], None)


def test_what_is_complete_or_begins_anew() -> None:
    board = Scoreboard(4)
    board.send(np.arange(4), 1)
    board.complete()
    assert (board.under_way().tolist(), board.first_unsent(), board.last_unsent) == ([], 4, False)
    board.restart()
    assert (board.unsent(9, 9).tolist(), board.first_unsent(), board.last_unsent) == ([0, 1, 2], 0, True)
