"""A real node with mutual access: sealed inference over clean and bad cables, and when things die or are forged."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgpack
import numpy as np
import pytest

from host_sdk.access.ca import LabCa, utc_now
from host_sdk.access.identity import Identity
from host_sdk.aio import AsyncNapuClient
from host_sdk.client import NapuClient
from host_sdk.operations import InferOptions, Timeout
from host_sdk.results import Inference
from host_sdk.wire.errors import NapuError, NotAuthenticatedError, NotPermittedError, NotSealedError
from host_sdk.wire.links.base import FrameBatch
from host_sdk.wire.links.faults import parse_faults
from host_sdk.wire.links.faulty import FaultyLink
from host_sdk.wire.links.packet import PacketLink
from host_sdk.wire.links.udp import UdpLink
from host_sdk.wire.roles import Grant, Role
from tests.rig.frames import INFER, REPLY, Pdu, Wire, message, next_request
from tests.rig.netns import Namespace, bridge, veth
from tests.rig.nodes import ROOT, NodeProcess, node_process, within
from tests.rig.packages import held_out, pack, tensor_manifest, tensor_package
from tests.rig.tiny_models import doubler
from tests.rig.wires import needs_root, open_in

LONG = 20_000  # floats: some 57 frames each way
TIMEOUT = Timeout(request=30, control=30)
LABELS, JPEGS = zip(*held_out()[:60], strict=True)
UNKNOWN_KEY = 83
SEALED = 0x10


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> LabCa:
    made = LabCa.create(tmp_path_factory.mktemp("ca") / "ca", utc_now)
    grants = {
        "vera": Grant(Role.VIEWER, share=50),
        "oleg": Grant(Role.OPERATOR),
        "ada": Grant(Role.ADMIN),
        "rudi": Grant(Role.VIEWER),  # who will be revoked
        "lena": Grant(Role.VIEWER, pipelines=("long",)),
    }
    for name, grant in grants.items():
        made.issue_user(name, grant, made.directory / "users" / name)
    made.issue_device("napu1", made.directory / "devices" / "napu1")
    return made


def options(ca: LabCa) -> tuple[str, ...]:
    return ("--access", "mutual", "--credentials", str(ca.directory / "devices" / "napu1"))


@pytest.fixture(scope="module")
def node(ca: LabCa, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with node_process(tmp_path_factory.mktemp("node"), *options(ca)) as running:
        public = "sealed = false\n" + tensor_manifest(doubler((1, 4)), "public")
        with client(running, identity(ca, "oleg")) as napu:
            napu.control("pipeline.install", package=tensor_package("long", doubler((1, LONG))))
            napu.control("pipeline.install", package=pack(public, {"model.tflite": doubler((1, 4))}))
        yield running


def identity(ca: LabCa, name: str) -> Identity:
    return Identity.load(ca.directory / "users" / name)


def client(node: NodeProcess, who: Identity | None, link: "str | FaultyLink" = "udp:127.0.0.1:0") -> NapuClient:
    return NapuClient(link, node.address, timeout=TIMEOUT, identity=who)


def stats(node: NodeProcess, ca: LabCa) -> dict[str, int]:
    with client(node, identity(ca, "vera")) as napu:
        return dict(napu.stats()["hardware"])


def tensor(answer: Inference | NapuError) -> np.ndarray:
    """Return the only output of an answer that was sealed, or of a plain one."""
    assert isinstance(answer, Inference)
    (found,) = answer.outputs.values()
    return found


def label_all(napu: NapuClient, times: int = 1) -> list[str | None]:
    answers = list(napu.infer_many("digits", JPEGS * times))
    assert all(isinstance(answer, Inference) and answer.sealed for answer in answers)
    return [answer.label for answer in answers if isinstance(answer, Inference)]


def test_inference_is_sealed_for_those_with_an_identity(node: NodeProcess, ca: LabCa) -> None:
    with client(node, identity(ca, "vera")) as napu:
        labels = label_all(napu)
        assert sum(one == other for one, other in zip(labels, LABELS, strict=True)) > 50
        answer = napu.infer("long", np.arange(LONG, dtype="<f4").reshape(1, LONG))
        assert answer.sealed
        assert (tensor(answer).reshape(-1) == 2 * np.arange(LONG, dtype="<f4")).all()
        assert {pipeline.name: pipeline.sealed for pipeline in napu.pipelines()} == {
            "digits": True, "long": True, "public": False
        }  # fmt: skip
        assert all(msgpack.unpackb(ticket)[0] < 1 << 48 for ticket in napu.tickets())  # nobody else has the key
    with client(node, None) as napu:
        (appliance,) = napu.discover()
        assert (appliance.access, sorted(appliance.sealed)) == ("mutual", ["digits", "long"])


def test_nothing_of_a_request_or_an_answer_can_be_read(node: NodeProcess, ca: LabCa) -> None:
    link = Eavesdropper("127.0.0.1", 0, peers=[node.address])
    with NapuClient(link, node.address, timeout=TIMEOUT, identity=identity(ca, "vera")) as napu:
        napu.pipelines()
        answer = napu.infer("digits", JPEGS[0])
    seen = b"".join(link.seen)
    assert len(seen) > len(JPEGS[0])
    for secret in (JPEGS[0][100:140], answer.outputs["score"].tobytes(), answer.outputs["label"].tobytes()):
        assert secret not in seen


class Eavesdropper(UdpLink):
    """A UDP link whose frames are noted."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.seen: list[bytes] = []

    def receive(self):  # type: ignore[no-untyped-def]
        batch = super().receive()
        self.seen += [batch.pdu(at).tobytes() for at in range(len(batch))]
        return batch

    def send(self, batch):  # type: ignore[no-untyped-def]
        self.seen += [batch.pdu(at).tobytes() for at in range(len(batch))]
        return super().send(batch)


def test_without_an_identity_and_outside_the_grant(node: NodeProcess, ca: LabCa) -> None:
    with client(node, identity(ca, "lena")) as napu, pytest.raises(NotPermittedError):
        napu.infer("digits", JPEGS[0])
    with client(node, identity(ca, "vera")) as known, client(node, None) as napu:
        napu._operations._pipelines[napu._operations.targets[0]] = {each.name: each for each in known.pipelines()}
        with pytest.raises(NotSealedError):
            napu.infer("digits", JPEGS[0])
        with pytest.raises(NotSealedError):
            napu.infer("long", np.zeros((1, LONG), "<f4"))
        answer = napu.infer("public", np.ones((1, 4), "<f4"))
        assert not answer.sealed
        assert (tensor(answer) == 2).all()


def test_messages_of_many_frames_under_loss_are_executed_once(node: NodeProcess, ca: LabCa) -> None:
    before = stats(node, ca)
    bad = parse_faults("loss=5%,duplicate=5%,reorder=5%,flip=2%")
    link = FaultyLink(UdpLink("127.0.0.1", 0, peers=[node.address]), bad, bad, 5, time.monotonic_ns)
    with client(node, identity(ca, "vera"), link) as napu:
        inputs = [np.full((1, LONG), number, "<f4") for number in range(12)]
        answers = list(napu.infer_many("long", inputs, window=4))
        for number, answer in enumerate(answers):
            assert isinstance(answer, Inference)
            assert (tensor(answer) == 2 * number).all()
        label_all(napu)
    after = stats(node, ca)
    assert after["inferences"] - before["inferences"] == 12 + len(JPEGS)
    for reason in ("replayed", "bad_seal"):  # the cable's copies and its flipped bits
        assert after[f"frames_{reason}"] > before[f"frames_{reason}"]
    assert after["rx_frames"] == sum(count for name, count in after.items() if name.startswith("frames_"))


def test_sealed_inference_goes_on_while_the_firmware_is_killed(node: NodeProcess, ca: LabCa) -> None:
    with client(node, identity(ca, "vera")) as napu, client(node, identity(ca, "ada")) as control:
        label_all(napu)
        before, pid = control.stats()["hardware"], control.control("identity")["firmware"]["pid"]
        killer = threading.Timer(0.05, os.kill, (pid, signal.SIGKILL))
        killer.start()
        while killer.is_alive():
            assert len(label_all(napu)) == len(JPEGS)
        label_all(napu)
        assert within(20, lambda: control.control("identity")["firmware"]["pid"] != pid)
        after = control.stats()["hardware"]
        label_all(napu)
    assert (after["keys"], after["sessions"]) == (before["keys"], before["sessions"])
    assert after["answers_unknown_session"] - before["answers_unknown_session"] <= 1  # the stream of control
    assert after["frames_unknown_key"] == before["frames_unknown_key"]


def test_a_node_that_restarted_gives_a_hint_and_another_key(ca: LabCa, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"udp:127.0.0.1:{probe.getsockname()[1]}"
    with node_process(tmp_path, *options(ca), link=place) as node:
        blocking = client(node, identity(ca, "vera"))
        label_all(blocking)

    async def main() -> list[str | None]:
        async with AsyncNapuClient(
            "udp:127.0.0.1:0", place.removeprefix("udp:"), timeout=TIMEOUT, identity=identity(ca, "vera")
        ) as napu:
            with node_process(tmp_path, *options(ca), link=place):
                first = await asyncio.gather(*(napu.infer("digits", jpeg) for jpeg in JPEGS))
            with node_process(tmp_path, *options(ca), link=place) as node:
                with blocking:
                    assert label_all(blocking) == [answer.label for answer in first]
                answers = await asyncio.gather(*(napu.infer("digits", jpeg) for jpeg in JPEGS))
                counters = await napu.stats()
                assert counters["hardware"]["answers_unknown_key"] >= 2
                assert node.process.poll() is None
        return [answer.label for answer in answers]

    assert len(asyncio.run(main())) == len(JPEGS)


def test_forged_hints_and_answers_change_nothing(node: NodeProcess, ca: LabCa) -> None:
    """Whoever can send in the appliance's name makes a client ask about its key once a second, and no more."""
    link = UdpLink("127.0.0.1", 0, peers=[node.address])
    with NapuClient(link, node.address, timeout=TIMEOUT, identity=identity(ca, "vera")) as napu:
        label_all(napu)
        before = stats(node, ca)
        spoofer = Spoofer(link)
        napu._engine.link._link = spoofer  # type: ignore[attr-defined]
        began = time.monotonic()
        for _ in range(4):
            label_all(napu)
        seconds = time.monotonic() - began
        asked = spoofer.asked
    after = stats(node, ca)
    assert spoofer.forged > 20
    assert 1 <= asked <= 2 * (seconds + 1)  # CONTROL messages: one for each time, sent again at most once
    assert after["keys"] - before["keys"] <= 1  # the one of stats itself
    assert after["inferences"] - before["inferences"] == 4 * len(JPEGS)


class Spoofer:
    """A link with forged frames in the appliance's name before everything that comes."""

    def __init__(self, link: UdpLink) -> None:
        self._link, self.forged, self.asked = link, 0, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._link, name)

    def send(self, batch):  # type: ignore[no-untyped-def]
        self.asked += int((batch.memory[batch.starts + 1] == 4).sum())
        return self._link.send(batch)

    def receive(self):  # type: ignore[no-untyped-def]
        batch = self._link.receive()
        if not len(batch):
            return batch
        ours = [batch.pdu(at).tobytes() for at in range(len(batch))]
        heads = [(int.from_bytes(pdu[8:16], "big"), int.from_bytes(pdu[4:8], "big")) for pdu in ours]
        forged = [
            Pdu(INFER | REPLY, b"", request, session=session, credits=1, tail=status << 16).encode()
            for request, session in heads
            for status in (UNKNOWN_KEY, 48, 0)  # a hint; that the session is gone; an answer
        ]
        self.forged += len(forged)
        every = [*forged, *ours]
        sizes = np.array([len(pdu) for pdu in every], np.int64)
        memory = np.zeros((len(every), 2048), np.uint8)
        for row, pdu in enumerate(every):
            memory[row, : len(pdu)] = np.frombuffer(pdu, np.uint8)
        peers = np.full(len(every), batch.peers[0], np.uint64)
        room = 250  # no more than a burst
        return FrameBatch(memory.reshape(-1), np.arange(len(every)) * 2048, sizes, peers).after(
            max(0, len(every) - room)
        )


def test_a_revoked_certificate_loses_its_key(node: NodeProcess, ca: LabCa) -> None:
    with client(node, identity(ca, "rudi")) as napu, client(node, identity(ca, "ada")) as control:
        label_all(napu)
        ca.revoke("rudi")
        control.control("access.revoke", list=ca.revoked_list())
        with pytest.raises(NotAuthenticatedError, match="rudi is revoked"):
            napu.infer("digits", JPEGS[0])
        log = [line["text"] for line in control.control("logs")["lines"]]
    assert any("audit: refused rudi" in line or "revoked" in line for line in log)
    assert any("are dropped: it is revoked" in line for line in log)


def test_a_key_is_renewed_in_time(node: NodeProcess, ca: LabCa, monkeypatch: pytest.MonkeyPatch) -> None:
    from host_sdk.access import sealing

    monkeypatch.setattr(sealing, "RENEW_AT", 100)  # frames
    with client(node, identity(ca, "vera")) as napu:
        before = napu.stats()["hardware"]
        for _ in range(4):
            label_all(napu)
        after = napu.stats()["hardware"]
        assert len(napu._operations.sealing._link.keys.all()) <= 2  # type: ignore[union-attr]
    assert after["keys"] - before["keys"] >= 2
    assert after["inferences"] - before["inferences"] == 4 * len(JPEGS)


def test_the_command_line_says_what_was_sealed(node: NodeProcess, ca: LabCa, tmp_path: Path) -> None:
    picture = tmp_path / "one.jpg"
    picture.write_bytes(JPEGS[0])
    where = ("--link", "udp:127.0.0.1:0", "--target", node.address, "--json")
    command = [sys.executable, "-m", "host_sdk.cli.main", "infer"]
    who = ("--identity", str(ca.directory / "users" / "vera"))

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*command, *words, *where], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
        )

    done = run("digits", str(picture), *who)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)["answers"]
    assert (answer["sealed"], answer["outputs"]["label"][0]) == (True, LABELS[0])
    assert run("digits", str(picture)).returncode == 1


@needs_root
@pytest.mark.parametrize("mtu", [1500, 576])
def test_sealed_inference_over_ethernet(ca: LabCa, tmp_path: Path, mtu: int) -> None:
    with Namespace() as switch, Namespace() as host, Namespace() as appliance:
        for name, namespace in (("port0", host), ("port1", appliance)):
            veth(switch, name, namespace, "eth0", mtu)
        bridge(switch, "br0", ["port0", "port1"])
        with ExitStack() as stack:
            with appliance.entered():
                node = stack.enter_context(node_process(tmp_path, *options(ca), link="packet:eth0"))
            napu = NapuClient(
                open_in(host, PacketLink, "eth0"), node.address, timeout=TIMEOUT, identity=identity(ca, "oleg")
            )
            with napu:
                labels = label_all(napu)
                assert sum(one == other for one, other in zip(labels, LABELS, strict=True)) > 50
                napu.control("pipeline.install", package=tensor_package("long", doubler((1, LONG))))
                answers = list(
                    napu.infer_many("long", [np.full((1, LONG), 3, "<f4")] * 5, options=InferOptions(once=True))
                )
                assert all(isinstance(each, Inference) and each.sealed for each in answers)


def test_frames_that_are_refused_are_told_in_the_audit(node: NodeProcess, ca: LabCa) -> None:
    forged = bytearray(message(Pdu(INFER, bytes(4), next_request()))[0])
    forged[3] |= SEALED
    forged[32:32] = (77).to_bytes(8, "big") + bytes(8)  # a key that nobody was granted
    with Wire(node.host_port) as wire:
        wire.send(bytes(forged) + bytes(16))
    with client(node, identity(ca, "vera")) as napu:

        def told() -> bool:
            lines: list[dict[str, object]] = []
            answer = napu.control("logs")
            while answer["lines"]:
                lines += answer["lines"]
                answer = napu.control("logs", after=answer["next"])
            return any("audit: refused frames of inference" in str(line["text"]) for line in lines)

        assert within(10, told)
