"""The bus: one firmware process reads and writes the board's registers and windows over a socket.

The other end is not trusted: whatever it sends, the hardware loses nothing but the connection.
"""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from appliance.board.registers import BusFaultError, RegisterFile
from appliance.board.regmap import (
    LENGTH_SIZE,
    MAX_BLOCK,
    REQUEST,
    RESERVED,
    RESPONSE,
    VALUE,
    BusOperation,
    BusStatus,
)
from host_sdk.wire.errors import DeviceError

_SMALLEST = REQUEST.size - LENGTH_SIZE
_LARGEST = _SMALLEST + MAX_BLOCK
_CHUNK = LENGTH_SIZE + _LARGEST
_ARGUMENT_SIZE = {BusOperation.READ: 0, BusOperation.WRITE: VALUE.size, BusOperation.READ_BLOCK: VALUE.size}


@dataclass(frozen=True, slots=True)
class Transaction:
    """One request of the firmware.

    Attributes:
        operation: What to do.
        address: Where.
        data: The value, number of bytes, or bytes that the operation takes.
    """

    operation: BusOperation
    address: int
    data: bytes


class TransactionDecoder:
    """Cuts what arrives on the bus into transactions; holds at most one incomplete one."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Transaction]:
        """Take bytes as they arrive and yield the transactions that they complete.

        Raises:
            DeviceError: They are no transaction; nothing that follows can be made sense of.
        """
        self._buffer += data
        while len(self._buffer) >= LENGTH_SIZE:
            (length,) = VALUE.unpack_from(self._buffer)
            if not _SMALLEST <= length <= _LARGEST:
                raise DeviceError(f"bus transaction of {length} bytes; there are {_SMALLEST} to {_LARGEST}")
            if len(self._buffer) < LENGTH_SIZE + length:
                return
            raw = bytes(self._buffer[: LENGTH_SIZE + length])
            del self._buffer[: LENGTH_SIZE + length]
            yield _decode(raw)


def _decode(raw: bytes) -> Transaction:
    _, code, reserved, address = REQUEST.unpack_from(raw)
    data = raw[REQUEST.size :]
    try:
        operation = BusOperation(code)
    except ValueError:
        raise DeviceError(f"bus transaction of unknown operation {code}") from None
    if reserved != RESERVED or len(data) != _ARGUMENT_SIZE.get(operation, len(data)):
        raise DeviceError(f"{operation.name} transaction that contradicts itself")
    return Transaction(operation, address, data)


def execute(registers: RegisterFile, transaction: Transaction) -> bytes:
    """Carry a transaction out and return the encoded answer."""
    data = b""
    status = BusStatus.OK
    try:
        match transaction.operation:
            case BusOperation.READ:
                data = VALUE.pack(registers.read(transaction.address))
            case BusOperation.WRITE:
                registers.write(transaction.address, *VALUE.unpack(transaction.data))
            case BusOperation.READ_BLOCK:
                data = registers.read_block(transaction.address, *VALUE.unpack(transaction.data))
            case BusOperation.WRITE_BLOCK:
                registers.write_block(transaction.address, transaction.data)
    except BusFaultError as fault:
        status = fault.status
    return RESPONSE.pack(RESPONSE.size - LENGTH_SIZE + len(data), status) + data


class BusServer:
    """Serves the register file to one firmware process at a time, whenever its owner's poll says so.

    Args:
        registers: What there is to read and write.
        report: Told of every broken transaction, in a sentence.

    Attributes:
        transactions: Transactions served.
        broken: Connections closed because what came over them was no transaction, or answers were not taken.
    """

    def __init__(self, registers: RegisterFile, report: Callable[[str], None]) -> None:
        self.transactions = 0
        self.broken = 0
        self._registers = registers
        self._report = report
        self._socket: socket.socket | None = None
        self._decoder = TransactionDecoder()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Make a new connection; return the hardware's end, to poll on, and the firmware's, to hand over."""
        self.disconnect()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        # Room for the one answer that a well-behaved firmware has outstanding: sending never has to wait.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_BLOCK)
        self._socket, self._decoder = ours, TransactionDecoder()
        return ours, theirs

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        if self._socket:
            self._socket.close()
        self._socket = None

    def service(self) -> bool:
        """Answer what has arrived; return False when the connection is of no more use."""
        if self._socket is None:
            return False
        try:
            data = self._socket.recv(_CHUNK)
            for transaction in self._decoder.feed(data):
                answer = execute(self._registers, transaction)
                self.transactions += 1
                if self._socket.send(answer, socket.MSG_NOSIGNAL) != len(answer):
                    raise DeviceError("the firmware does not take the bus's answers")
        except BlockingIOError:
            return self._break("the firmware does not take the bus's answers")
        except OSError:
            return False
        except DeviceError as error:
            return self._break(str(error))
        return bool(data)

    def _break(self, reason: str) -> bool:
        self.broken += 1
        self._report(f"bus connection closed: {reason}")
        return False
