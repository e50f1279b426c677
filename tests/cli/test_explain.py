"""``napu decode`` and ``napu explain`` as a user types them, on captures whose story is known."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.capture.test_analysis import infer, result
from tests.rig.captures import Script
from tests.rig.frames import BUSY, CONTROL, CRC_FLAG, REPLY, Pdu, message

NAPU = [sys.executable, "-m", "host_sdk.cli.main"]


def napu(*arguments: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([*NAPU, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def file(tmp_path: Path) -> Path:
    script = Script().ask(0, *infer(10)).say(300, *result(10))
    script.ask(1000, *infer(11)).say(1200, *result(11, status=BUSY, after=4, body=b"")).ask(1700, *infer(11))
    script.say(2000, *result(11)).ask(3000, *infer(12))
    hostile = b"\x81\xa2op\xa5\x1b[2Jx"  # an operation called after a terminal's escape sequence
    script.ask(4000, *message(Pdu(CONTROL, hostile, 13, flags=CRC_FLAG)))
    script.say(4100, *message(Pdu(CONTROL | REPLY, b"\x80", 13, flags=CRC_FLAG)), lost=2)
    return script.save(tmp_path / "story.pcapng")


def test_explain_tells_the_story(file: Path) -> None:
    done = napu("explain", str(file), "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["totals"]["outcomes"] == {"answered": 3, "refused": 0, "unanswered": 1, "cancelled": 0, "incomplete": 0}
    assert said["totals"]["inferences"] == {**said["totals"]["outcomes"], "answered": 2}
    assert said["totals"]["sent_again"] == {"pause": 1, "unexplained": 0}
    assert said["totals"]["latency_us"]["max"] == 1000
    assert [entry["request"] for entry in said["requests"]] == [12, 11]
    assert said["requests"][1]["reasons"] == ["sent again after 700 µs: after the pause", "BUSY once"]
    assert said["requests"][1]["first_frame"] == 3
    assert said["capture"]["lost_by_capture"] == 2
    assert any("lost 2 frames" in remark for remark in said["remarks"])
    assert len(json.loads(napu("explain", str(file), "--json", "--all").stdout)["requests"]) == 4
    chosen = json.loads(napu("explain", str(file), "--json", "--request", "0xb").stdout)
    assert chosen["totals"]["requests"] == 1


def test_explain_in_words(file: Path) -> None:
    done = napu("explain", str(file))
    assert "4 requests: 3 answered, 1 unanswered; 2 remarkable" in done.stdout
    assert "BUSY once" in done.stdout
    assert "sent again, by cause: 1 pause, 0 unexplained" in done.stdout
    assert "inferred from what the ends did next" in done.stderr
    listed = napu("explain", str(file), "--all").stdout.splitlines()
    assert sum("answered" in line and " > " in line for line in listed) == 4


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture_is_one(file: Path, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib", reason="the bench extra is not installed (matplotlib)")
    path = tmp_path / f"story{suffix}"
    assert napu("explain", str(file), "--picture", str(path)).returncode == 0
    if suffix == ".svg":
        assert "<svg" in path.read_text()
        return
    with Image.open(path) as picture:
        assert picture.width > 800
        assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 8  # more than an empty page


def test_a_picture_of_another_kind_is_refused(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the bench extra is not installed (matplotlib)")
    assert napu("explain", str(file), "--picture", str(tmp_path / "x.gif")).returncode == 2


def test_decode_names_every_field(file: Path) -> None:
    lines = [json.loads(line) for line in napu("decode", str(file), "--json").stdout.splitlines()]
    assert [line["frame"] for line in lines] == list(range(1, 10))
    refused = lines[3]
    assert (refused["opcode"], refused["status"], refused["retry_after_us"]) == ("RESULT", "BUSY", 400)
    assert refused["flags"] == ["CRC", "ONCE"]
    assert (refused["source"], refused["destination"]) == ("02:00:00:00:00:02", "02:00:00:00:00:01")
    assert lines[0]["message"] == {"bytes": 4, "body": b"four".hex()}
    assert lines[8]["lost_before"] == 2
    only = napu("decode", str(file), "--json", "--request", "11", "--session", "7").stdout.splitlines()
    assert [json.loads(line)["frame"] for line in only] == [3, 4, 5, 6]


def test_what_a_frame_carries_does_not_reach_the_terminal(file: Path) -> None:
    done = napu("decode", str(file), "--request", "13")
    assert "op: \\x1b[2Jx" in done.stdout
    assert "\x1b" not in done.stdout


def test_what_came_before_damage_is_told_with_a_status(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])
    done = napu("explain", str(file))
    assert done.returncode == 2
    assert "4 requests" in done.stdout
    assert "ends within a block" in done.stderr
    decoded = napu("decode", str(file), "--json")
    assert decoded.returncode == 2
    assert len(decoded.stdout.splitlines()) >= 8


@pytest.mark.parametrize("command", ["decode", "explain"])
def test_what_is_no_capture_is_a_sentence(tmp_path: Path, command: str) -> None:
    (tmp_path / "x").write_bytes(b"junk")
    for arguments in ((str(tmp_path / "x"),), (str(tmp_path / "nothing"),), (str(tmp_path / "x"), "--request", "many")):
        done = napu(command, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("napu: ")
