"""Peers that mean harm: fragments without end, floods, garbage for the control plane, packages that lie, noise.

After every one of them the next good request is answered and no frame is unaccounted for.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import msgpack
import pytest

from host_sdk.wire.errors import BadPipelineError
from tests.rig import frames
from tests.rig.bench import DISCOVERY_PER_S, JPEG, REASSEMBLY_BYTES, SESSIONS, Bench, running_bench
from tests.rig.frames import (
    CLOSE,
    CONTROL,
    CRC_FLAG,
    DISCOVER,
    INFER,
    OPEN,
    REPLY,
    Pdu,
    Wire,
    message,
    next_request,
)
from tests.rig.nodes import within
from tests.rig.packages import digits_model, image_package, tensor_package


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with running_bench(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    shared.check()
    yield shared
    shared.check()


# ---- fragments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"fragment_size": 299}, {"length": 901}, {"pipeline": 7}, {"priority": 9}])
def test_conflicting_fragments(bench: Bench, change: dict[str, int]) -> None:
    whole = bench.infer(bytes(300), length=900, fragment_size=300)
    fields = {name: getattr(whole, name) for name in whole.__dataclass_fields__}
    second = Pdu(**{**fields, "fragment": 1, "payload": bytes(change.get("fragment_size", 300)), **change})
    with bench.counts(answers_fragment_conflict=1):
        bench.wire.send(whole.encode(), second.encode())
        assert bench.wire.answer(whole.request).status == frames.FRAGMENT_CONFLICT
    assert within(5, lambda: bench.node.hardware()["reassembling"] == 0)


def test_duplicate_fragments(bench: Bench) -> None:
    pdu = bench.infer()
    datagrams = message(pdu, 300)
    with bench.counts(frames_fragment_duplicate=4, inferences=1):
        # One GRANT answers all the copies that the node takes from its link together, so each waits for its own.
        for index, copy in ((0, False), (0, True), (1, False), (0, True), (1, True), (0, True)):
            bench.wire.send(datagrams[index])
            if copy:
                assert bench.wire.receive(5.0).opcode == 0xA2
        assert bench.wire.pending() == []
        bench.wire.send(*datagrams[2:])
        (answer,) = bench.wire.pending()
        assert (answer.opcode, answer.status) == (INFER | REPLY, frames.OK)


def test_fragments_in_any_order(bench: Bench) -> None:
    for seed in range(5):
        pdu = bench.infer()
        datagrams = message(pdu, 100)
        random.Random(seed).shuffle(datagrams)
        bench.wire.send(*datagrams)
        assert bench.wire.answer(pdu.request).status == frames.OK


def test_a_fragment_that_never_comes(bench: Bench) -> None:
    pdu = bench.infer()
    with bench.counts(answers_reassembly_timeout=1):
        bench.wire.send(*message(pdu, 300)[1:])
        assert bench.wire.answer(pdu.request).status == frames.REASSEMBLY_TIMEOUT
    assert bench.node.hardware()["reassembling"] == 0


def test_endless_fragments(bench: Bench) -> None:
    """The beginnings of thousands of messages: memory stays within its bound, and every one taken is answered."""
    before, resident = bench.node.hardware(), bench.node.resident_bytes()
    most = 0
    for _ in range(40):
        for _ in range(100):
            bench.wire.send(bench.infer(bytes(500), length=1 << 20, fragment_size=500).encode())
        most = max(most, bench.node.hardware()["reassembly_bytes"])
    assert 0 < most <= REASSEMBLY_BYTES
    assert within(5, lambda: bench.node.hardware()["reassembling"] == 0)
    answers = bench.wire.pending()
    after = bench.node.hardware()
    dropped = after["frames_reassembly_full"] - before["frames_reassembly_full"]
    lost = 4000 - dropped - len(answers)  # by the socket, if this machine is very busy
    assert dropped > 100
    assert {answer.status for answer in answers} == {frames.REASSEMBLY_TIMEOUT}
    assert after["answers_reassembly_timeout"] - before["answers_reassembly_timeout"] >= len(answers)
    assert 0 <= lost < 2000
    assert after["reassembly_bytes"] == 0
    assert bench.node.resident_bytes() - resident < 1 << 25


def test_one_peer_cannot_fill_the_reassembly_of_all(bench: Bench) -> None:
    pdu = bench.infer()
    with Wire(bench.node.host_port) as greedy:
        for _ in range(1500):
            greedy.send(bench.infer(bytes(500), length=1 << 20, fragment_size=500).encode())
        bench.wire.send(*message(pdu, 300))
        assert bench.wire.answer(pdu.request).status == frames.OK


# ---- floods ----------------------------------------------------------------------------------------------------------


def test_flood_of_discover(bench: Bench) -> None:
    before = bench.node.hardware()
    bench.wire.send(*(Pdu(DISCOVER, request=next_request()).encode() for _ in range(500)))
    answers = bench.wire.pending()
    after = bench.node.hardware()
    refused = sum(
        after[name] - before[name] for name in ("frames_discovery_rate", "frames_mailbox_full", "discoveries")
    )
    assert after["frames_discovery_rate"] - before["frames_discovery_rate"] > 300
    assert refused <= 500
    taken = after["discoveries"] - before["discoveries"]
    assert DISCOVERY_PER_S // 2 <= taken <= 3 * DISCOVERY_PER_S
    while len(answers) < taken:  # the firmware may be slow, but forgets none
        answers.append(bench.wire.receive(20))
    assert len(answers) == taken


def test_flood_of_open(bench: Bench) -> None:
    """One peer keeps half the sessions, several take them all and no more; nobody who has one loses it."""
    before = bench.node.hardware()
    body = msgpack.packb({"fragment_size": 1400})
    with Wire(bench.node.host_port) as greedy:
        opened = [greedy.ask(Pdu(OPEN, body, next_request())) for _ in range(200)]
        ids = {reply.session for reply in opened if reply.status == frames.OK}
        assert len(ids) == SESSIONS // 2
        assert {reply.status for reply in opened} == {frames.OK, frames.BUSY}
        assert bench.node.hardware()["sessions"] <= before["sessions"] + SESSIONS // 2
        peers = [Wire(bench.node.host_port) for _ in range(SESSIONS)]
        try:
            replies = [peer.ask(Pdu(OPEN, body)) for peer in peers]
        finally:
            for peer in peers:
                peer.__exit__()
        refused = [reply for reply in replies if reply.status == frames.BUSY]
        assert refused
        assert all(reply.retry_after > 0 and reply.text == "every session is in use" for reply in refused)
        assert bench.node.hardware()["sessions"] == SESSIONS
        # What the greedy one gives back, others can have.
        for session in ids:
            greedy.ask(Pdu(CLOSE, session=session))
    assert bench.node.hardware()["answers_busy"] > before["answers_busy"]
    assert bench.node.hardware()["sessions"] < SESSIONS


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgpack.packb([]),
        msgpack.packb({}),
        msgpack.packb({"fragment_size": "1400"}),
        msgpack.packb({"fragment_size": True}),
        msgpack.packb({"fragment_size": 543}),
        msgpack.packb({"fragment_size": 65536}),
        msgpack.packb({"fragment_size": -1}),
        msgpack.packb({"fragment_size": 2**64 - 1}),
        msgpack.packb({"fragment_size": 1400}) + b"\0",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x81" * 1300,
        b"\x81\xd6\xff\xff\xff\xff\xff\x01",
        b"\x81\xa3\xff\xfe\xfd\x01",
    ],
    ids=lambda body: body[:6].hex() or "empty",
)
def test_open_with_a_garbage_body(bench: Bench, body: bytes) -> None:
    bench.refuses(Pdu(OPEN, body, next_request()), frames.BAD_ARGUMENT, "bad_argument", "fragment_size, 544 to 65535")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", frames.MALFORMED),
        (b"\xc1", frames.MALFORMED),
        (b"\xdf\xff\xff\xff\xff", frames.MALFORMED),
        (b"\x81" * 1300, frames.MALFORMED),
        (b"\x91" * 1300, frames.MALFORMED),
        (b"\x81\xa2op\xdf\xff\xff\xff\xff", frames.MALFORMED),
        (b"\x81\xa2op\xa3\xff\xff\xff", frames.MALFORMED),
        (msgpack.packb({}), frames.MALFORMED),
        (msgpack.packb({"op": 7}), frames.MALFORMED),
        (msgpack.packb({"op": "stats"}) + b"x", frames.MALFORMED),
        (msgpack.packb({"op": ""}), frames.UNKNOWN_OPERATION),
        (msgpack.packb({"op": "x" * 1000}), frames.UNKNOWN_OPERATION),
        (msgpack.packb({"op": "__class__"}), frames.UNKNOWN_OPERATION),
        (msgpack.packb({"op": "pipeline.remove"}), frames.BAD_ARGUMENT),
        (msgpack.packb({"op": "pipeline.remove", "name": 3}), frames.BAD_ARGUMENT),
        (msgpack.packb({"op": "pipeline.remove", "name": "../../board/epoch"}), frames.UNKNOWN_PIPELINE),
        (msgpack.packb({"op": "logs", "after": -1}), frames.BAD_ARGUMENT),
        (msgpack.packb({"op": "logs", "limit": 10**6}), frames.BAD_ARGUMENT),
    ],
    ids=lambda value: value[:8].hex() or "empty" if isinstance(value, bytes) else "",
)
def test_control_garbage(bench: Bench, body: bytes, status: int) -> None:
    reply = bench.wire.ask(Pdu(CONTROL, body))
    assert (reply.opcode, reply.status) == (CONTROL | REPLY, status), reply
    assert 0 < len(reply.text) <= 512


# ---- pipeline packages -----------------------------------------------------------------------------------------------


def edited(**changes: tuple[str, str]) -> bytes:
    """Return the digits' package with its manifest edited, digests unchanged."""
    package = msgpack.unpackb(image_package("fraud"))
    for old, new in changes.values():
        assert old in package["manifest"]
        package["manifest"] = package["manifest"].replace(old, new, 1)
    packed: bytes = msgpack.packb(package)
    return packed


@pytest.mark.parametrize(
    ("package", "message_part"),
    [
        (b"", "no pipeline package"),
        (b"\xdf\xff\xff\xff\xff", "no pipeline package"),
        (msgpack.packb({"manifest": "", "files": {}, "more": 1}), "neither manifest nor files"),
        (tensor_package("fraud", b"this is no model"), "no TensorFlow Lite file"),
        (tensor_package("fraud", digits_model()[:9000]), "graph cannot be read|does not load|crashes"),
        (edited(a=("width = 16", "width = 32")), r"end in int8 \[16, 32, 1\]"),
        (edited(a=("width = 16", "width = 4096"), b=("height = 16", "height = 4096")), r"end in int8 \[4096, 4096"),
        (edited(a=("k = 3", "k = 1000")), "k must be a whole number from 1 to 10"),
        (edited(a=('sha256 = "3', 'sha256 = "4')), "the manifest says 4d10"),
        (edited(a=('file = "model.tflite"', 'file = "labels.txt"')), "labels.txt has SHA-256"),
        (edited(a=('file = "model.tflite"', 'file = "absent"')), "no file 'absent'"),
        (edited(a=('name = "fraud"', f'name = "{"f" * 64}"')), "name must be a text of the form"),
        (edited(a=("max = 16", f"max = {'9' * 6000}")), "no TOML"),
    ],
)
def test_pipeline_that_cannot_run(bench: Bench, package: bytes, message_part: str) -> None:
    with bench.node.client(control=30.0) as client:
        names = {pipeline.name for pipeline in client.pipelines()}
        with pytest.raises(BadPipelineError, match=message_part):
            client.control("pipeline.install", package=package)
        assert {pipeline.name for pipeline in client.pipelines()} == names


def test_pipeline_with_a_damaged_model(bench: Bench) -> None:
    """Models with random bytes changed run, or are refused in a sentence; the digests are those of the damage."""
    refused = 0
    with bench.node.client(control=30.0) as client:
        for seed in range(4):
            chance, model = random.Random(seed), bytearray(digits_model())
            for _ in range(6):
                model[chance.randrange(len(model) * 9 // 10, len(model))] = chance.randrange(256)
            try:
                client.control("pipeline.install", package=tensor_package("damaged", bytes(model)))
            except BadPipelineError:
                refused += 1
            else:
                client.infer("damaged", bytes(client.pipelines()[-1].max_bytes))
                client.control("pipeline.remove", name="damaged")
            assert bench.is_well()
    assert refused > 0


def test_files_of_a_package_stay_in_it(bench: Bench) -> None:
    package = msgpack.unpackb(image_package("tidy"))
    package["files"]["../../escape"] = b"x"
    package["files"]["/etc/napu-escape"] = b"x"
    with bench.node.client(control=30.0) as client, contextlib.suppress(BadPipelineError):
        client.control("pipeline.install", package=msgpack.packb(package))
        client.control("pipeline.remove", name="tidy")
    assert not list(bench.node.flash.parent.rglob("*escape*"))


# ---- anything at all -------------------------------------------------------------------------------------------------


def test_thousands_of_random_datagrams(bench: Bench) -> None:
    chance = random.Random(20)
    before = bench.node.hardware()["rx_frames"]
    for index in range(6000):
        bench.wire.send(chance.randbytes(chance.choice((0, 20, 32, 33, 40, 64, 200, 1472))))
        if index % 500 == 0:
            bench.wire.pending()
    assert bench.node.hardware()["rx_frames"] - before > 3000


def test_thousands_of_mutated_frames(bench: Bench) -> None:
    """Good frames of every kind with a few bytes changed, cut or lengthened, and request ids that collide."""
    chance = random.Random(21)
    stranger = Wire(bench.node.host_port)  # whose session one of them may well close
    session = stranger.open()
    seeds = [
        bench.infer(session=session),
        bench.infer(flags=CRC_FLAG, session=session),
        bench.infer(JPEG[:200], length=len(JPEG), fragment_size=200, session=session),
        bench.infer(bytes(256), pipeline=bench.handles["raw"], session=session),
        Pdu(OPEN, msgpack.packb({"fragment_size": 1400})),
        Pdu(CLOSE, session=session ^ 1),
        Pdu(DISCOVER),
        Pdu(CONTROL, msgpack.packb({"op": "stats"})),
        Pdu(CONTROL, msgpack.packb({"op": "logs", "after": 1})),
    ]
    before, threads = bench.node.hardware(), bench.node.threads()
    descriptors, resident = bench.node.descriptors(), bench.node.resident_bytes()
    for index in range(8000):
        pdu = chance.choice(seeds)
        fields = {name: getattr(pdu, name) for name in pdu.__dataclass_fields__}
        data = bytearray(Pdu(**{**fields, "request": chance.choice((1, 2, chance.getrandbits(64)))}).encode())
        for _ in range(chance.choice((0, 1, 1, 2, 5))):
            where = chance.randrange(32) if chance.random() < 0.7 else chance.randrange(len(data))
            data[where] = chance.choice((0, 1, 255, chance.randrange(256)))
        if chance.random() < 0.1:
            del data[chance.randrange(len(data)) :]
        elif chance.random() < 0.05:
            data += bytes(chance.randrange(60))
        stranger.send(bytes(data))
        if index % 500 == 0:
            stranger.pending()
    stranger.pending()
    stranger.__exit__()
    after = bench.node.hardware()
    assert after["rx_frames"] - before["rx_frames"] > 4000
    for counter in ("truncated", "bad_version", "bad_fragment", "not_a_request", "trailing_bytes"):
        assert after[f"frames_{counter}"] > before[f"frames_{counter}"]
    assert (bench.node.threads(), bench.node.descriptors()) == (threads, descriptors)
    assert bench.node.resident_bytes() - resident < 1 << 25


def test_the_flash_holds_what_was_installed_and_no_more(bench: Bench) -> None:
    model = hashlib.sha256(digits_model()).hexdigest()
    with bench.node.client() as client:
        assert {pipeline.name for pipeline in client.pipelines()} == {"digits", "raw"}
        assert {pipeline.model_sha256 for pipeline in client.pipelines()} == {model}
