"""Three appliances for each test."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.rig.rack import Rack


@pytest.fixture
def rack() -> Iterator[Rack]:
    with ExitStack() as running:
        made = Rack(running)
        for name in "abc":
            made.add(name)
        yield made
