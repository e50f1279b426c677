"""A real node with mutual access, over UDP, also on a bad cable: the SDK, asyncio, the command line."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_sdk.access.ca import LabCa, utc_now
from host_sdk.access.identity import Identity
from host_sdk.aio import AsyncNapuClient
from host_sdk.client import NapuClient
from host_sdk.operations import Timeout
from host_sdk.wire.errors import NotAuthenticatedError, NotPermittedError
from host_sdk.wire.roles import Grant, Role
from tests.rig.nodes import ROOT, NodeProcess, node_process, within
from tests.rig.packages import tensor_package

BAD_CABLE = "loss=10%,duplicate=10%,reorder=10%"
TIMEOUT = Timeout(control=60)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> LabCa:
    made = LabCa.create(tmp_path_factory.mktemp("ca") / "ca", utc_now)
    for name, role in (("vera", Role.VIEWER), ("oleg", Role.OPERATOR), ("ada", Role.ADMIN)):
        made.issue_user(name, Grant(role), made.directory / "users" / name)
    made.issue_device("napu1", made.directory / "devices" / "napu1")
    return made


@pytest.fixture(scope="module")
def node(ca: LabCa, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    options = ("--access", "mutual", "--credentials", str(ca.directory / "devices" / "napu1"))
    faults = ("--faults-in", BAD_CABLE, "--faults-out", BAD_CABLE, "--fault-seed", "7")
    with node_process(tmp_path_factory.mktemp("node"), *options, *faults) as running:
        yield running


def identity(ca: LabCa, name: str) -> Identity:
    return Identity.load(ca.directory / "users" / name)


def client(node: NodeProcess, who: Identity | None) -> NapuClient:
    return NapuClient("udp:127.0.0.1:0", node.address, timeout=TIMEOUT, identity=who)


def lines(napu: NapuClient) -> list[str]:
    return [line["text"] for line in napu.control("logs")["lines"]]


def test_control_by_role_over_a_bad_cable(node: NodeProcess, ca: LabCa) -> None:
    package = tensor_package("raw")
    with client(node, identity(ca, "oleg")) as napu:
        assert napu.control("pipeline.install", package=package)["pipeline"]["name"] == "raw"
        assert {pipeline.name for pipeline in napu.pipelines()} == {"digits", "raw"}
        napu.control("pipeline.remove", name="raw")
    with client(node, identity(ca, "vera")) as napu:
        assert [pipeline.name for pipeline in napu.pipelines()] == ["digits"]
        with pytest.raises(NotPermittedError, match="takes the role operator; vera is viewer"):
            napu.control("pipeline.remove", name="digits")
        log = lines(napu)
    assert any("audit: allowed oleg" in line and "pipeline.install" in line for line in log)
    assert any("audit: refused vera" in line and "NOT_PERMITTED" in line for line in log)


def test_nobody_without_a_certificate(node: NodeProcess) -> None:
    with client(node, None) as napu:
        assert napu.control("identity")["access"] == "mutual"
        for operation in ("stats", "logs", "pipelines"):
            with pytest.raises(NotAuthenticatedError, match="takes the role viewer"):
                napu.control(operation)
    assert node.facts["device"] == "napu1"


def test_a_client_goes_on_after_the_firmware_restarted(node: NodeProcess, ca: LabCa) -> None:
    with client(node, identity(ca, "vera")) as napu:
        before = napu.control("identity")["firmware"]
        os.kill(before["pid"], signal.SIGKILL)
        after = napu.control("identity")["firmware"]
        if after["pid"] == before["pid"]:  # it was asked before it was dead
            assert within(20, lambda: napu.control("identity")["firmware"]["pid"] != before["pid"])
        assert napu.stats()["firmware"]["epoch"] > before["epoch"]


def test_many_operations_at_once(node: NodeProcess, ca: LabCa) -> None:
    async def main() -> list[str]:
        async with AsyncNapuClient(
            "udp:127.0.0.1:0", node.address, timeout=TIMEOUT, identity=identity(ca, "vera")
        ) as napu:
            answers = await asyncio.gather(*(napu.control("identity") for _ in range(20)))
            return [answer["device"] for answer in answers]

    assert asyncio.run(main()) == ["napu1"] * 20


def napu(*words: str, who: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "NAPU_IDENTITY"}
    command = [sys.executable, "-m", "host_sdk.cli.main", *words]
    if who:
        environment["NAPU_IDENTITY"] = str(who)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False, cwd=ROOT)


def test_the_command_line_from_the_authority_to_a_revoked_user(tmp_path: Path) -> None:
    where = ("--dir", str(tmp_path / "ca"))
    assert napu("ca", "init", *where).returncode == 0
    assert napu("ca", "device", "box", *where).returncode == 0
    for name, role in (("ada", "admin"), ("vera", "viewer")):
        assert napu("ca", "user", name, "--role", role, *where).returncode == 0
    users = tmp_path / "ca" / "users"
    credentials = str(tmp_path / "ca" / "devices" / "box")
    with node_process(tmp_path / "node", "--access", "mutual", "--credentials", credentials) as node:
        there = ("--link", "udp:127.0.0.1:0", "--target", node.address)
        found = json.loads(napu("discover", *there, "--json").stdout)["appliances"]
        assert [(entry["device"], entry["access"]) for entry in found] == [("box", "mutual")]
        assert napu("pipelines", *there).returncode == 1
        assert "digits" in napu("pipelines", *there, "--identity", str(users / "vera")).stdout
        assert "digits" in napu("pipelines", *there, who=users / "vera").stdout
        assert napu("ca", "revoke", "vera", *where).returncode == 0
        pushed = napu("ca", "push", *where, *there, "--json", who=users / "ada")
        assert json.loads(pushed.stdout) == {"appliances": {node.address: {"number": 2}}}
        done = napu("pipelines", *there, who=users / "vera")
        assert done.returncode == 1
        assert "certificate of vera is revoked" in done.stderr
        assert (node.flash.stat().st_mode & 0o777) == 0o700
    listed = json.loads(napu("ca", "list", *where, "--json").stdout)["certificates"]
    assert {(row["name"], row["state"]) for row in listed} == {
        ("box", "in force"),
        ("ada", "in force"),
        ("vera", "revoked"),
    }


def test_a_node_without_credentials_says_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "appliance.cli", "--flash", str(tmp_path), "--link", "udp:127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "--access open" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_identity_does_not_fall_back_to_an_open_appliance(ca: LabCa, tmp_path: Path) -> None:
    with node_process(tmp_path / "open") as open_node, client(open_node, identity(ca, "ada")) as secure:
        with pytest.raises(NotAuthenticatedError, match="is open: it asks nobody"):
            secure.stats()
        with client(open_node, None) as plain:
            assert plain.control("identity")["access"] == "open"
            assert any("access is OPEN" in line for line in lines(plain))
