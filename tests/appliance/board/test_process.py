from appliance.board.process import Backoff

SECOND = 1_000_000_000


def test_the_first_restart_is_immediate_and_then_the_delay_doubles_to_a_second() -> None:
    backoff = Backoff()
    delays = [backoff.after_run(SECOND) for _ in range(8)]
    assert delays == [0, SECOND // 10, SECOND // 5, 2 * SECOND // 5, 4 * SECOND // 5, SECOND, SECOND, SECOND]


def test_a_long_run_makes_the_next_restart_immediate() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after_run(0)
    assert backoff.after_run(10 * SECOND) == 0
    assert backoff.after_run(10 * SECOND - 1) == SECOND // 10


def test_the_delay_stays_bounded_for_ever() -> None:
    backoff = Backoff()
    for _ in range(5000):
        delay = backoff.after_run(0)
    assert delay == SECOND
