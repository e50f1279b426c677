"""Faults that are changed while the link is in use."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host_sdk.wire.errors import ConfigError, DeviceError
from host_sdk.wire.links.fault_control import MAX_LINE, FaultControl, ask_faults
from host_sdk.wire.links.faults import Faults, parse_faults
from host_sdk.wire.links.faulty import FaultyLink
from host_sdk.wire.links.memory import MemorySwitch

SEED = 3


@pytest.fixture
def link() -> Iterator[FaultyLink]:
    faulty = FaultyLink(MemorySwitch().attach(), Faults(), parse_faults("loss=5%"), SEED, lambda: 0)
    yield faulty
    faulty.close()


def run(function: Callable[[], None]) -> None:
    function()


@pytest.fixture
def path(link: FaultyLink, tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / ("a-long-name-" * 10)  # longer than the address of a socket
    directory.mkdir()
    control = FaultControl(directory / "node.faults", link, ("loss=5%", ""), run, 0.3)
    yield directory / "node.faults"
    control.close()
    control.close()
    assert list(directory.iterdir()) == []


def raw(path: Path, data: bytes) -> bytes:
    """Send bytes to the socket and return what it says."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(f"/proc/self/cwd/{path.name}")
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := peer.recv(4096):
            answer += piece
    return answer


def test_faults_are_asked_for_and_changed(path: Path, link: FaultyLink) -> None:
    assert ask_faults(path) == ("loss=5%", "")
    assert ask_faults(path, faults_out="delay=1ms,blackhole=0s-2s") == ("loss=5%", "delay=1ms,blackhole=0s-2s")
    assert link.faults_out == parse_faults("delay=1ms,blackhole=0s-2s")
    assert link.faults_in == parse_faults("loss=5%")
    assert ask_faults(path, "", "") == ("", "")
    assert link.faults_in == link.faults_out == Faults()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_text_that_is_no_faults_changes_nothing(path: Path, link: FaultyLink) -> None:
    with pytest.raises(ConfigError, match="'los' is no fault"):
        ask_faults(path, "", "los=5%")
    with pytest.raises(ConfigError, match="at most"):
        ask_faults(path, "nth=" + "+".join(["1"] * MAX_LINE))
    assert link.faults_in == parse_faults("loss=5%")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"[]\n",
        b'{"in": 5}\n',
        b'{"in": "los=5%"}\n',
        b'{"in": "loss=5%", "up": ""}\n',
        b"\xff\xfe\n",
        b"[" * MAX_LINE + b"\n",
        b'{"in": "' + b"x" * MAX_LINE,
    ],
)
def test_hostile_lines_are_answered_with_a_sentence(
    path: Path, link: FaultyLink, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    answer = json.loads(raw(path, line))
    assert list(answer) == ["error"]
    assert answer["error"].startswith("faults: ")
    assert ask_faults(path) == ("loss=5%", "")
    assert link.faults_in == parse_faults("loss=5%")


def test_who_says_nothing_does_not_hold_up_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(path.name)
        assert ask_faults(path) == ("loss=5%", "")


def test_nobody_there_and_nonsense_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="nobody says"):
        ask_faults(tmp_path / "none.faults")
    for answer in (b"", b"{}\n", b"[]\n", b"\xff\n", b'{"in": 1, "out": ""}\n'):
        with socket.socket(socket.AF_UNIX) as server:
            (tmp_path / "liar").unlink(missing_ok=True)
            server.bind(str(tmp_path / "liar"))
            server.listen()

            def lie(server: socket.socket = server, answer: bytes = answer) -> None:
                peer, _ = server.accept()
                with peer:
                    peer.recv(4096)
                    peer.sendall(answer)

            thread = threading.Thread(target=lie)
            thread.start()
            with pytest.raises(DeviceError):
                ask_faults(tmp_path / "liar")
            thread.join()
