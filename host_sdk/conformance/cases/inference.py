"""Inference: handles, sizes, media, deadlines, and that one bad request costs no other its answer."""

from collections.abc import Callable

from host_sdk.conformance.case import NotApplicableError, Section
from host_sdk.conformance.cases.fragments import CLASSES
from host_sdk.conformance.frames import Frame, message
from host_sdk.conformance.patterns import Pattern, described
from host_sdk.conformance.rig import Rig
from host_sdk.wire.schema import Opcode, Status

SECTION = Section("inference")
case = SECTION.case
_PAUSE = 20_000_000


def unused_handle(rig: Rig) -> int:
    """Return a handle that no pipeline has."""
    rig.work  # noqa: B018 - not applicable without
    return next(handle for handle in range(0xFFFF, 0, -1) if handle not in rig.target.handles)


_HANDLES: dict[str, Callable[[Rig], int]] = {"0": lambda _: 0, "that no pipeline has": unused_handle}


@case("N-070", "an INFER for a handle {} is answered UNKNOWN_PIPELINE", _HANDLES)
def unknown_pipeline(rig: Rig, make: Callable[[Rig], int]) -> None:
    rig.refused(rig.infer(rig.open(), pipeline=make(rig)), Status.UNKNOWN_PIPELINE)


@case("N-070", "a {} INFER in fragments, for a handle that no pipeline has, is answered UNKNOWN_PIPELINE", CLASSES)
def unknown_pipeline_fragments(rig: Rig, once: bool) -> None:
    frame = rig.infer(rig.open(), once=once, pipeline=unused_handle(rig))
    rig.send(*rig.pieces(frame))
    rig.has_status(rig.expect(Pattern(opcode=Opcode.RESULT, request=frame.request)), Status.UNKNOWN_PIPELINE)


_SIZES: dict[str, Callable[[int], int]] = {
    "none at all": lambda _: 0,
    "one byte": lambda _: 1,
    "one too few": lambda size: size - 1,
    "one more": lambda size: size + 1,
}


@case("N-072", "a tensor of another size is answered WRONG_SIZE: {}", _SIZES)
def wrong_size(rig: Rig, size: Callable[[int], int]) -> None:
    _tensors(rig)
    rig.refused(rig.infer(rig.open(), payload=bytes(size(len(rig.work.body)))), Status.WRONG_SIZE)


@case("N-072", "a {} tensor in fragments, one byte too long, is answered WRONG_SIZE", CLASSES)
def wrong_size_fragments(rig: Rig, once: bool) -> None:
    _tensors(rig)
    frame = rig.infer(rig.open(), once=once, payload=rig.work.body + b"\0")
    rig.send(*rig.pieces(frame))
    rig.has_status(rig.answer(frame), Status.WRONG_SIZE)


def _tensors(rig: Rig) -> None:
    if rig.work.media:
        raise NotApplicableError("the pipeline takes media")


def _media(rig: Rig) -> None:
    if not rig.work.media:
        raise NotApplicableError("the pipeline takes a tensor; choose one of media with --pipeline")


@case("N-073", "media longer than the pipeline's max_bytes is answered TOO_LARGE")
def media_too_large(rig: Rig) -> None:
    _media(rig)
    pipeline = rig.work.pipeline
    if pipeline is None:
        raise NotApplicableError("nobody may ask how much the pipeline takes")
    body = rig.work.body + bytes(pipeline.max_bytes + 1 - len(rig.work.body))
    rig.refused(rig.infer(rig.open(), payload=body), Status.TOO_LARGE)


_DAMAGED = {"nothing": 0, "a GIF": 1, "a picture cut short": 2}


@case("N-074", "media that is none is answered UNDECODABLE: {}", _DAMAGED)
def undecodable(rig: Rig, kind: int) -> None:
    _media(rig)
    body = (b"", b"GIF89a" + bytes(50), rig.work.body[: len(rig.work.body) // 2])[kind]
    rig.refused(rig.infer(rig.open(), payload=body), Status.UNDECODABLE)


@case("N-075", "requests that fail among others change no other's answer")
def bad_among_good(rig: Rig) -> None:
    session = rig.open()
    count = min(8, session.credits)
    frames = [rig.infer(session, payload=b"x") if number % 2 else rig.infer(session) for number in range(count)]
    rig.send(*[pdu for frame in frames for pdu in message(frame, 1400)])
    for number, frame in enumerate(frames):
        reply = rig.answer(frame)
        if number % 2:
            rig.check(reply.status in (Status.WRONG_SIZE, Status.UNDECODABLE), "a refusal", described(reply))
        else:
            rig.right(reply)


@case("N-076", "the body of a RESULT is the pipeline's outputs, one behind the other")
def outputs(rig: Rig) -> None:
    reply = rig.has_status(rig.ask(rig.infer(rig.open())), Status.OK)
    if rig.work.pipeline is None:
        raise NotApplicableError("nobody may ask what the pipeline gives")
    size = sum(tensor.size for tensor in rig.work.pipeline.outputs)
    rig.check(len(reply.body) == size, f"{size} bytes of outputs", len(reply.body))


@case("N-076", "the same {} request in fragments gets the same answer as in one frame", CLASSES)
def same_in_fragments(rig: Rig, once: bool) -> None:
    session = rig.open()
    frame = rig.infer(session, once=once)
    rig.send(*rig.pieces(frame))
    rig.right(rig.answer(frame))
    rig.runs(session, once=once)


@case("N-077", "`pipeline` of the RESULT of a {} request is the handle that made it", CLASSES)
def result_handle(rig: Rig, once: bool) -> None:
    reply = rig.runs(rig.open(), once=once)
    rig.check(reply.pipeline == rig.work.handle, f"pipeline {rig.work.handle}", reply.pipeline)


@case(
    "N-078", "a {} request whose deadline passed before its last fragment came is answered DEADLINE_EXCEEDED", CLASSES
)
def deadline(rig: Rig, once: bool) -> None:
    frame = rig.infer(rig.open(), once=once, deadline=1000)
    pieces = rig.pieces(frame, 2)
    rig.send(pieces[0])
    rig.fence()
    rig.port.settle(_PAUSE)
    rig.send(*pieces[1:])
    rig.has_status(rig.answer(frame), Status.DEADLINE_EXCEEDED)


@case("N-078", "a {} request with a deadline of an hour is answered OK", CLASSES)
def far_deadline(rig: Rig, once: bool) -> None:
    rig.runs(rig.open(), once=once, deadline=3_600_000_000)


@case("N-078", "deadline 0 is never: a {} request whose fragments come slowly is answered OK", CLASSES)
def no_deadline(rig: Rig, once: bool) -> None:
    frame = rig.infer(rig.open(), once=once)
    pieces = rig.pieces(frame, 2)
    rig.send(pieces[0])
    rig.port.settle(_PAUSE)
    rig.send(*pieces[1:])
    rig.right(rig.answer(frame))


@case("N-105", "an INFER and its CANCEL in one burst get one answer: OK or CANCELLED, {}", CLASSES)
def cancel_burst(rig: Rig, once: bool) -> None:
    frame = rig.infer(rig.open(), once=once)
    cancel = Frame(Opcode.CANCEL, b"", frame.request, frame.flags, frame.session)
    rig.send(*message(frame, 1400), *message(cancel))
    reply = rig.answer(frame)
    rig.check(reply.status in (Status.OK, Status.CANCELLED), "OK or CANCELLED", described(reply))
    rig.expect_none(Pattern(opcode=Opcode.RESULT, request=frame.request))
