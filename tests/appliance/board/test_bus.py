"""The bus. Golden bytes are written by hand from the comments in the register map, not printed by a codec."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.board.bus import BusServer, TransactionDecoder, execute
from appliance.board.registers import RegisterFile
from appliance.board.regmap import MAP, MAX_BLOCK
from host_sdk.wire.errors import DeviceError

# length, operation, reserved, address, argument → length, status, reserved, data
GOLDEN = {
    "read BOARD_ID": ("00000008 01 000000 00000000", "00000008 00 000000 4e415055"),
    "write READY": ("0000000c 02 000000 00000014 00000001", "00000004 00 000000"),
    "read READY": ("00000008 01 000000 00000014", "00000008 00 000000 00000001"),
    "write to MAILBOX_TX": ("0000000b 04 000000 20000002 616263", "00000004 00 000000"),
    "read from MAILBOX_TX": ("0000000c 03 000000 20000000 00000006", "0000000a 00 000000 0000 616263 00"),
    "read of nothing": ("00000008 01 000000 00000018", "00000004 01 000000"),
    "write to BOARD_ID": ("0000000c 02 000000 00000000 00000001", "00000004 02 000000"),
    "write to MAILBOX_RX": ("00000009 04 000000 10000000 ff", "00000004 02 000000"),
    "read of too much": ("0000000c 03 000000 20000000 00010001", "00000004 03 000000"),
}
NO_TRANSACTIONS = {
    "too short": "00000007 01 000000 000000",
    "too long": "00010009 04 000000 20000000",
    "operation 0": "00000008 00 000000 00000000",
    "operation 5": "00000008 05 000000 00000000",
    "reserved": "00000008 01 000001 00000000",
    "read with data": "00000009 01 000000 00000000 00",
    "write of two bytes": "0000000a 02 000000 00000014 0001",
    "a line of text": b"GET / HTTP/1.1\r\n".hex(),
}


@pytest.fixture
def registers() -> RegisterFile:
    return RegisterFile(MAP, lambda _: None)


@pytest.fixture
def reported() -> list[str]:
    return []


@pytest.fixture
def served(registers: RegisterFile, reported: list[str]) -> Iterator[tuple[BusServer, socket.socket]]:
    server = BusServer(registers, reported.append)
    _, end = server.connect()
    with end:
        yield server, end
    server.disconnect()


def test_golden_transactions(registers: RegisterFile) -> None:
    decoder = TransactionDecoder()
    for name, (request, answer) in GOLDEN.items():
        (transaction,) = decoder.feed(bytes.fromhex(request))
        assert execute(registers, transaction) == bytes.fromhex(answer), name


def test_byte_by_byte_is_the_same() -> None:
    everything = b"".join(bytes.fromhex(request) for request, _ in GOLDEN.values())
    whole = list(TransactionDecoder().feed(everything))
    decoder = TransactionDecoder()
    pieces = [transaction for byte in everything for transaction in decoder.feed(bytes([byte]))]
    assert pieces == whole
    assert len(whole) == len(GOLDEN)


@pytest.mark.parametrize("name", NO_TRANSACTIONS)
def test_what_is_no_transaction_is_refused(name: str) -> None:
    with pytest.raises(DeviceError):
        list(TransactionDecoder().feed(bytes.fromhex(NO_TRANSACTIONS[name])))


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes_are_transactions_or_one_error(chunks: list[bytes]) -> None:
    registers = RegisterFile(MAP, lambda _: None)
    decoder = TransactionDecoder()
    try:
        for chunk in chunks:
            for transaction in decoder.feed(chunk):
                assert execute(registers, transaction)
    except DeviceError:
        return


@given(
    operation=st.integers(1, 4),
    address=st.one_of(
        st.integers(0, 0x0500), st.sampled_from([window.address for window in MAP.windows]), st.integers(0, 2**32 - 1)
    ),
    argument=st.integers(0, 2**32 - 1),
)
def test_every_well_formed_transaction_has_an_answer(operation: int, address: int, argument: int) -> None:
    registers = RegisterFile(MAP, lambda _: None)
    raw = (
        bytes([operation, 0, 0, 0])
        + address.to_bytes(4, "big")
        + (b"" if operation == 1 else argument.to_bytes(4, "big"))
    )
    (transaction,) = TransactionDecoder().feed(len(raw).to_bytes(4, "big") + raw)
    answer = execute(registers, transaction)
    assert int.from_bytes(answer[:4], "big") == len(answer) - 4
    assert answer[4] in (0, 1, 2, 3)


def test_the_server_answers_over_its_socket(served: tuple[BusServer, socket.socket]) -> None:
    server, end = served
    for request, answer in GOLDEN.values():
        end.sendall(bytes.fromhex(request))
        assert server.service()
        assert end.recv(100) == bytes.fromhex(answer)
    assert server.transactions == len(GOLDEN)


def test_the_largest_block_goes_through(served: tuple[BusServer, socket.socket]) -> None:
    server, end = served
    end.sendall(bytes.fromhex("0000000c 03 000000 20000000 00010000"))
    assert server.service()
    received = bytearray()
    while len(received) < 8 + MAX_BLOCK:
        received += end.recv(1 << 20)
    assert received == bytes.fromhex("00010004 00 000000") + bytes(MAX_BLOCK)


def test_garbage_is_counted_and_ends_the_connection(
    served: tuple[BusServer, socket.socket], reported: list[str]
) -> None:
    server, end = served
    end.sendall(b"\xff" * 64)
    assert not server.service()
    assert server.broken == 1
    assert "bus connection closed" in reported[0]


def test_who_does_not_take_answers_is_cut_off(served: tuple[BusServer, socket.socket]) -> None:
    server, end = served
    end.setblocking(False)
    request = bytes.fromhex("0000000c 03 000000 20000000 00010000")
    for _ in range(1000):
        end.send(request)
        if not server.service():
            break
    assert server.broken == 1


def test_a_closed_end_is_no_fault(served: tuple[BusServer, socket.socket]) -> None:
    server, end = served
    end.close()
    assert not server.service()
    assert server.broken == 0


def test_half_a_transaction_of_the_last_boot_is_forgotten(registers: RegisterFile) -> None:
    server = BusServer(registers, lambda _: None)
    _, end = server.connect()
    with end:
        end.sendall(bytes.fromhex("0000000c 02"))
        assert server.service()
    _, end = server.connect()
    with end:
        request, answer = GOLDEN["read BOARD_ID"]
        end.sendall(bytes.fromhex(request))
        assert server.service()
        assert end.recv(100) == bytes.fromhex(answer)
    server.disconnect()
