"""What a container has written."""

import json
from collections.abc import Iterator
from typing import Any

from docker.models.containers import Container


class ContainerLog:
    """The output of a container, as the engine keeps it."""

    def __init__(self, container: Container) -> None:
        self._container = container

    def announcement(self) -> dict[str, object] | None:
        """Return what a node announced since it was started last; None while it has not.

        It is the first line of its standard output, where nothing else goes.
        """
        started: str = self._container.attrs["State"]["StartedAt"]
        text: bytes = self._container.logs(stdout=True, stderr=False, timestamps=True)
        for line in reversed(text.decode(errors="replace").splitlines()):
            when, _, rest = line.partition(" ")
            if _order(when) < _order(started):
                break
            try:
                found = json.loads(rest)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
        return None

    def tail(self, lines: int) -> str:
        """Return the last lines; a sentence where there are none."""
        text: bytes = self._container.logs(tail=lines)
        return text.decode(errors="replace").strip() or "(the log is empty)"

    def lines(self, *, follow: bool) -> Iterator[str]:
        """Yield the lines, without their ends; with ``follow`` go on until the container ends."""
        pieces: Any = self._container.logs(stream=True, follow=follow)
        rest = b""
        for piece in pieces:
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace").rstrip("\r")
        if rest:
            yield rest.decode(errors="replace")


def _order(when: str) -> str:
    """Return a time of the engine so that text compares as time does: its fraction has no trailing zeros."""
    seconds, _, fraction = when.rstrip("Z").partition(".")
    return f"{seconds}.{fraction:0<9}"
