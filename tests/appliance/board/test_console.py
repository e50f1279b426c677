from hypothesis import given
from hypothesis import strategies as st

from appliance.board.console import LINES, MAX_LINE, Console
from appliance.clock import VirtualClock


def texts(console: Console) -> list[str]:
    return [line.text for line in console.after(0)]


def test_lines_are_numbered_and_timed_from_power_on() -> None:
    clock = VirtualClock(5_000)
    console = Console(clock)
    console.write("one")
    clock.advance(70)
    console.feed(b"two\nthree\n")
    assert [(line.sequence, line.time_ns, line.text) for line in console.after(0)] == [
        (1, 0, "one"),
        (2, 70, "two"),
        (3, 70, "three"),
    ]


def test_a_line_may_come_in_pieces() -> None:
    console = Console(VirtualClock())
    console.feed(b"hal")
    assert texts(console) == []
    console.feed(b"f\nrest")
    console.flush()
    assert texts(console) == ["half", "rest"]


def test_the_ring_keeps_the_last_lines_and_their_numbers() -> None:
    console = Console(VirtualClock())
    for number in range(1, LINES + 101):
        console.write(f"line {number}")
    kept = console.after(0)
    assert [line.sequence for line in kept] == list(range(101, LINES + 101))
    assert kept[0].text == "line 101"


def test_paging() -> None:
    console = Console(VirtualClock(), lines=10)
    for _ in range(10):
        console.write("x")
    assert [line.sequence for line in console.after(3, 2)] == [4, 5]
    assert console.after(10) == []
    assert console.after(0, 0) == []
    assert console.after(0, -1) == []


@given(st.lists(st.binary(max_size=3000), max_size=8))
def test_any_output_is_kept_in_bounded_lines(chunks: list[bytes]) -> None:
    whole, pieces = Console(VirtualClock(), lines=100_000), Console(VirtualClock(), lines=100_000)
    whole.feed(b"".join(chunks))
    whole.flush()
    for chunk in chunks:
        pieces.feed(chunk)
    pieces.flush()
    assert all(len(line.text) <= MAX_LINE for line in whole.after(0, 100_000))
    joined = b"".join(chunks)
    if joined.isascii():
        assert "".join(texts_of(pieces)) == "".join(texts_of(whole)) == joined.decode().replace("\n", "")


def texts_of(console: Console) -> list[str]:
    return [line.text for line in console.after(0, 100_000)]


def test_output_without_an_end_does_not_pile_up() -> None:
    console = Console(VirtualClock(), lines=3)
    for _ in range(100):
        console.feed(b"x" * 10_000)
    assert texts(console) == ["x" * MAX_LINE] * 3
