"""The board's address map as data: what the firmware can reach, and how a transaction on the bus looks.

Both sides of the bus are written from this module, which imports nothing but the standard library. Integers
are big-endian. Registers are 32 bits wide; windows are plain memory that is read and written in blocks.
"""

import struct
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag

REGISTER_SIZE = 4
MAX_BLOCK = 64 * 1024  # bytes that one transaction moves at most, so that none holds the bus for long

# A transaction: bytes that follow the length, operation, three bytes of 0, address; then what the operation
# needs: WRITE the value (VALUE), READ_BLOCK the number of bytes (VALUE), WRITE_BLOCK the bytes themselves.
REQUEST = struct.Struct(">IB3sI")
RESERVED = bytes(3)
# Its answer: bytes that follow the length, status, three bytes of 0; then the value of a READ or the bytes of
# a READ_BLOCK where the status is OK.
RESPONSE = struct.Struct(">IBxxx")
VALUE = struct.Struct(">I")
LENGTH_SIZE = 4

MAX_PART = 64 * 1024  # bytes of an image that are taken at once

# A letter is a control message on its way through the mailbox: the peer's key, then the message's header with
# fragment 0 of the largest fragment size, then the message's bytes.
LETTER = struct.Struct(">Q")
LETTER_FRAGMENT_SIZE = 0xFFFF


class BusOperation(IntEnum):
    """What a transaction does."""

    READ = 1
    WRITE = 2
    READ_BLOCK = 3
    WRITE_BLOCK = 4


class BusStatus(IntEnum):
    """What became of a transaction."""

    OK = 0
    UNDEFINED = 1  # nothing is at this address
    DENIED = 2  # the register or window cannot be accessed like this
    OUT_OF_RANGE = 3  # the block is larger than MAX_BLOCK or runs over the end of its window


class Access(Enum):
    """What the firmware may do with a register or window."""

    READ_ONLY = "ro"
    READ_WRITE = "rw"
    WRITE_ONLY = "wo"
    WRITE_1_TO_CLEAR = "w1c"

    @property
    def readable(self) -> bool:
        """Whether reading is allowed."""
        return self is not Access.WRITE_ONLY

    @property
    def writable(self) -> bool:
        """Whether writing is allowed."""
        return self is not Access.READ_ONLY


class Interrupt(IntFlag):
    """Bits of IRQ_STATUS and IRQ_ENABLE."""

    MAILBOX_RX = 0x1  # a letter has arrived
    MAILBOX_TX = 0x2  # there is room for letters again


class ResetReason(IntEnum):
    """Why the firmware was started."""

    POWER_ON = 0
    EXITED = 1  # its predecessor ended by itself
    KILLED = 2  # its predecessor was ended by a signal, or by the board after it broke the bus protocol
    WATCHDOG = 3  # its predecessor was ended by the board, as it did not kick the watchdog in time


class CommandStatus(IntEnum):
    """What became of a command at one of the command ports; unless OK, the result is a sentence in UTF-8."""

    OK = 0
    UNKNOWN = 1  # the port has no such command
    BAD_ARGUMENT = 2  # the argument is not what the command takes
    REFUSED = 3  # the hardware will not do it
    NO_SPACE = 4  # flash is full
    FAILED = 5  # the hardware failed


class FlashCommand(IntEnum):
    """Commands of the flash controller. Argument and result are msgpack unless said otherwise."""

    LIST = 1  # nil → [[name, size], …] in order of name
    READ = 2  # [name, offset, length] → the bytes themselves, fewer at the end of the object
    WRITE = 3  # [name, bytes] → nil; replaces the object as a whole, or not at all
    DELETE = 4  # name → whether there was one
    FREE = 5  # nil → bytes


class UpdateCommand(IntEnum):
    """Commands of the boot ROM. Argument and result are msgpack."""

    STATUS = 1  # nil → map: what runs and why, and what is in the slots
    BEGIN = 2  # [size, SHA-256] → offset of the first part that is missing
    WRITE = 3  # [offset, bytes] → offset of the next part; at most MAX_PART bytes
    FINISH = 4  # nil → nil; the image is verified
    ACTIVATE = 5  # nil → nil; it is started at the next boot, on trial
    CONFIRM = 6  # nil → nil; the running image stays
    ROLL_BACK = 7  # nil → nil; the other slot's image is started at the next boot


class AttestCommand(IntEnum):
    """Commands of the attestation port."""

    QUOTE = 1  # the nonce itself, 32 bytes → [quote, signature, public key, history of boots], in msgpack
    LOG = 2  # [events to pass over] → [number of the log, [event, …]], in msgpack; at most MAX_PART bytes of events


class ServiceCommand(IntEnum):
    """Commands of the hardware services. Argument and result are msgpack unless said otherwise."""

    FACTS = 1  # nil → map: what the device is
    COUNTERS = 2  # nil → map of name to count
    PIPELINES = 3  # nil → list of descriptions
    LOAD_PIPELINE = 4  # the package itself → description
    UNLOAD_PIPELINE = 5  # name → whether there was one
    CONSOLE = 6  # [after, limit] → list of [sequence, ns since power-on, text]


class KeyCommand(IntEnum):
    """Commands of the hardware that keeps the keys of sealed frames. Argument and result are msgpack.

    A certificate is named by its number, in hexadecimal.
    """

    GRANT = 1  # [key, peer, material, the certificate's grant, certificate, ms] → nil
    LIFETIME = 2  # [key, peer, certificate] → ms that the key is still in force for them
    HOLDERS = 3  # nil → list of the certificates that have keys
    DROP = 4  # [certificate] → nil; its keys are gone


@dataclass(frozen=True, slots=True)
class Register:
    """One 32-bit register."""

    name: str
    address: int
    access: Access
    meaning: str
    reset: int = 0

    @property
    def size(self) -> int:
        """Bytes of address space."""
        return REGISTER_SIZE


@dataclass(frozen=True, slots=True)
class Window:
    """A range of memory that is accessed in blocks."""

    name: str
    address: int
    size: int
    access: Access
    meaning: str


@dataclass(frozen=True)
class RegisterMap:
    """Everything on the bus.

    Raises:
        ValueError: Two overlap or share a name, or one is misaligned or leaves the 32-bit address space.
    """

    registers: tuple[Register, ...]
    windows: tuple[Window, ...] = ()

    def __post_init__(self) -> None:
        end, owner = 0, "the start of the address space"
        names: set[str] = set()
        parts: list[Register | Window] = [*self.registers, *self.windows]
        for part in sorted(parts, key=lambda part: part.address):
            if part.address < end:
                raise ValueError(f"{part.name} at {part.address:#010x} overlaps {owner}")
            if part.address % REGISTER_SIZE or part.size < 1 or part.address + part.size > 1 << 32:
                raise ValueError(f"{part.name} cannot be at {part.address:#010x}")
            if part.name in names:
                raise ValueError(f"there are two parts named {part.name}")
            end, owner = part.address + part.size, part.name
            names.add(part.name)


_RO, _RW, _WO = Access.READ_ONLY, Access.READ_WRITE, Access.WRITE_ONLY
_MIB = 1024 * 1024

BOARD_ID = Register("BOARD_ID", 0x0000, _RO, "Always 0x4E415055, ASCII NAPU.", 0x4E41_5055)
REVISION = Register("REVISION", 0x0004, _RO, "Version of this address map.", 2)
EPOCH = Register("EPOCH", 0x0008, _RO, "Boots of the firmware over the board's life, modulo 65536.")
RESETS = Register("RESETS", 0x000C, _RO, "Restarts of the firmware since power-on.")
RESET_REASON = Register("RESET_REASON", 0x0010, _RO, "Why this boot happened: a ResetReason.")
READY = Register("READY", 0x0014, _RW, "1 once the firmware answers its mailbox.")
UPTIME = Register("UPTIME", 0x0020, _RO, "s since power-on.")
RESETS_EXITED = Register("RESETS_EXITED", 0x0024, _RO, "Restarts since power-on of reason EXITED.")
RESETS_KILLED = Register("RESETS_KILLED", 0x0028, _RO, "Restarts since power-on of reason KILLED.")
RESETS_WATCHDOG = Register("RESETS_WATCHDOG", 0x002C, _RO, "Restarts since power-on of reason WATCHDOG.")

IRQ_STATUS = Register("IRQ_STATUS", 0x0100, Access.WRITE_1_TO_CLEAR, "Pending Interrupt bits.")
IRQ_ENABLE = Register("IRQ_ENABLE", 0x0104, _RW, "Interrupt bits that signal the interrupt line.")

MAILBOX_RX_LENGTH = Register("MAILBOX_RX_LENGTH", 0x0200, _RO, "Bytes of the oldest letter; 0: there is none.")
MAILBOX_RX_POP = Register("MAILBOX_RX_POP", 0x0204, _WO, "Any write takes the oldest letter away.")
MAILBOX_TX_SEND = Register("MAILBOX_TX_SEND", 0x0208, _WO, "Doorbell: send so many bytes of MAILBOX_TX.")
MAILBOX_TX_STATUS = Register("MAILBOX_TX_STATUS", 0x020C, _RO, "What became of the last: a SendStatus.")

FLASH_ARGUMENT = Register("FLASH_ARGUMENT", 0x0300, _RW, "Bytes of argument in FLASH_DATA.")
FLASH_COMMAND = Register("FLASH_COMMAND", 0x0304, _WO, "Doorbell: a FlashCommand, done when answered.")
FLASH_STATUS = Register("FLASH_STATUS", 0x0308, _RO, "What became of it: a CommandStatus.")
FLASH_RESULT = Register("FLASH_RESULT", 0x030C, _RO, "Bytes of result in FLASH_DATA.")

SERVICE_ARGUMENT = Register("SERVICE_ARGUMENT", 0x0400, _RW, "Bytes of argument in SERVICE_DATA.")
SERVICE_COMMAND = Register("SERVICE_COMMAND", 0x0404, _WO, "Doorbell: a ServiceCommand, done when answered.")
SERVICE_STATUS = Register("SERVICE_STATUS", 0x0408, _RO, "What became of it: a CommandStatus.")
SERVICE_RESULT = Register("SERVICE_RESULT", 0x040C, _RO, "Bytes of result in SERVICE_DATA.")

WATCHDOG_PERIOD = Register("WATCHDOG_PERIOD", 0x0500, _RW, "ms between kicks before a reset; 0: off. Kicks as well.")
WATCHDOG_KICK = Register("WATCHDOG_KICK", 0x0504, _WO, "Any write starts the period anew.")

TEMPERATURE = Register("TEMPERATURE", 0x0600, _RO, "Of the board, in m°C.")
POWER = Register("POWER", 0x0604, _RO, "Of the board, in mW, averaged since it was read before.")
THROTTLE = Register(
    "THROTTLE", 0x0608, _RW, "Rate of the DLA in percent, 1 to 100; others are taken as the nearest.", 100
)
TEMPERATURE_LIMIT = Register("TEMPERATURE_LIMIT", 0x060C, _RO, "m°C from which the firmware is to throttle.")
TEMPERATURE_RESUME = Register("TEMPERATURE_RESUME", 0x0610, _RO, "m°C down to which it is to go on throttling.")
THROTTLED_RATE = Register("THROTTLED_RATE", 0x0614, _RO, "What THROTTLE is to be meanwhile.")

UPDATE_ARGUMENT = Register("UPDATE_ARGUMENT", 0x0700, _RW, "Bytes of argument in UPDATE_DATA.")
UPDATE_COMMAND = Register("UPDATE_COMMAND", 0x0704, _WO, "Doorbell: an UpdateCommand, done when answered.")
UPDATE_STATUS = Register("UPDATE_STATUS", 0x0708, _RO, "What became of it: a CommandStatus.")
UPDATE_RESULT = Register("UPDATE_RESULT", 0x070C, _RO, "Bytes of result in UPDATE_DATA.")
TRIAL = Register("TRIAL", 0x0710, _RO, "ms that the running image has left to confirm; 0: it is not on trial.")

ATTEST_ARGUMENT = Register("ATTEST_ARGUMENT", 0x0900, _RW, "Bytes of argument in ATTEST_DATA.")
ATTEST_COMMAND = Register("ATTEST_COMMAND", 0x0904, _WO, "Doorbell: an AttestCommand, done when answered.")
ATTEST_STATUS = Register("ATTEST_STATUS", 0x0908, _RO, "What became of it: a CommandStatus.")
ATTEST_RESULT = Register("ATTEST_RESULT", 0x090C, _RO, "Bytes of result in ATTEST_DATA.")

KEYS_ARGUMENT = Register("KEYS_ARGUMENT", 0x0A00, _RW, "Bytes of argument in KEYS_DATA.")
KEYS_COMMAND = Register("KEYS_COMMAND", 0x0A04, _WO, "Doorbell: a KeyCommand, done when answered.")
KEYS_STATUS = Register("KEYS_STATUS", 0x0A08, _RO, "What became of it: a CommandStatus.")
KEYS_RESULT = Register("KEYS_RESULT", 0x0A0C, _RO, "Bytes of result in KEYS_DATA.")

# A message has at most 16 MiB; the rest is room for the header and the names around it.
WINDOW_SIZE = 17 * _MIB
MAILBOX_RX = Window("MAILBOX_RX", 0x1000_0000, WINDOW_SIZE, _RO, "The oldest letter.")
MAILBOX_TX = Window("MAILBOX_TX", 0x2000_0000, WINDOW_SIZE, _RW, "The letter to send.")
FLASH_DATA = Window("FLASH_DATA", 0x3000_0000, WINDOW_SIZE, _RW, "Argument, then result of a command.")
SERVICE_DATA = Window("SERVICE_DATA", 0x4000_0000, WINDOW_SIZE, _RW, "Argument, then result of a command.")
UPDATE_DATA = Window("UPDATE_DATA", 0x5000_0000, 2 * MAX_PART, _RW, "Argument, then result of a command.")
ATTEST_DATA = Window("ATTEST_DATA", 0x7000_0000, 2 * MAX_PART, _RW, "Argument, then result of a command.")
KEYS_DATA = Window("KEYS_DATA", 0x8000_0000, 64 * 1024, _RW, "Argument, then result of a command.")


class SendStatus(IntEnum):
    """What became of a letter that the firmware sent."""

    SENT = 0
    FULL = 1  # no room; MAILBOX_TX is raised when there is
    REFUSED = 2  # not a reply that firmware may give, or not a message


MAP = RegisterMap(
    (
        BOARD_ID, REVISION, EPOCH, RESETS, RESET_REASON, READY,
        UPTIME, RESETS_EXITED, RESETS_KILLED, RESETS_WATCHDOG,
        IRQ_STATUS, IRQ_ENABLE,
        MAILBOX_RX_LENGTH, MAILBOX_RX_POP, MAILBOX_TX_SEND, MAILBOX_TX_STATUS,
        FLASH_ARGUMENT, FLASH_COMMAND, FLASH_STATUS, FLASH_RESULT,
        SERVICE_ARGUMENT, SERVICE_COMMAND, SERVICE_STATUS, SERVICE_RESULT,
        WATCHDOG_PERIOD, WATCHDOG_KICK,
        TEMPERATURE, POWER, THROTTLE, TEMPERATURE_LIMIT, TEMPERATURE_RESUME, THROTTLED_RATE,
        UPDATE_ARGUMENT, UPDATE_COMMAND, UPDATE_STATUS, UPDATE_RESULT, TRIAL,
        ATTEST_ARGUMENT, ATTEST_COMMAND, ATTEST_STATUS, ATTEST_RESULT,
        KEYS_ARGUMENT, KEYS_COMMAND, KEYS_STATUS, KEYS_RESULT,
    ),
    (MAILBOX_RX, MAILBOX_TX, FLASH_DATA, SERVICE_DATA, UPDATE_DATA, ATTEST_DATA, KEYS_DATA),
)  # fmt: skip
