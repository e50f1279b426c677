"""What only the memory link does."""

import threading

import pytest

from host_sdk.wire.errors import ConfigError, MtuError
from host_sdk.wire.links.base import BROADCAST
from host_sdk.wire.links.memory import MemorySwitch
from tests.rig.wires import SECOND, closing, collect, send


def test_a_full_queue_drops_and_counts() -> None:
    switch = MemorySwitch()
    with closing(switch.attach(), switch.attach(queue=100)) as (one, two):
        numbered = [bytes([number]) for number in range(150)]
        assert send(one, numbered, two.address) == 150
        assert two.statistics().rx_drops == {"queue_full": 50}
        assert [pdu for _, pdu in collect(two, 100)] == numbered[:100]
        send(one, numbered[:100], two.address)
        assert len(collect(two, 100)) == 50, "the batch in the owner's hands still takes room"
        assert two.capacity == 50


def test_a_port_with_a_smaller_mtu_drops_and_counts() -> None:
    switch = MemorySwitch()
    with closing(switch.attach(mtu=1500), switch.attach(mtu=600)) as (one, two):
        send(one, [b"x" * 601, b"y" * 600], two.address)
        assert [pdu for _, pdu in collect(two, 1)] == [b"y" * 600]
        assert two.statistics().rx_drops == {"too_large": 1}
        batch = two.allocate(2)
        batch.lengths[:] = [601, 600]
        batch.peers[:] = one.address
        assert two.send(batch) == 1
        assert two.statistics().tx_drops == {"too_large": 1}


def test_unicast_to_nobody_is_counted_by_the_switch() -> None:
    switch = MemorySwitch()
    with closing(switch.attach()) as (one,):
        assert send(one, [b"x"] * 3, 0x0200_0000_0099) == 3
        assert send(one, [b"x"], BROADCAST) == 1
        assert switch.undeliverable == 3


def test_addresses_are_given_and_checked() -> None:
    switch = MemorySwitch()
    with closing(switch.attach(), switch.attach(0x0200_0000_0002), switch.attach()) as links:
        assert [link.address & 0xFF for link in links] == [1, 2, 3]
        with pytest.raises(ConfigError, match="port 02:00:00:00:00:02 already"):
            switch.attach(0x0200_0000_0002)
        for address in (0, BROADCAST, 0x0300_0000_0001, 1 << 48):
            with pytest.raises(ConfigError, match="not the MAC address of one port"):
                switch.attach(address)
        links[1].close()
        with closing(switch.attach()) as (again,):
            assert again.address == 0x0200_0000_0002
    with pytest.raises(MtuError, match="576 bytes or more, not 575"):
        switch.attach(mtu=575)
    with pytest.raises(ConfigError, match="queue of 2 frames or more, not 1"):
        switch.attach(queue=1)


def test_ports_may_be_in_different_threads() -> None:
    switch = MemorySwitch()
    total = 5000
    with closing(switch.attach(), switch.attach()) as (one, two):

        def echo() -> None:
            done = 0
            while done < total and two.wait(SECOND):
                frames = [pdu for _, pdu in collect(two, 1)]
                done += send(two, frames, one.address)

        thread = threading.Thread(target=echo)
        thread.start()
        sent = 0
        received: list[int] = []
        while len(received) < total:
            if sent < total and sent - len(received) < 500:
                part = [number.to_bytes(4, "big") for number in range(sent, min(sent + 50, total))]
                sent += send(one, part, two.address)
            got = collect(one, 1)
            assert got, f"lost: {one.statistics()} {two.statistics()}"
            received += [int.from_bytes(pdu, "big") for _, pdu in got]
        thread.join()
    assert received == list(range(total))
