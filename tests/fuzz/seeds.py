"""Inputs to begin with: golden frames, images and packages that other tests have, and small ones of each kind."""

import io
import json
import zipfile
from dataclasses import replace

import msgpack
import numpy as np
from PIL import Image

from appliance.board.mailbox import Letter, encode_letter
from firmware.boot.layout import Slot
from firmware.boot.state import BootState, SlotRecord, SlotState, encode_state
from firmware.image import read_image
from host_sdk.capture.packet import CapturedPacket, Interface, InterfaceStatistics
from host_sdk.capture.pcapng import file_head, metadata_block, packet_block, statistics_block
from host_sdk.lab.topology import Appliance, Host, Topology, default_mac
from host_sdk.wire.exchange.arrived import Arrived
from host_sdk.wire.header import Header
from host_sdk.wire.message import Extension, Message, encode_message, fragment_frames
from host_sdk.wire.schema import Flag, Opcode
from tests.firmware.images import GOOD, POLICY, certificate, golden
from tests.rig.packages import digits_labels, held_out, image_manifest, pack, tensor_manifest, to_png
from tests.wire.golden import GOLDEN

MODEL = b"model"
STAGES = '[[pre]]\nstage = "decode"\n[[post]]\nstage = "labels"\nfile = "labels.txt"\n'


def pdus() -> list[bytes]:
    return [pdu for case in GOLDEN for pdu in case.data] + [frame for run in runs() for frame in run]


def runs() -> list[list[bytes]]:
    """Messages of several frames: golden, in order, backwards with a copy, and two mixed."""
    header = Header(Opcode.CONTROL, 7, Flag.CRC | Flag.TRAILER, session=3)
    long = Message(header, bytes(range(100)), (Extension(1, b"abc"), Extension(9, b"")))
    frames = list(fragment_frames(*encode_message(long, 16)))
    other = list(fragment_frames(*encode_message(replace(long, header=replace(header, request=8)), 40)))
    mixed = [frame for pair in zip(frames, other, strict=False) for frame in pair]
    return [*(case.data for case in GOLDEN), frames, [*frames[::-1], frames[2]], mixed]


def arrived() -> list[bytes]:
    generator = np.random.default_rng(1)
    cases = [Arrived.of(Opcode.INFER, generator.random(count) < 0.7, 8) for count in (1, 9, 200)]
    return [(200).to_bytes(2, "big") + case.encode() for case in cases]


def certificates() -> list[bytes]:
    return [certificate(), certificate(kind=1, serial=0, not_after=2**64 - 1)]


def images() -> list[bytes]:
    return [GOOD, golden()]


def payloads() -> list[bytes]:
    """What a golden image holds, and zip files of sources, stored and packed."""
    return [read_image(golden()).payload, zipped(zipfile.ZIP_STORED), zipped(zipfile.ZIP_DEFLATED)]


def zipped(method: int) -> bytes:
    with io.BytesIO() as sink:
        with zipfile.ZipFile(sink, "w", method) as archive:
            for name, text in (("firmware/__init__.py", ""), ("firmware/main.py", "x = 1\n" * 20)):
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
        return sink.getvalue()


def policies() -> list[bytes]:
    root = f'root_hash = "{POLICY.root_hash.hex()}"\n'
    rest = 'hardware = "board-7"\nlowest_counter = 3\nrevoked = [1, 2]\nkinds = ["release"]\nnow = 1000\n'
    return [root.encode(), (root + rest).encode()]


def control() -> list[bytes]:
    requests: list[dict[str, object]] = [
        *({"op": op} for op in ("identity", "pipelines", "stats", "health", "no.such.operation")),
        {"op": "logs", "after": 3, "limit": 5},
        {"op": "pipeline.install", "package": pack('name = "x"', {"model": b"m"})},
        {"op": "pipeline.remove", "name": "x"},
        {"op": "access.revoke", "list": b"-----BEGIN X509 CRL-----\n"},
        {"op": "secure", "stream": 5, "offset": 0, "records": b"\x16\x03\x01\x00\x05hello"},
        {"op": "identity", "id": 9, "unknown": [{"deep": [None, 1.5, True]}]},
    ]
    return [msgpack.packb(request) for request in requests]


def letters() -> list[bytes]:
    """Those that firmware sends: the golden frames of a single fragment that are replies, and more."""
    messages = [Message(case.header, case.body, case.extensions, case.trailer) for case in GOLDEN]
    answer = Message(Header(Opcode.CONTROL | 0x80, 4, Flag.CRC, session=3, status=2), b"why")
    return [encode_letter(Letter(0x0200_0000_0001, message)) for message in (*messages, answer)]


def manifests() -> list[bytes]:
    rest = "mean = [0.5, 1e3]\nscale = [255.0]\n"
    pre = STAGES.replace('"decode"\n', f'"decode"\n[[pre]]\nstage = "normalise"\n{rest}')
    texts = (image_manifest(MODEL), tensor_manifest(MODEL, "t", dtype="int8", stages=pre))
    return [text.encode() for text in texts]


def packages() -> list[bytes]:
    files = {"model.tflite": MODEL, "labels.txt": digits_labels()}
    return [pack(text.decode(), files) for text in manifests()]


def media() -> list[bytes]:
    jpeg = held_out()[0][1]
    palette = io.BytesIO()
    Image.new("P", (5, 3)).save(palette, "PNG", transparency=0)
    progressive = io.BytesIO()
    Image.new("RGB", (20, 9), "teal").save(progressive, "JPEG", progressive=True)
    return [jpeg, to_png(jpeg), palette.getvalue(), progressive.getvalue()]


def states() -> list[bytes]:
    record = SlotRecord(SlotState.CONFIRMED, 0, 1000, 3, bytes(range(32)))
    trying = replace(record, state=SlotState.TRYING, tries=2)
    return [encode_state(state) for state in (BootState(), BootState(Slot.B, (record, trying), 4, 2**32 - 1))]


def topologies() -> list[bytes]:
    two = tuple(
        Appliance(f"n{index}", default_mac(index), arguments=("--poll", "busy"), command=("x", "{ready_fd}"))
        for index in (1, 2)
    )
    hosts = (Host("h"), Host("i", "02:00:00:00:00:09", mtu=600))
    labs = [Topology("a", two[:1], mtu=9000, cabling="direct"), Topology("b", two, hosts, link="packet")]
    bare = {"name": "c", "appliances": [{"name": "n1"}]}
    return [json.dumps(each).encode() for each in (*(lab.to_mapping() for lab in labs), bare)]


def captures() -> list[bytes]:
    head = file_head([Interface("br0"), Interface("n1:in", 228)])
    frame = bytes(12) + b"\x88\xb5" + pdus()[0]
    packets = [CapturedPacket(kind, 10**18, frame, len(frame), packet_id=7, comments=("x",)) for kind in (0, 1)]
    blocks = b"".join(packet_block(packet) for packet in packets)
    end = statistics_block(1, 9, 3, InterfaceStatistics(5, 1, 4)) + metadata_block({"a": 1})
    return [head, head + blocks, head + blocks + end]
