"""Faults changed while a link is in use: one JSON line there and one back, over a socket of this machine.

Not over the wire, which is what is faulty. Who may reach the socket's directory may change the faults.
"""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from host_sdk.wire.errors import ConfigError, DeviceError
from host_sdk.wire.links.faults import parse_faults
from host_sdk.wire.links.faulty import FaultyLink

MAX_LINE = 8192  # bytes of a question or an answer
PATIENCE_S = 2.0  # with whoever is at the other end
_DIRECTIONS = ("in", "out")


class FaultControl:
    """Answers questions about the faults of one link, on a thread of its own, one after the other.

    Args:
        path: Where the socket is made; one that is there already is replaced.
        link: The link.
        texts: The faults that it has, as text, of what is received and of what is sent.
        call: Runs a function on the thread that owns the link.
        patience_s: Seconds that whoever asks has for it.

    Raises:
        ConfigError: The socket cannot be made.
    """

    def __init__(
        self,
        path: Path,
        link: FaultyLink,
        texts: tuple[str, str],
        call: Callable[[Callable[[], None]], object],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._path, self._link, self._call, self._patience_s = path, link, call, patience_s
        self._texts = dict(zip(_DIRECTIONS, texts, strict=True))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            with _short(path) as name:
                self._socket.bind(name)
            path.chmod(0o600)
            self._socket.listen(8)
        except OSError as error:
            self._socket.close()
            raise ConfigError(f"no socket for faults at {path}: {error}") from None
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Answer no more; a second call does nothing."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # which ends accept, as closing alone does not
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return  # closed
            with peer, contextlib.suppress(OSError):  # of a peer that is slow, or gone
                peer.settimeout(self._patience_s)
                peer.sendall(json.dumps(self._answer(_read_line(peer))).encode() + b"\n")

    def _answer(self, line: bytes) -> dict[str, str]:
        try:
            self._set(_question(line))
        except ConfigError as error:
            return {"error": str(error)}
        except TimeoutError:
            return {"error": "the appliance does not run"}
        return dict(self._texts)

    def _set(self, texts: dict[str, str]) -> None:
        faults = {direction: parse_faults(text) for direction, text in texts.items()}

        def apply() -> None:
            if "in" in faults:
                self._link.faults_in = faults["in"]
            if "out" in faults:
                self._link.faults_out = faults["out"]

        if faults:
            self._call(apply)
            self._texts |= texts


def ask_faults(path: Path, faults_in: str | None = None, faults_out: str | None = None) -> tuple[str, str]:
    """Set the faults of a link, and return those that it has then, of what is received and of what is sent.

    Args:
        path: Where the socket is.
        faults_in: Faults of what is received, counted from now on; None leaves them as they are.
        faults_out: Likewise of what is sent.

    Raises:
        ConfigError: A text is none of faults.
        DeviceError: Nobody answers there, or not as expected.
    """
    wanted = {key: text for key, text in zip(_DIRECTIONS, (faults_in, faults_out), strict=True) if text is not None}
    for text in wanted.values():
        parse_faults(text)
    line = json.dumps(wanted).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise ConfigError(f"faults: {len(line)} bytes of text; at most {MAX_LINE} are taken")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer, _short(path) as name:
            peer.settimeout(PATIENCE_S)
            peer.connect(name)
            peer.sendall(line)
            answer = json.loads(_read_line(peer))
    except (OSError, ValueError, RecursionError) as error:
        raise DeviceError(f"nobody says at {path} which faults there are: {error}") from None
    if isinstance(answer, dict) and isinstance(answer.get("error"), str):
        raise ConfigError(answer["error"])
    found = [answer.get(key) if isinstance(answer, dict) else None for key in _DIRECTIONS]
    if not isinstance(found[0], str) or not isinstance(found[1], str):
        raise DeviceError(f"{path} answers what is no faults: {str(answer)[:200]}")
    return found[0], found[1]


def _question(line: bytes) -> dict[str, str]:
    try:
        asked: Any = json.loads(line)
    except (ValueError, RecursionError):  # nested too deeply
        asked = None
    if not isinstance(asked, dict) or not set(asked) <= set(_DIRECTIONS):
        raise ConfigError('faults: write one JSON object in one line, as {"in": "loss=5%", "out": ""}')
    if not all(isinstance(text, str) for text in asked.values()):
        raise ConfigError("faults: those of a direction are a text")
    return asked


def _read_line(peer: socket.socket) -> bytes:
    """Return what comes up to the end of a line, of the stream, or of what is taken."""
    line = b""
    while not line.endswith(b"\n") and len(line) <= MAX_LINE and (piece := peer.recv(MAX_LINE)):
        line += piece
    return line


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a name of a socket that is short enough for its address, however long the path of its directory is."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
