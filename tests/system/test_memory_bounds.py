"""A node whose memory is limited: its bounds stay below the limit, and a flood gets BUSY where there is no room."""

import contextlib
from pathlib import Path

import pytest

from appliance.memory import BASE_BYTES, SESSION_BYTES, bounded, container_limit, fit
from appliance.profile import load_profile
from host_sdk.wire.errors import ConfigError
from tests.rig.frames import INFER, Pdu, Wire, next_request
from tests.rig.nodes import node_process
from tests.rig.packages import held_out

MIB = 1 << 20
LIMITS = load_profile("napu-s").limits
QUEUED = 256 * MIB


@pytest.mark.parametrize("mebibytes", [150, 200, 300, 512, 700])
def test_bounds_stay_below_the_limit_together(mebibytes: int) -> None:
    cut, queued = fit(LIMITS, QUEUED, mebibytes * MIB)
    waiting = cut.kept_answers_bytes + cut.reassembly_bytes + cut.sessions * SESSION_BYTES + queued
    assert waiting + BASE_BYTES <= mebibytes * MIB + 8 * MIB  # reassembly keeps 8 MiB in any case
    assert 64 <= cut.sessions < LIMITS.sessions
    assert cut.max_message <= cut.reassembly_bytes


def test_where_there_is_room_the_profile_holds() -> None:
    assert fit(LIMITS, QUEUED, 2048 * MIB) == (LIMITS, QUEUED)


def test_too_little_is_refused_with_what_it_takes() -> None:
    with pytest.raises(ConfigError, match="a node needs 144 MiB of memory, and may take 100"):
        fit(LIMITS, QUEUED, 100 * MIB)
    with pytest.raises(ConfigError, match="raise the limit"):
        bounded(load_profile("napu-s"), QUEUED, 64)


@pytest.mark.parametrize(
    ("text", "limit"), [("max", None), ("268435456", 268435456), ("9223372036854771712", None), ("", None)]
)
def test_the_containers_limit(tmp_path: Path, text: str, limit: int | None) -> None:
    file = tmp_path / "memory.max"
    file.write_text(text + "\n")
    assert container_limit((str(tmp_path / "none"), str(file))) == limit


def test_a_flood_is_refused_and_not_kept(tmp_path: Path) -> None:
    label, jpeg = held_out()[0]
    with node_process(tmp_path, "--memory", "160") as node, node.client() as client, contextlib.ExitStack() as stack:
        (digits,) = client.pipelines()
        assert client.infer("digits", jpeg).label == label
        before = node.resident_bytes()
        most = 0
        for _ in range(12):  # peers, each with 4 MB of requests that never end
            wire = stack.enter_context(Wire(node.host_port))
            session = wire.open()
            for _ in range(20):
                request = {"request": next_request(), "session": session, "pipeline": digits.handle, "length": 200_000}
                parts = [
                    Pdu(INFER, bytes(1400), fragment=index, fragment_size=1400, **request).encode()
                    for index in range(100)
                ]
                wire.send(*parts)
            most = max(most, node.hardware()["reassembly_bytes"])
        assert 4 * MIB < most <= 8 * MIB
        assert node.resident_bytes() - before < 48 * MIB
        assert node.resident_bytes() < 160 * MIB
        assert client.infer("digits", jpeg).label == label
