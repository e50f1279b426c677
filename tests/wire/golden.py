"""Golden frames: PDUs written by hand from the text of docs/protocol.md, and what they say.

Nothing here was printed by the codec. The same bytes, explained one by one, are in the document.
"""

import re
from dataclasses import dataclass, field

from host_sdk.wire.header import Header
from host_sdk.wire.message import Extension, Trailer
from host_sdk.wire.schema import Flag, Opcode, Status

SESSION = 0x9F3A0007
ETHERNET = "ffffffffffff 020000000001 88b5"  # destination, source, EtherType
PADDING = "00" * 10  # behind DISCOVER's 36 bytes, up to 46


@dataclass(frozen=True)
class Golden:
    """One message.

    Attributes:
        name: Heading of its block in the document.
        pdus: Its PDUs in hex, with comments.
        header: Header of its first PDU.
    """

    name: str
    pdus: tuple[str, ...]
    header: Header
    body: bytes = b""
    extensions: tuple[Extension, ...] = ()
    trailer: Trailer | None = None
    content: dict[str, object] = field(default_factory=dict)  # what the body is in msgpack

    @property
    def data(self) -> list[bytes]:
        """The PDUs as bytes."""
        return [bytes.fromhex(re.sub("#.*", "", pdu)) for pdu in self.pdus]


DISCOVER = Golden(
    "DISCOVER",
    (
        """
        01 01 0001  00000000  a1b2c3d4e5f60718  00000004  0000 00 00  0000 05bc  00000000
        fac53a11  # CRC
        """,
    ),
    Header(Opcode.DISCOVER, 0xA1B2C3D4E5F60718, Flag.CRC, length=4, fragment_size=1468),
)

OPEN = Golden(
    "OPEN",
    (
        """
        01 02 0000  00000000  0000000000000101  00000012  0000 00 00  0000 05bc  00000000
        81 ad 667261676d656e745f73697a65 cd05bc  # {"fragment_size": 1468}
        """,
    ),
    Header(Opcode.OPEN, 0x101, length=18, fragment_size=1468),
    b"\x81\xadfragment_size\xcd\x05\xbc",
    content={"fragment_size": 1468},
)

OPENED = Golden(
    "OPENED",
    (
        """
        01 82 0000  9f3a0007  0000000000000101  0000001b  0000 00 40  0000 05bc  0000 0000
        82 a7 63726564697473 40 ab 6d61785f6d657373616765 ce01000000  # {"credits": 64, "max_message": 16777216}
        """,
    ),
    Header(Opcode.OPENED, 0x101, session=SESSION, length=27, credits=64, fragment_size=1468),
    b"\x82\xa7credits\x40\xabmax_message\xce\x01\x00\x00\x00",
    content={"credits": 64, "max_message": 16 * 1024 * 1024},
)

INFER = Golden(
    "INFER in one fragment",
    (
        """
        01 10 0003  9f3a0007  0123456789abcdef  0000000c  0101 07 00  0000 05bc  0000c350
        00 01 02 7f 80 fe ff 10  # body: int8[8]
        85bad4ce  # CRC
        """,
    ),
    Header(
        Opcode.INFER,
        0x0123456789ABCDEF,
        Flag.CRC | Flag.TRAILER,
        session=SESSION,
        length=12,
        pipeline=0x0101,
        priority=7,
        fragment_size=1468,
        deadline=50_000,
    ),
    bytes([0, 1, 2, 127, 128, 254, 255, 16]),
)

INFER_FRAGMENTED = Golden(
    "INFER in two fragments",
    (
        """
        01 10 0001  9f3a0007  0123456789abcdf0  00000018  0101 00 00  0000 0010  00000000
        00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f  # body, its first 16 bytes
        """,
        """
        01 10 0001  9f3a0007  0123456789abcdf0  00000018  0101 00 00  0001 0010  00000000
        10 11 12 13  # body, the rest
        80e69ec7  # CRC
        """,
    ),
    Header(
        Opcode.INFER,
        0x0123456789ABCDF0,
        Flag.CRC,
        session=SESSION,
        length=24,
        pipeline=0x0101,
        fragment_size=16,
    ),
    bytes(range(20)),
)

RESULT = Golden(
    "RESULT with a trailer",
    (
        """
        01 90 0003  9f3a0007  0123456789abcdef  0000004a  0101 07 40  0000 05bc  0000 0000
        0300  0000403f  # body: class uint16[1], score float32[1], little-endian
        000005dc 00004e20 00013880 0001d4c0 00002328 00001388  # trailer: measured
        0000007b 00000fa0 000000fa 00001482 00000002 00000068  # modelled
        0000a8ca 0004 0002 3d10c6974ed1075c  # energy, batch size, epoch, model digest
        becb9bc8  # CRC
        """,
    ),
    Header(
        Opcode.RESULT,
        0x0123456789ABCDEF,
        Flag.CRC | Flag.TRAILER,
        session=SESSION,
        length=74,
        pipeline=0x0101,
        priority=7,
        credits=64,
        fragment_size=1468,
    ),
    b"\x03\x00\x00\x00\x40\x3f",
    trailer=Trailer(
        measured_ns=(1500, 20_000, 80_000, 120_000, 9000, 5000),
        modelled_ns=(123, 4000, 250, 5250, 2, 104),
        energy_nj=43_210,
        batch_size=4,
        firmware_epoch=2,
        model_digest=0x3D10C6974ED1075C,
    ),
)

BUSY = Golden(
    "RESULT that refuses with BUSY",
    (
        """
        01 90 0001  9f3a0007  0123456789abcdf0  00000004  0000 00 40  0000 05bc  0010 0019
        bc6bf9ac  # CRC
        """,
    ),
    Header(
        Opcode.RESULT,
        0x0123456789ABCDF0,
        Flag.CRC,
        session=SESSION,
        length=4,
        credits=64,
        fragment_size=1468,
        status=Status.BUSY,
        retry_after=25,
    ),
)

CONTROL = Golden(
    "CONTROL",
    (
        """
        01 04 0001  00000000  55aa55aa00ff00ff  0000001d  0000 00 00  0000 05bc  00000000
        83 a2 6f70 a4 6c6f6773 a5 6166746572 cd03e8 a5 6c696d6974 05  # {"op": "logs", "after": 1000, "limit": 5}
        621197b3  # CRC
        """,
    ),
    Header(Opcode.CONTROL, 0x55AA55AA00FF00FF, Flag.CRC, length=29, fragment_size=1468),
    b"\x83\xa2op\xa4logs\xa5after\xcd\x03\xe8\xa5limit\x05",
    content={"op": "logs", "after": 1000, "limit": 5},
)

EXTENDED = Golden(
    "INFER with an extension block",
    (
        """
        01 10 0004  9f3a0007  0123456789abcdf1  00000014  0101 00 00  0000 05bc  00000000
        00000010  ff01 0005  68656c6c6f 000000  # block of 16 bytes: extension 0xff01 of 5 bytes, three of padding
        0000803f  # body: float32[1], 1.0
        """,
    ),
    Header(
        Opcode.INFER,
        0x0123456789ABCDF1,
        Flag.EXTENSION,
        session=SESSION,
        length=20,
        pipeline=0x0101,
        fragment_size=1468,
    ),
    b"\x00\x00\x80\x3f",
    extensions=(Extension(0xFF01, b"hello"),),
)

CLOSE = Golden(
    "CLOSE, an empty message",
    ("01 03 0000  9f3a0007  0000000000000102  00000000  0000 00 00  0000 05bc  00000000",),
    Header(Opcode.CLOSE, 0x102, session=SESSION, length=0, fragment_size=1468),
)

GOLDEN = (DISCOVER, OPEN, OPENED, INFER, INFER_FRAGMENTED, RESULT, BUSY, CONTROL, EXTENDED, CLOSE)

# Made by tests/rig/aes_gcm_reference.py from the key material and the frame that the document states.
SEALED_INFER = bytes.fromhex(
    "01 10 0013  9f3a0007  0123456789abcdef  0000000c  0101 07 00  0000 05bc  0000c350"
    "1122334455667788 0000000000000001 20d8715023f4d8b50f27c69a 854a2778f72f05a10a40fd4fd747b58b"
)
