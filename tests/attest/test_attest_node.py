"""A real node proves what runs on it: through boots, installations and restarts; to the command line and the SDK."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from host_sdk.access.ca import LabCa, utc_now
from host_sdk.access.identity import Identity
from host_sdk.aio import AsyncNapuClient
from host_sdk.attestation import new_nonce
from host_sdk.cli.app import app
from host_sdk.cli.demo_images import held_out
from host_sdk.client import NapuClient
from host_sdk.wire.attest.boots import Boot
from host_sdk.wire.attest.evidence import Claims, check_evidence, explain
from host_sdk.wire.errors import BadArgumentError, BusyError, NotAuthenticatedError
from host_sdk.wire.roles import Grant, Role
from tests.cli.test_cli import napu
from tests.firmware.test_fw_cli import done, keys
from tests.rig.nodes import NodeProcess, node_process, stop, within
from tests.rig.packages import tensor_package

__all__ = ["keys"]
LINK = ("--link", "udp:127.0.0.1:0")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    with node_process(tmp_path / "node") as running:
        yield running


def attest(node: NodeProcess, *options: str | Path) -> "tuple[int, dict[str, Any]]":
    """Run ``napu attest --json`` in this process; return its exit status and what it printed."""
    ran = CliRunner().invoke(app, ["attest", node.address, *LINK, "--json", *map(str, options)])
    return ran.exit_code, json.loads(ran.stdout)


def wrong(printed: dict[str, Any]) -> dict[str, str]:
    found = printed["findings"]
    return {entry["what"]: entry["verdict"] for entry in found if entry["verdict"] != "GOOD"}


def claims_of(client: NapuClient) -> Claims:
    nonce = new_nonce()
    return check_evidence(client.attest(nonce=nonce), nonce)


def crash(node: NodeProcess) -> None:
    """Kill the firmware and wait for the next one."""
    with node.client() as client:
        before = client.control("identity")["firmware"]
        os.kill(before["pid"], signal.SIGKILL)
        assert within(30, lambda: bool(client.control("identity")["firmware"]["epoch"] == before["epoch"] + 1))


def test_a_node_against_its_reference(node: NodeProcess, keys: Path, tmp_path: Path) -> None:
    good, plain, reference = (tmp_path / name for name in ("good.json", "plain.ref", "good.ref"))
    status, printed = attest(node)
    assert status == 4  # nothing was compared
    assert set(wrong(printed).values()) == {"NOT_COMPARED", "DEVICE_KEY_NOT_PINNED"}
    good.write_text(json.dumps(printed))
    build = ("reference", "build", plain, "--claims", good, "--sequence", "5", "--expires")
    done(*build, "2999-01-01")
    signing = ("--key", keys / "signing.pem", "--certificate", keys / "signing.cert")
    done("reference", "sign", plain, reference, *signing)
    root = ("--root", str(keys / "root.pem.pub"))
    ok = ("--reference", reference, *root)
    assert attest(node, *ok)[0] == 0
    assert attest(node, *ok, "--sequence", "5", "--device-key", printed["device_key"])[0] == 0
    text = napu("attest", node.address, *LINK, *map(str, ok))
    assert text.returncode == 0
    assert text.stdout.count("GOOD") == len(printed["findings"]) == 6

    # References that do not count, and a key that is another.
    done(*build, "2026-01-02", SOURCE_DATE_EPOCH="1767225600")
    done("reference", "sign", plain, tmp_path / "old.ref", *signing)
    refused = {
        "REFERENCE_EXPIRED": ("--reference", tmp_path / "old.ref", *root),
        "REFERENCE_NOT_SIGNED": ("--reference", reference),  # of another root than the development's
        "REFERENCE_OUTDATED": (*ok, "--sequence", "6"),
        "REFERENCE_MALFORMED": ("--reference", good, *root),
    }
    for code, options in refused.items():
        status, answer = attest(node, *options)
        assert (status, answer["message"].partition(":")[0]) == (1, code)
    status, answer = attest(node, *ok, "--device-key", "ab" * 32)
    assert (status, list(wrong(answer).values())) == (1, ["WRONG_DEVICE_KEY"])
    revoking = tmp_path / "policy.toml"
    hashed = json.loads(done("reference", "inspect", reference))["root_hash"]
    revoking.write_text(f'root_hash = "{hashed}"\nrevoked = [7]\n')
    status, answer = attest(node, "--reference", reference, "--policy", revoking)
    assert status == 1
    assert "REFERENCE_NOT_SIGNED: signed with the key of serial number 7, which was revoked" in answer["message"]

    # A pipeline comes and goes; then the firmware dies.
    with node.client() as client:
        client.control("pipeline.install", package=tensor_package("raw"))
        status, answer = attest(node, *ok)
        assert (status, wrong(answer)) == (1, {"pipeline raw": "UNKNOWN_PIPELINE", "model of raw": "UNKNOWN_MODEL"})
        client.control("pipeline.remove", name="raw")
        (item,) = held_out(1)
        before = client.infer("digits", item.jpeg).made_by
        assert before
    status, answer = attest(node, *ok)
    assert (status, list(wrong(answer))) == (1, ["pipeline raw (served no longer)", "model of raw (served no longer)"])
    crash(node)
    status, answer = attest(node, *ok, "--explain", f"{before[0]}:{before[1].hex()}")
    assert status == 0, answer
    assert answer["epoch"] == before[0] + 1
    assert answer["explained"]["boot"]["epoch"] == before[0]
    assert answer["explained"]["pipelines"] == ["digits"]
    status, answer = attest(node, *ok, "--explain", f"{before[0]}:{'00' * 8}")
    assert (status, answer["error"]) == (1, "NotExplainedError")

    # The node is switched off and on.
    stop(node.process)
    with node_process(tmp_path / "node") as again:
        status, answer = attest(again, *ok)
        assert (status, answer["device_key"]) == (0, printed["device_key"])
        assert [boot["reason"] for boot in answer["boots"]] == ["POWER_ON", "KILLED", "POWER_ON"]


def test_the_sdk_explains_an_answer_and_infer_shows_what_to_ask_for(node: NodeProcess, tmp_path: Path) -> None:
    (item,) = held_out(1)
    picture = tmp_path / item.name
    picture.write_bytes(item.jpeg)
    ran = napu("infer", "digits", str(picture), *LINK, "--target", node.address, "--json")
    (shown,) = json.loads(ran.stdout)["answers"]
    with node.client() as client:
        answer = client.infer("digits", item.jpeg)
        assert answer.made_by == (shown["firmware_epoch"], bytes.fromhex(shown["model_digest"]))
        claims = claims_of(client)
        identity = client.control("identity")
        explained = explain(claims, *answer.made_by)
        assert isinstance(explained.boot, Boot)
        assert explained.boot.image
        assert explained.boot.image.digest.hex() == identity["firmware"]["digest"]
        (served,) = client.pipelines()
        assert [pipeline.model.hex() for pipeline in explained.pipelines] == [served.model_sha256]
        assert claims.served["digits"].package.hex() == served.digest
        facts = {"access": "open", "link": "udp", "mtu": str(identity["mtu"]), "frames_damaged": "no"}
        assert facts.items() <= claims.configuration.items()
        outcomes = [_ask(client) for _ in range(40)]
        assert set(outcomes) <= {"quote", "BusyError"}  # at most one is signed in 5 ms
        assert "quote" in outcomes
        ran = CliRunner().invoke(app, ["attest", node.address, *LINK])
        assert ran.exit_code == 4
        assert "nothing was compared" in ran.stdout
        assert "key is not pinned" in ran.stdout
        with pytest.raises(BadArgumentError, match="nonce must have 32 bytes"):
            client.attest(nonce=bytes(16))


def test_asyncio_asks_alike(node: NodeProcess) -> None:
    async def ask() -> Claims:
        async with AsyncNapuClient("udp:127.0.0.1:0", node.address) as client:
            nonce = new_nonce()
            return check_evidence(await client.attest(nonce=nonce), nonce)

    claims = asyncio.run(ask())
    assert (claims.quote.epoch, list(claims.served)) == (1, ["digits"])


def _ask(client: NapuClient) -> str:
    try:
        return next(iter(client.control("attest", nonce=new_nonce())))
    except BusyError as error:
        return type(error).__name__


def test_a_node_without_its_key_does_not_start(tmp_path: Path) -> None:
    with node_process(tmp_path) as node:
        flash = node.flash
    key = flash / "DEVICE-KEY"
    key.write_bytes(key.read_bytes()[:-1])
    command = [sys.executable, "-m", "appliance.cli", "--access", "open", *LINK, "--flash", str(flash)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert "is damaged; a device without its key has lost its identity" in ran.stderr


def test_with_mutual_access_a_viewer_may_ask_and_knows_whom(tmp_path: Path) -> None:
    made = LabCa.create(tmp_path / "ca", utc_now)
    made.issue_user("vera", Grant(Role.VIEWER), tmp_path / "vera")
    made.issue_device("napu1", tmp_path / "napu1")
    options = ("--access", "mutual", "--credentials", str(tmp_path / "napu1"))
    with node_process(tmp_path / "node", *options) as node:
        with node.client() as nobody, pytest.raises(NotAuthenticatedError):
            nobody.attest()
        who = Identity.load(tmp_path / "vera")
        with NapuClient("udp:127.0.0.1:0", node.address, identity=who) as client:
            claims = claims_of(client)
            assert claims.quote.device == client.proven_device(node.address) == "napu1"
            assert (claims.configuration["access"], len(claims.configuration["authority"])) == ("mutual", 64)
        status, answer = attest(node, "--identity", tmp_path / "vera", "--device-key", claims.key.hex())
        assert (status, answer["findings"][0]["what"], answer["findings"][0]["verdict"]) == (4, "device", "GOOD")
