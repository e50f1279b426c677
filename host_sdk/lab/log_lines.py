"""The lines of a log, as they are written."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_LOOK_S: Final = 0.1


def lines_of(path: Path, runs: Callable[[], bool] | None) -> Iterator[str]:
    """Yield the lines of a log, without their ends.

    Args:
        path: The log; one that is not there has no lines.
        runs: Whether more may come, which is then waited for; None: not to be waited for.
    """
    try:
        log = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with log:
        rest = ""
        while True:
            ended = runs is None or not runs()  # before the look, so that what was written before the end is seen
            while piece := log.readline():
                rest += piece
                if rest.endswith("\n"):
                    yield rest[:-1]
                    rest = ""
            if ended:
                break
            time.sleep(_LOOK_S)
        if rest:
            yield rest
