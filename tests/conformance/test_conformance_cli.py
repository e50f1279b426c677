"""``napu conformance`` at a real node: over UDP, and over Ethernet in a lab."""

import json
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from host_sdk.conformance.case import Case, FailedError
from host_sdk.conformance.report import Report, as_html, as_junit
from host_sdk.conformance.run import Outcome, Verdict
from host_sdk.conformance.suite import CASES, UNOBSERVABLE
from host_sdk.lab.lab import Lab
from host_sdk.lab.topology import Appliance, Topology, default_mac
from tests.rig.labs import lab_name, needs_lab
from tests.rig.nodes import node_process
from tests.rig.packages import tensor_package

# A few of every section, and none that waits for what is given up.
SOME = ("N-002", "N-011", "N-027", "N-036", "N-044", "N-048", "N-061", "N-078", "N-103", "N-111", "N-116", "N-089")


def napu(*arguments: str, timeout: float = 90) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "host_sdk.cli.main", "conformance", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def only() -> list[str]:
    return [word for rule in SOME for word in ("--only", rule)]


def test_a_node_over_udp_passes_and_the_reports_say_so(tmp_path: Path) -> None:
    with node_process(tmp_path) as node:
        with node.client() as client:
            client.control("pipeline.install", package=tensor_package("raw"))
        page, xml = tmp_path / "report.html", tmp_path / "report.xml"
        reports = ("--json", "--html", str(page), "--junit", str(xml), "--patience", "4")
        done = napu("--target", f"udp:{node.address}", *reports, *only())
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout)
        assert told["counts"]["fail"] == 0
        assert told["counts"]["pass"] > 70
        assert told["appliance"]["profile"] == "napu-s"
        suites = ET.parse(xml).getroot()  # noqa: S314 - our own
        assert int(suites.attrib["tests"]) == sum(told["counts"].values()) == len(suites.findall(".//testcase"))
        assert int(suites.attrib["skipped"]) == told["counts"]["not applicable"] == len(suites.findall(".//skipped"))
        text = page.read_text(encoding="utf-8")
        assert "N-011.1" in text
        assert "src=" not in text, "the page needs another file"
        assert "href=" not in text, "the page needs another file"
        absent = napu("--target", f"udp:{node.address}", "--pipeline", "none-such")
        assert absent.returncode == 2
        assert "raw" in absent.stderr


@needs_lab
def test_a_node_over_ethernet_passes(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "appliance.cli", "--link", "packet:eth0", "--access", "open")
    command += ("--flash", str(tmp_path / "flash"), "--ready-fd", "{ready_fd}")
    topology = Topology(lab_name(), (Appliance("n1", default_mac(1), command=command),))
    with Lab.up(topology) as lab:
        options = ("--target", "packet:eth0", "--patience", "4", *only(), "--only", "N-001", "--only", "N-007")
        done = napu("--lab", lab.name, *options, "--only", "N-009")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "0 failed" in done.stdout


def test_who_does_not_answer_is_said_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        done = napu("--target", f"udp:127.0.0.1:{port}", timeout=30)
    assert done.returncode == 3
    assert f"127.0.0.1:{port} does not answer a DISCOVER" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--target", "usb:1"), ("--target", "udp:127.0.0.1", "--only", "N-015")])
def test_wrong_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    done = napu(*arguments)
    assert done.returncode == 2
    assert done.stderr


def test_the_list_has_every_case_and_every_rule_without_one() -> None:
    done = napu("--list", "--json")
    told = json.loads(done.stdout)
    assert [entry["case"] for entry in told["cases"]] == [case.number for case in CASES]
    assert told["unobservable"] == UNOBSERVABLE
    words = napu("--list", "--only", "N-011").stdout
    assert "N-011.1" in words
    assert "N-012" not in words


def test_a_failure_is_reported_with_its_frames_and_hostile_text_does_no_harm() -> None:
    case = Case("N-001.1", ("N-001",), "odd <section>", "a & b < c", _fails)
    failure = FailedError("this & that", "\x00<script>", ("-> 0102", "<- 0182"))
    words = (str(failure), failure.expected, failure.got)
    report = Report("udp:x", {"firmware": 7}, [Outcome(case, Verdict.FAIL, 0.5, *words, failure.frames)])
    (found,) = ET.fromstring(as_junit(report)).findall(".//failure")  # noqa: S314 - our own
    assert found.text == "-> 0102\n<- 0182"
    assert "this & that" in found.attrib["message"]
    page = as_html(report)
    assert "<script>" not in page
    assert "-&gt; 0102\n&lt;- 0182" in page


def _fails(_rig: object) -> None:
    raise AssertionError
