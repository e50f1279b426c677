"""Every field of a NIP PDU, once, as data.

The struct codec, the numpy dtypes, the scapy layer, the dissector and the tables in ``docs/protocol.md`` are all
derived from the constants in this module; nothing else in the project states an offset or a width.
"""

from dataclasses import dataclass
from enum import STRICT, IntEnum, IntFlag
from functools import cached_property

VERSION = 1
ETHERTYPE = 0x88B5  # IEEE 802 local experimental EtherType 1
UDP_PORT = 0x88B5  # 34997: the same number, so that one is enough to remember

MAX_MESSAGE = 16 * 1024 * 1024  # bytes of one message, extensions, trailer and CRC included
MAX_PACKAGE = 15 * 1024 * 1024  # bytes of a pipeline package; leaves room for the control message around it
MAX_SESSION_WINDOW = 1024  # ids of ONCE requests that one session can have unsettled
MAX_ARRIVED_BITS = 1024  # fragments that the bitmap of a GRANT or RESEND can speak of
MAX_HANDSHAKE = 16 * 1024  # bytes of TLS records that a requester may send before it is authenticated
MAX_TENANT = 64  # bytes of UTF-8 in a tenant's name
FIRST_FRAGMENTS = 32  # fragments of a message that are sent before its receiver has said how many it takes
MAX_DETAIL = 512  # bytes of UTF-8 in the body of a reply whose status is not OK
MIN_MTU = 576  # bytes of PDU that every link must carry; IPv4's own minimum
MAX_FRAGMENT_SIZE = 0xFFFF  # bytes
CRC_SIZE = 4
SEAL_TAG_SIZE = 16
SEAL_WINDOW = 4096  # sequences that a receiver of sealed frames tells apart; what is behind them counts as replayed
SEAL_FRAMES = 1 << 31  # sequences that one key may seal in one direction; far below 2^32, where AES-GCM's bounds begin


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a fixed layout: big-endian, unsigned, naturally aligned.

    Attributes:
        name: The field's name in every product of the schema.
        width: Bytes: 1, 2, 4 or 8.
        meaning: One sentence for the tables of the documentation.
        count: Number of elements; more than one makes it an array.
    """

    name: str
    width: int
    meaning: str
    count: int = 1

    @property
    def size(self) -> int:
        """Bytes that the field occupies."""
        return self.width * self.count


@dataclass(frozen=True)
class Layout:
    """A fixed sequence of fields.

    Raises:
        ValueError: A field is not naturally aligned, has an impossible width, or repeats a name.
    """

    name: str
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for field, offset in self.placed():
            if field.width not in (1, 2, 4, 8) or offset % field.width or field.name in seen:
                raise ValueError(f"layout {self.name}: field {field.name} at {offset} is misplaced")
            seen.add(field.name)

    def placed(self) -> list[tuple[Field, int]]:
        """Return every field with its byte offset, in order."""
        placed, offset = [], 0
        for field in self.fields:
            placed.append((field, offset))
            offset += field.size
        return placed

    @cached_property
    def size(self) -> int:
        """Bytes of the whole layout."""
        return sum(field.size for field in self.fields)

    @property
    def struct_format(self) -> str:
        """The layout as a format for :mod:`struct`."""
        codes = {1: "B", 2: "H", 4: "I", 8: "Q"}
        return ">" + "".join(
            (str(field.count) if field.count > 1 else "") + codes[field.width] for field in self.fields
        )


_COMMON = (
    Field("version", 1, "Version of this protocol: 1."),
    Field("opcode", 1, "What the message is; bit 7 is set in replies."),
    Field("flags", 2, "Which optional parts the message has."),
    Field("session", 4, "Session that the message belongs to; 0 is none."),
    Field("request", 8, "Chosen by the requester, unique within its session; a reply repeats it."),
    Field("length", 4, "Bytes of the whole message: extensions, body, trailer and CRC."),
    Field("pipeline", 2, "Handle of the pipeline that an INFER names and a RESULT comes from; else 0."),
    Field("priority", 1, "0 (lowest) to 255; a reply repeats it."),
    Field("credits", 1, "In replies: requests the session may have outstanding. In requests: 0."),
    Field("fragment", 2, "Index of this fragment, from 0."),
    Field("fragment_size", 2, "Bytes of the message in every fragment but the last; at least 1."),
)
REQUEST_HEADER = Layout(
    "request header",
    (*_COMMON, Field("deadline", 4, "µs after arrival at which the answer is worthless; 0 is never.")),
)
REPLY_HEADER = Layout(
    "reply header",
    (
        *_COMMON,
        Field("status", 2, "What became of the request; 0 is OK."),
        Field("retry_after", 2, "With BUSY: when to try again, in units of 100 µs; else 0."),
    ),
)
HEADER_SIZE = REQUEST_HEADER.size
RETRY_AFTER_UNIT_US = 100

STAGES = ("rx", "queue", "pre", "dla", "post", "tx")
TRAILER = Layout(
    "trailer",
    (
        *(Field(f"{stage}_ns", 4, f"Measured ns in stage {stage}.") for stage in STAGES),
        *(
            Field(f"modelled_{stage}_ns", 4, f"ns that the profile's hardware would take in stage {stage}.")
            for stage in STAGES
        ),
        Field("energy_nj", 4, "Modelled energy of this inference in nJ."),
        Field("batch_size", 2, "Requests that shared the DLA invocation."),
        Field("firmware_epoch", 2, "Boots of the firmware, modulo 65536."),
        Field("model_digest", 8, "First 8 bytes of the SHA-256 of the model file."),
    ),
)

EXTENSION = Layout(
    "extension",
    (Field("type", 2, "What the value is."), Field("size", 2, "Bytes of value, before padding to 4.")),
)
EXTENSION_BLOCK = Layout(
    "extension block",
    (Field("block_size", 4, "Bytes of the block, itself included; a multiple of 4, at most 1024."),),
)
MAX_EXTENSION_BLOCK = 1024
TRACE_CONTEXT = 1  # type of the extension that says which trace a request belongs to
REFUSED_HEADER = 2  # type of the extension in which a refusal repeats the header that it is about
TRACE_CONTEXT_LAYOUT = Layout(
    "trace context",
    (
        Field("trace", 1, "Id of the trace, not all zeros.", 16),
        Field("span", 1, "Id of the span that the request is a child of, not all zeros.", 8),
        Field("flags", 1, "Bit 0: the trace is recorded. The others are 0."),
    ),
)

ARRIVED = Layout(
    "arrived",
    (
        Field("opcode", 1, "Opcode of the message whose fragments these are."),
        Field("reserved", 1, "0; ignored."),
        Field("window", 2, "Fragments from `base` on that may be under way; at least 1."),
        Field("base", 4, "Every fragment before this one has arrived."),
    ),
)

SEAL = Layout(
    "seal",
    (
        Field("key", 8, "Number of the key that was granted; 1 to 2^63 - 1."),
        Field("sequence", 8, "Counts the frames of this sender under this key, from 1; at most 2^31."),
    ),
)
SEAL_OVERHEAD = SEAL.size + SEAL_TAG_SIZE  # bytes by which a sealed frame is longer


class Opcode(IntEnum):
    """What a message is: a request, its reply (the same number with bit 7 set), or a notice, which has no reply."""

    DISCOVER = 0x01
    OPEN = 0x02
    CLOSE = 0x03
    CONTROL = 0x04
    INFER = 0x10
    CANCEL = 0x20
    SETTLE = 0x21
    RESEND = 0x22
    ANNOUNCE = 0x81
    OPENED = 0x82
    CLOSED = 0x83
    CONTROLLED = 0x84
    RESULT = 0x90
    WORKING = 0xA0
    UNKNOWN = 0xA1
    GRANT = 0xA2


REPLY_BIT = 0x80
NOTICES = range(0x20, 0x40)  # opcodes of notices, without the reply bit
OPCODE_MEANING = {
    Opcode.DISCOVER: "Who is there? Broadcast or unicast.",
    Opcode.OPEN: "Open a session.",
    Opcode.CLOSE: "End a session.",
    Opcode.CONTROL: "An operation of the control plane.",
    Opcode.INFER: "Run a pipeline on the body.",
    Opcode.CANCEL: "The answer to this request is not wanted any more.",
    Opcode.SETTLE: "Answers to ONCE requests up to this id, and those in a bitmap, need not be kept any more.",
    Opcode.RESEND: "What has arrived of the answer to this request; send the rest.",
    Opcode.ANNOUNCE: "Answer to DISCOVER; with request 0, a beacon at boot.",
    Opcode.OPENED: "Answer to OPEN.",
    Opcode.CLOSED: "Answer to CLOSE.",
    Opcode.CONTROLLED: "Answer to CONTROL.",
    Opcode.RESULT: "Answer to INFER.",
    Opcode.WORKING: "This request is whole and will be answered; ask again after retry_after at the earliest.",
    Opcode.UNKNOWN: "Nothing is known of this request any more; send it again from its first fragment.",
    Opcode.GRANT: "What has arrived of this request; send the rest, as much as the window allows.",
}


def is_notice(opcode: int) -> bool:
    """Return whether an opcode, known or not, is that of a notice."""
    return opcode & ~REPLY_BIT in NOTICES


class Flag(IntFlag, boundary=STRICT):
    """Which optional parts a message has."""

    CRC = 0x0001
    TRAILER = 0x0002
    EXTENSION = 0x0004
    ONCE = 0x0008
    SEALED = 0x0010


# Of messages; SEALED is a frame's, and gone when it has been opened.
KNOWN_FLAGS = int(Flag.CRC | Flag.TRAILER | Flag.EXTENSION | Flag.ONCE)
FLAG_MEANING = {
    Flag.CRC: "The message ends in a CRC-32C; the reply shall too.",
    Flag.TRAILER: "Request: the reply shall have a trailer. Reply: it has one.",
    Flag.EXTENSION: "The message begins with an extension block.",
    Flag.ONCE: "INFER: executed at most once, and its answer kept. RESULT: it answers such a request.",
    Flag.SEALED: "Of a frame: a seal follows the header, and the fragment is encrypted (section 15).",
}


class Status(IntEnum):
    """What became of a request."""

    OK = 0
    BUSY = 16
    DEADLINE_EXCEEDED = 17
    UNAVAILABLE = 18
    INTERNAL = 19
    CANCELLED = 20
    MALFORMED = 32
    UNKNOWN_OPCODE = 33
    UNSUPPORTED_FLAG = 34
    BAD_CRC = 35
    TOO_LARGE = 36
    FRAGMENT_CONFLICT = 37
    REASSEMBLY_TIMEOUT = 38
    UNKNOWN_SESSION = 48
    UNKNOWN_PIPELINE = 49
    WRONG_SIZE = 50
    UNDECODABLE = 51
    UNKNOWN_OPERATION = 64
    BAD_ARGUMENT = 65
    BAD_PIPELINE = 66
    NO_SPACE = 67
    NOT_AUTHENTICATED = 80
    NOT_PERMITTED = 81
    NOT_SEALED = 82
    UNKNOWN_KEY = 83


STATUS_MEANING = {
    Status.OK: "The body is the answer.",
    Status.BUSY: "No room now; try again after retry_after.",
    Status.DEADLINE_EXCEEDED: "The deadline passed before the work was done, so it was not.",
    Status.UNAVAILABLE: "The part of the appliance that answers this is not running; try again.",
    Status.INTERNAL: "The appliance failed; its log says why.",
    Status.CANCELLED: "The requester cancelled it before it was done.",
    Status.MALFORMED: "The message contradicts itself or its opcode.",
    Status.UNKNOWN_OPCODE: "The opcode is not one that this appliance serves.",
    Status.UNSUPPORTED_FLAG: "A flag is set that this appliance does not know.",
    Status.BAD_CRC: "The CRC-32C does not match the message.",
    Status.TOO_LARGE: "The message is longer than this appliance takes.",
    Status.FRAGMENT_CONFLICT: "Fragments of one request contradict each other.",
    Status.REASSEMBLY_TIMEOUT: "The missing fragments did not arrive in time.",
    Status.UNKNOWN_SESSION: "The session is not open; open one.",
    Status.UNKNOWN_PIPELINE: "No pipeline has this handle.",
    Status.WRONG_SIZE: "The body has another size than the pipeline's input.",
    Status.UNDECODABLE: "The body is not media of a kind and size that the pipeline takes.",
    Status.UNKNOWN_OPERATION: "The control operation is not one that this firmware serves.",
    Status.BAD_ARGUMENT: "An argument of the control operation is missing or wrong.",
    Status.BAD_PIPELINE: "The pipeline package cannot be run on this appliance.",
    Status.NO_SPACE: "Flash or memory is full; remove something first.",
    Status.NOT_AUTHENTICATED: "Nobody has proved who asks: there is no certificate, or it does not count.",
    Status.NOT_PERMITTED: "Who asks is known, and has not the role that this takes, or not this pipeline.",
    Status.NOT_SEALED: "The pipeline takes sealed frames alone, and this came in the clear.",
    Status.UNKNOWN_KEY: "The seal's key is not known here; a hint that nobody vouches for.",
}


class DropReason(IntEnum):
    """Why a frame was not taken further. Every one is a counter; 0 is a frame that was."""

    ACCEPTED = 0
    TRUNCATED = 1
    TRAILING_BYTES = 2
    BAD_VERSION = 3
    BAD_FRAGMENT = 4
    NOT_A_REQUEST = 5
    FRAGMENT_DUPLICATE = 6
    REASSEMBLY_FULL = 7
    DISCOVERY_RATE = 8
    UNANSWERABLE = 9
    MAILBOX_FULL = 10
    DUPLICATE = 11
    OUTDATED = 12
    NOT_KNOWN = 13
    OVER_CREDIT = 14
    BAD_SEAL = 15
    REPLAYED = 16
    UNKNOWN_KEY = 17
    OVER_RATE = 18


DROP_MEANING = {
    DropReason.ACCEPTED: "Taken further; every such request is answered.",
    DropReason.TRUNCATED: "Shorter than a header, or than the fragment that the header announces.",
    DropReason.TRAILING_BYTES: "Longer than its fragment, and not by Ethernet's padding.",
    DropReason.BAD_VERSION: "Another version of the protocol.",
    DropReason.BAD_FRAGMENT: "Fragment index or size impossible for the message's length.",
    DropReason.NOT_A_REQUEST: "A reply, sent to one who only answers.",
    DropReason.FRAGMENT_DUPLICATE: "This fragment is there already.",
    DropReason.REASSEMBLY_FULL: "No memory left to reassemble another message.",
    DropReason.DISCOVERY_RATE: "More discovery queries than are answered in a second.",
    DropReason.UNANSWERABLE: "The frame's source is no one's address, so nobody could be answered.",
    DropReason.MAILBOX_FULL: "A discovery query, and the firmware has not read those before it.",
    DropReason.DUPLICATE: "A copy of a ONCE request that is known: told so, or given the same answer again.",
    DropReason.OUTDATED: "A copy of a ONCE request that its session's window has left behind.",
    DropReason.NOT_KNOWN: "A notice about a session or request that is not known.",
    DropReason.OVER_CREDIT: "An INFER over its session's credits, and not among the first of those that came at once.",
    DropReason.BAD_SEAL: "A sealed frame that was not made with its key, as it is, in this direction.",
    DropReason.REPLAYED: "A sealed frame whose sequence has been, or is too far behind to tell.",
    DropReason.UNKNOWN_KEY: "A sealed frame whose key was not granted to its sender, or is not in force any more.",
    DropReason.OVER_RATE: "An INFER over its tenant's rate, and not among the first of those that came at once.",
}
