"""The answers in a capture and those of its replay, put together and held against each other."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from host_sdk.capture.analysis import PAUSING
from host_sdk.capture.fields import Fields, header_of
from host_sdk.capture.replay import is_sound
from host_sdk.wire.errors import FrameError
from host_sdk.wire.message import Trailer, decode_message
from host_sdk.wire.schema import CRC_SIZE, HEADER_SIZE, STAGES, TRAILER, Flag, Opcode, Status, is_notice

# What an answer says of the moment in which it was made, and not of what was asked. With a virtual clock, nothing of it
# changes from one replay to the next; from a capture to its replay all of it may.
VOLATILE = frozenset(
    (
        *(f"{stage}_ns" for stage in STAGES),
        *("modelled_queue_ns", "modelled_dla_ns", "energy_nj", "batch_size", "firmware_epoch"),
        *("credits", "retry_after", "crc"),
    )
)
_HEADER_FIELDS = ("opcode", "status", "flags", "pipeline", "priority", "credits", "retry_after", "fragment_size")
_KEPT_FIELDS = [
    (offset, offset + field.size) for field, offset in TRAILER.placed() if field.name not in VOLATILE
]  # of a trailer
_STATUSES, _OPCODES = frozenset(map(int, Status)), frozenset(map(int, Opcode))
_SHOWN = 40  # bytes of a value that a difference shows
Key = tuple[str, int, int]  # peer, session, request


@dataclass(slots=True)
class Answer:
    """The last answer to one request, as far as it is there.

    Attributes:
        header: Of its first frame that came.
        parts: Fragment index to bytes.
        frames: Frames of the request's answers, copies among them.
    """

    header: Fields
    parts: dict[int, bytes] = field(default_factory=dict)
    frames: int = 0

    @property
    def whole(self) -> bool:
        """Whether all fragments are there."""
        return len(self.parts) == self.header.fragments

    @property
    def payload(self) -> bytes:
        """The message's bytes, of a whole answer."""
        return b"".join(self.parts[index] for index in range(self.header.fragments))

    def fields(self) -> dict[str, object]:
        """Return every field by name, and the body; those of an answer that cannot be read are its bytes."""
        header = self.header.header
        shown: dict[str, object] = {name: getattr(header, name) for name in _HEADER_FIELDS}
        try:
            message = decode_message(header, self.payload)
        except FrameError as error:
            return {**shown, "unreadable": str(error), "body": self.payload}
        shown["body"] = message.body
        if self.header.flags & Flag.CRC:
            shown["crc"] = self.payload[-4:]
        return {**shown, **(_trailer_fields(message.trailer) if message.trailer else {})}


def _trailer_fields(trailer: Trailer) -> dict[str, object]:
    measured = {f"{stage}_ns": ns for stage, ns in zip(STAGES, trailer.measured_ns, strict=True)}
    modelled = {f"modelled_{stage}_ns": ns for stage, ns in zip(STAGES, trailer.modelled_ns, strict=True)}
    rest = ("energy_nj", "batch_size", "firmware_epoch", "model_digest")
    return {**measured, **modelled, **{name: getattr(trailer, name) for name in rest}}


def gather_answers(replies: Iterable[tuple[str, bytes]]) -> dict[Key, Answer]:
    """Return the last answer to each INFER that has one, by peer, session and id.

    The others say when they were made, and nothing about what was asked. Those that were damaged on their way to the
    capture are passed over, as their requester did; one that says that the request can be sent again does not replace
    one that is final.
    """
    found: dict[Key, Answer] = {}
    for peer, pdu in replies:
        header = header_of(pdu)
        if header is None or header.opcode != Opcode.RESULT or not is_sound(header, pdu):
            continue
        key = (peer, header.session, header.request)
        answer = found.get(key)
        if answer and header.status in PAUSING and answer.header.status not in PAUSING:
            continue
        if answer is None or _shape(answer.header) != _shape(header):
            answer = found[key] = Answer(header, frames=answer.frames if answer else 0)
        answer.frames += 1
        answer.parts[header.fragment] = pdu[HEADER_SIZE : HEADER_SIZE + header.payload_size]
    return found


def tally(replies: Iterable[tuple[str, bytes]]) -> Counter[str]:
    """Count answers to INFERs by status, and notices by opcode, copies and those that are no final ones among them."""
    found: Counter[str] = Counter()
    for _, pdu in replies:
        header = header_of(pdu)
        if header is None or header.fragment != header.fragments - 1 or not is_sound(header, pdu):
            continue
        if header.opcode == Opcode.RESULT:
            found[Status(header.status).name if header.status in _STATUSES else f"status {header.status}"] += 1
        elif is_notice(header.opcode) and header.opcode in _OPCODES:
            found[Opcode(header.opcode).name] += 1
    return found


def _shape(header: Fields) -> tuple[int, ...]:
    return header.status, header.length, header.fragment_size, header.flags


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which an answer is another one now.

    Attributes:
        key: The request.
        field: Its name.
        then: What the capture has.
        now: What the replay has.
    """

    key: Key
    field: str
    then: str
    now: str

    def __str__(self) -> str:
        peer, session, request = self.key
        where = f"answer to {peer}, session {session:#010x}, request {request}"
        return f"{where}: {self.field} was {self.then}, is {self.now}"


@dataclass(slots=True)
class Comparison:
    """How the answers of a replay compare with those in the capture.

    Attributes:
        identical: Answers that are the same, byte for byte.
        alike: Answers that are the same but for volatile fields.
        different: Answers that differ in another field, or are whole on one side alone.
        missing: Answers that the replay does not have.
        extra: Answers that the capture does not have.
        differences: The first of the differences.
        fields: Answers that differ in each field, by its name.
    """

    identical: int = 0
    alike: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0
    differences: list[Difference] = field(default_factory=list)
    fields: Counter[str] = field(default_factory=Counter)

    @property
    def same(self) -> bool:
        """Whether everything that was answered then is answered now, and as it was."""
        return not self.different and not self.missing


def compare(then: dict[Key, Answer], now: dict[Key, Answer], most: int = 100) -> Comparison:
    """Hold the answers of a replay against those of a capture; at most ``most`` differences are told."""
    result = Comparison(extra=len(now.keys() - then.keys()))
    for key, old in then.items():
        new = now.get(key)
        if new is None:
            result.missing += 1
            found = [Difference(key, "answer", "there", "not there")]
        elif old.whole and new.whole and old.payload == new.payload and old.header == new.header:
            result.identical += 1
            continue
        elif not old.whole or _alike(old, new):  # the capture lost a part of the former: no more can be said of it
            result.alike += 1
            continue
        else:
            found = list(_differences(key, old, new))
            result.alike += not found
            result.different += bool(found)
        result.fields.update(difference.field for difference in found)
        result.differences += found[: max(0, most - len(result.differences))]
    return result


def _alike(old: Answer, new: Answer) -> bool:
    """Return whether two whole answers surely are the same but for volatile fields; else each has to be looked at."""
    one, two = old.header._replace(credits=0), new.header._replace(credits=0)
    if one != two or one.status or one.flags & (Flag.TRAILER | Flag.EXTENSION) != Flag.TRAILER or not new.whole:
        return False
    then, now, end = old.payload, new.payload, one.length - (CRC_SIZE if one.flags & Flag.CRC else 0)
    at = end - TRAILER.size
    return at >= 0 and all(then[begin:stop] == now[begin:stop] for begin, stop in _kept_parts(at))


def _kept_parts(at: int) -> list[tuple[int, int]]:
    """Return where an answer is not volatile: its body, and some fields of the trailer that begins at ``at``."""
    return [(0, at), *((at + begin, at + end) for begin, end in _KEPT_FIELDS)]


def _differences(key: Key, old: Answer, new: Answer) -> Iterator[Difference]:
    if not new.whole:
        yield Difference(key, "answer", "whole", f"{len(new.parts)} of {new.header.fragments} fragments")
        return
    before, after = old.fields(), new.fields()
    for name in dict.fromkeys((*before, *after)):
        if name not in VOLATILE and before.get(name) != after.get(name):
            yield Difference(key, name, _shown(name, before.get(name)), _shown(name, after.get(name)))


def _shown(name: str, value: object) -> str:
    if isinstance(value, bytes):
        more = "…" if len(value) > _SHOWN else ""
        return f"{len(value)} bytes {value[:_SHOWN].hex()}{more}"
    if name == "status" and value in Status.__members__.values():
        return Status(int(str(value))).name
    return str(value)
