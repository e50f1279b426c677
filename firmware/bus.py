"""The firmware's end of the bus: transactions, one at a time."""

import socket

from appliance.board.regmap import LENGTH_SIZE, MAX_BLOCK, REQUEST, RESERVED, RESPONSE, VALUE, BusOperation, BusStatus
from host_sdk.wire.errors import ClosedError, DeviceError


class BusClient:
    """Reads and writes the board's registers and windows.

    Every method raises:
        ClosedError: The hardware has gone, or has closed the bus.
        DeviceError: The hardware refuses the access: a fault of the firmware's.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self, address: int) -> int:
        """Return the value of a register."""
        (value,) = VALUE.unpack(self._transact(BusOperation.READ, address, b""))
        return int(value)

    def write(self, address: int, value: int) -> None:
        """Write a register."""
        self._transact(BusOperation.WRITE, address, VALUE.pack(value))

    def read_block(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes of a window, in as many transactions as it takes."""
        return b"".join(
            self._transact(BusOperation.READ_BLOCK, address + begin, VALUE.pack(min(MAX_BLOCK, length - begin)))
            for begin in range(0, length, MAX_BLOCK)
        )

    def write_block(self, address: int, data: bytes) -> None:
        """Write bytes into a window, in as many transactions as it takes."""
        view = memoryview(data)
        for begin in range(0, len(data), MAX_BLOCK):
            self._transact(BusOperation.WRITE_BLOCK, address + begin, view[begin : begin + MAX_BLOCK])

    def _transact(self, operation: BusOperation, address: int, data: bytes | memoryview) -> bytes:
        length = REQUEST.size - LENGTH_SIZE + len(data)
        try:
            self._connection.sendall(REQUEST.pack(length, operation, RESERVED, address) + bytes(data))
            size, status = RESPONSE.unpack(self._receive(RESPONSE.size))
            answer = self._receive(size - (RESPONSE.size - LENGTH_SIZE))
        except OSError as error:
            raise ClosedError(f"the bus is closed: {error}") from None
        if status != BusStatus.OK:
            raise DeviceError(f"{operation.name} at {address:#010x}: bus fault {BusStatus(status).name}")
        return answer

    def _receive(self, size: int) -> bytes:
        if size == 0:
            return b""
        data = bytearray(size)
        view, have = memoryview(data), 0
        while have < size:
            count = self._connection.recv_into(view[have:])
            if not count:
                raise ClosedError("the hardware has closed the bus")
            have += count
        return bytes(data)
