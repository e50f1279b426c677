"""The demo as a user runs it: real processes, real namespaces, and what it leaves behind: nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from host_sdk.capture.reader import CapturedPdu, read_capture
from host_sdk.lab.capability import capability
from host_sdk.wire.header import decode_header
from host_sdk.wire.schema import Opcode

NAPU = [sys.executable, "-m", "host_sdk.cli.main"]
needs_namespaces = pytest.mark.skipif(
    capability().kind == "none", reason="only where network namespaces are allowed: " + capability().reason
)
# /usr/sbin is not on every user's PATH.
TCPDUMP = shutil.which("tcpdump", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
KEYS = {
    *("nodes", "link", "images", "correct", "accuracy", "latency_us", "stages_us"),
    *("energy_uj_per_inference", "frames", "capture", "contact_sheet"),
}


TAG = f"NAPU_TEST_TAG={os.getpid()}"
ENVIRONMENT = {**os.environ, "NAPU_TEST_TAG": str(os.getpid())}


def run(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*NAPU, *arguments], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=False
    )


def relatives() -> list[str]:
    """Return the processes that inherited this test's mark in their environment."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                marked = TAG.encode() in (directory / "environ").read_bytes().split(b"\0")
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if marked:
                found.append(f"{directory.name} {command}")
    return found


def eventually_left() -> list[str]:
    """Return what is still there once it had time to end."""
    for _ in range(100):
        left = relatives()
        if not left:
            break
        time.sleep(0.1)
    return left


@needs_namespaces
def test_two_appliances_classify_held_out_images_over_raw_ethernet(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", "--json", "--images", "300", "--pcap", "mine.pcap")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report) >= KEYS
    assert report["link"] in ("xdp", "packet")
    assert [node["link"] for node in report["nodes"]] == [report["link"]] * 2
    assert sum(node["images"] for node in report["nodes"]) == report["images"] == 300
    assert min(node["images"] for node in report["nodes"]) > 100  # spread over both
    assert report["accuracy"] == report["correct"] / 300 >= 0.97
    assert 0 < report["latency_us"]["p50"] <= report["latency_us"]["p99"]
    assert all(value > 0 for value in report["stages_us"].values())
    assert report["energy_uj_per_inference"] > 0
    assert Path(tmp_path, report["contact_sheet"]).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    check_capture(tmp_path / "mine.pcap", report)
    assert not eventually_left()


def check_capture(path: Path, report: "dict[str, object]") -> None:
    """Every request and its reply are in the capture, as dpkt reads it and as scapy does."""
    from_dpkt = list(read_capture(path))
    requests = {key(pdu) for pdu in from_dpkt if pdu.pdu[1] == Opcode.INFER}
    replies = {key(pdu) for pdu in from_dpkt if pdu.pdu[1] == Opcode.RESULT}
    assert len(requests) == report["images"]
    assert requests == replies
    counted = report["frames"]
    assert isinstance(counted, dict)
    assert counted["total"] == len(from_dpkt)
    assert counted["dropped"] == 0
    assert counted["bytes"] == sum(pdu.frame_bytes for pdu in from_dpkt)
    assert requests == scapy_keys(path, int(Opcode.INFER))
    assert replies == scapy_keys(path, int(Opcode.RESULT))


def key(captured: CapturedPdu) -> tuple[int, int]:
    header = decode_header(captured.pdu, 46)
    return header.session, header.request


def scapy_keys(path: Path, opcode: int) -> set[tuple[int, int]]:
    from scapy.utils import rdpcap

    from host_sdk.capture.scapy_layer import NIP

    return {(frame[NIP].session, frame[NIP].request) for frame in rdpcap(str(path)) if frame[NIP].opcode == opcode}


@needs_namespaces
@pytest.mark.skipif(TCPDUMP is None, reason="tcpdump is not installed")
def test_tcpdump_opens_the_capture(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", "--images", "200", "--nodes", "1")
    assert done.returncode == 0, done.stderr
    assert "of 200 right" in done.stdout
    read = subprocess.run(
        [str(TCPDUMP), "-nn", "-e", "-r", "napu-demo/capture.pcap"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sum("0x88b5" in line for line in read.stdout.splitlines()) >= 400


def await_own_code(pid: int) -> None:
    """Wait until a process imports what it needs; before, Ctrl-C is answered by Python itself, with a traceback."""
    deadline = time.monotonic() + 20
    while "numpy" not in Path("/proc", str(pid), "maps").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@needs_namespaces
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_at_any_moment_leaves_nothing_and_runs_again(tmp_path: Path, number: signal.Signals) -> None:
    own = set()
    for seconds in (0.0, 0.4, 0.8, 1.2, 1.6, 2.0):
        process = subprocess.Popen(
            [*NAPU, "demo"],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        own.add(f"demo-{process.pid}")
        await_own_code(process.pid)
        time.sleep(seconds)
        assert relatives()  # the mark is inherited, so that its absence later means something
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        # Where Ctrl-C comes while a dataclass is made, Python ends itself by the signal, to which a shell says 130 too.
        assert process.returncode in ((130, -signal.SIGINT) if number == signal.SIGINT else (-9,)), errors
        assert "Traceback" not in errors
        assert not eventually_left()
        assert not (tmp_path / "napu-demo" / "capture.pcap").exists()  # it would be half of one
        if number == signal.SIGINT:
            assert not list(tmp_path.glob("napu-demo/.*.partial"))
    labs = json.loads(subprocess.run([*NAPU, "lab", "status", "--json"], capture_output=True, check=True).stdout)[
        "labs"
    ]
    assert not own & set(labs)  # another process may run demos as well
    assert run(tmp_path, "demo", "--images", "200").returncode == 0
    left = sorted(path.name for path in (tmp_path / "napu-demo").iterdir())
    assert left == ["capture.pcap", "contact-sheet.png"]


def test_without_namespaces_udp_on_loopback_carries_the_same_pdus(tmp_path: Path) -> None:
    # The real thing takes a kernel that refuses namespaces; here only the answer to that question is replaced.
    script = (
        "import sys, host_sdk.cli.demo as demo\n"
        "from host_sdk.lab.capability import Capability\n"
        "demo.capability = lambda: Capability('none', 'The system refuses network namespaces.')\n"
        "sys.argv[1:] = ['demo', '--json', '--images', '200']\n"
        "from host_sdk.cli.main import run\n"
        "run()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no raw Ethernet here") == 1
    report = json.loads(done.stdout)
    assert report["link"] == "udp"
    assert report["accuracy"] >= 0.97
    results = [pdu for pdu in read_capture(tmp_path / report["capture"]) if pdu.pdu[1] == Opcode.RESULT]
    assert report["frames"]["replies"] == len(results)
    assert len({key(pdu) for pdu in results}) == 200  # on a busy machine some are asked for, and answered, twice
