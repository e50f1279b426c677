"""A throttled DLA, as trailers and the modelled queue show it, and as the firmware sets it over the bus."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from appliance.dataplane.energy import HardwareModel
from appliance.profile import load_profile
from tests.rig.frames import message
from tests.rig.packages import tensor_package
from tests.rig.port import Port, make_port

BODY = bytes(range(256))
FULL = 4000 + 164_608 // 400  # ns: launch, and the multiply-accumulates of the digits at 400 a ns
RAW = {"pre": 16, "post": 0}  # ns: 256 elements at 16 a ns; nothing after the model


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    yield from make_port(tmp_path, tensor_package("raw"))


def modelled(reply: bytes) -> dict[str, int]:
    """Return the modelled ns and the nJ of a reply's trailer, its last 64 bytes, as docs/protocol.md lays them out."""
    words = struct.unpack(">13I", reply[-64:][:52])
    return dict(zip(("rx", "queue", "pre", "dla", "post", "tx", "energy"), words[6:], strict=True))


def ask(port: Port, number: int, *, fast: bool) -> dict[str, int]:
    port.clock.advance(10**9)  # the modelled DLA is free again
    before = port.fast()
    (reply,) = port.exchange([*message(port.infer(number, BODY)), *([] if fast else [b"runt"])])
    assert port.fast() - before == fast
    return modelled(reply)


@pytest.mark.parametrize("fast", [True, False])
def test_trailers_show_the_rate_at_once(port: Port, fast: bool) -> None:
    taken = []
    for number, percent in enumerate((100, 50, 33, 1, 100)):
        port.device.set_dla_rate(percent)
        taken.append(ask(port, number, fast=fast))
    assert [figures["dla"] for figures in taken] == [FULL, 2 * FULL, FULL * 100 // 33, 100 * FULL, FULL]
    assert all(figures["pre"] == RAW["pre"] and figures["post"] == RAW["post"] for figures in taken)
    # The DLA's work takes the same energy; the board's 1.5 W go on for longer.
    assert taken[1]["energy"] - taken[0]["energy"] == pytest.approx(1.5 * FULL, abs=2)


def test_the_modelled_queue_grows_with_it(port: Port) -> None:
    def queue_of_five() -> list[int]:
        port.clock.advance(10**9)
        return [modelled(port.exchange(message(port.infer(n, BODY)))[0])["queue"] for n in range(5)]

    # Two cores: the third and fourth wait for the first two, the fifth for the third.
    assert queue_of_five() == [0, 0, FULL, FULL, 2 * FULL]
    port.device.set_dla_rate(25)
    assert queue_of_five() == [0, 0, 4 * FULL, 4 * FULL, 8 * FULL]


def test_energy_at_a_rate_by_hand() -> None:
    model = HardwareModel(load_profile("napu-s"))
    model.set_dla_rate(40)
    stages = {"rx": 1000, "tx": 200, "pre": 8000, "dla": 10_000, "post": 100}
    figures = {stage: np.array([ns], np.int64) for stage, ns in stages.items()}
    expected = 1200 * 1.0 + 8000 * 0.8 + 2500 * 2.0 * 0.4 + 100 * 0.6 + (1200 + 8000 + 2500 + 100) * 1.5
    assert model.energy_nj(figures, 4, media=True).tolist() == [pytest.approx(expected)]


def test_the_device_tells_its_board_the_energy_that_it_counted(port: Port) -> None:
    assert port.device.energy_nj() == 0
    spent = ask(port, 1, fast=True)["energy"]
    assert port.device.energy_nj() == spent > 0
