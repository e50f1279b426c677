"""Every bit of the frames of a *once* request, and of its answer, is damaged once: what comes of it is right."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from host_sdk.operations import InferOptions
from host_sdk.wire.links.base import Link
from host_sdk.wire.schema import HEADER_SIZE, Opcode
from tests.rig.damaged import FIRST_TOKEN, Flipper, VirtualWire
from tests.rig.packages import held_out, image_package, tensor_package
from tests.rig.tiny_models import doubler

SMALL, LONG = 8, 700  # floats; the long ones take two frames there and two back
HEADER_BITS = HEADER_SIZE * 8


class FlippedWire(VirtualWire):
    """A device behind a link that flips a bit."""

    def __init__(self) -> None:
        def wrap(port: Link, _: Callable[[], int]) -> Link:
            self.flipper = Flipper(port)
            return self.flipper

        long = tensor_package("long", doubler((1, LONG)), batch=4)
        super().__init__([tensor_package("small", doubler((1, SMALL)), batch=8), long, image_package()], wrap)

    def answers(self, name: str, bodies: np.ndarray) -> list[bytes]:
        """Ask for bodies, and return their answers; each comes exactly once, and each is run exactly once."""
        before = self.virtual.device.counters()["inferences"]
        found: dict[int, bytes] = {}
        for event in self.ask(name, bodies, InferOptions(trailer=False)):
            assert event.error is None, event.error
            for token, body in zip(event.tokens.tolist(), event.bodies, strict=True):
                assert token not in found
                found[token] = body.tobytes()
        assert self.virtual.device.counters()["inferences"] - before == len(bodies)
        return [found[FIRST_TOKEN + index] for index in range(len(bodies))]


@pytest.fixture(scope="module")
def wire() -> Iterator[FlippedWire]:
    made = FlippedWire()
    yield made
    made.close()


def survived(wire: FlippedWire, name: str, opcode: Opcode, frame: int, bits: list[int]) -> None:
    """Ask with each bit of one frame flipped, and check that all that was asked is answered right."""
    floats, count = {"small": (SMALL, 2), "long": (LONG, 1)}[name]
    begin = wire.flipper.hits
    for bit in bits:
        bodies = (np.arange(count * floats, dtype="<f4") + bit).reshape(count, floats)
        wire.flipper.flip(opcode, frame, bit)
        found = wire.answers(name, bodies.view(np.uint8))
        assert found == [(2 * body).tobytes() for body in bodies], f"bit {bit}"
    assert wire.flipper.hits - begin == len(bits)
    counters = wire.virtual.device.counters()
    assert counters["collecting"] == counters["reassembling"] == 0


@pytest.mark.parametrize("opcode", [Opcode.INFER, Opcode.RESULT])
def test_any_bit_of_a_message_of_one_frame(wire: FlippedWire, opcode: Opcode) -> None:
    survived(wire, "small", opcode, 0, list(range(HEADER_BITS + (SMALL * 4 + 4) * 8)))


@pytest.mark.parametrize("opcode", [Opcode.INFER, Opcode.RESULT])
@pytest.mark.parametrize("frame", [0, 1])
def test_any_bit_of_the_headers_of_fragments(wire: FlippedWire, frame: int, opcode: Opcode) -> None:
    ends = [HEADER_BITS, HEADER_BITS + 7, HEADER_BITS + 1000 * 8]
    survived(wire, "long", opcode, frame, list(range(HEADER_BITS)) + ends)


def test_any_bit_of_the_header_of_a_settle(wire: FlippedWire) -> None:
    """Each asks for one, as the answer before it was long; what is damaged settles nothing that it should not."""
    survived(wire, "long", Opcode.SETTLE, 0, list(range(HEADER_BITS)))


@pytest.mark.parametrize("longer", [0, 1500], ids=["one frame", "two frames"])
def test_any_bit_of_the_header_of_a_picture(wire: FlippedWire, longer: int) -> None:
    """A decoder of pictures passes over four bytes more: nothing but the CRC finds damage."""
    _, picture = held_out()[0]
    body = np.frombuffer(picture + bytes(longer), np.uint8).reshape(1, -1)
    expected = wire.answers("digits", body)
    for bit in range(HEADER_BITS):
        wire.flipper.flip(Opcode.INFER, 0, bit)
        assert wire.answers("digits", body) == expected, f"bit {bit}"
