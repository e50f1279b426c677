"""Damage to an input, by a generator: what a fuzzer does, without its eye for coverage."""

import random
from collections.abc import Sequence

NOTABLE = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0")


def mutated(generator: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of the seeds after one to six changes."""
    data = bytearray(generator.choice(seeds))
    for _ in range(generator.randint(1, 6)):
        at = generator.randint(0, len(data))
        length = min(len(data) - at, generator.randint(1, 16))
        match generator.randrange(6):
            case 0:
                if at < len(data):
                    data[at] ^= 1 << generator.randrange(8)
            case 1:
                data[at : at + length] = generator.randbytes(length)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = generator.randbytes(generator.randint(1, 8))
            case 4:
                notable = generator.choice(NOTABLE)
                data[at : at + len(notable)] = notable
            case _:
                other = generator.choice(seeds)
                begin = generator.randint(0, len(other))
                data[at : at + length] = other[begin : begin + generator.randint(1, 64)]
    return bytes(data)
