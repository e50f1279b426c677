"""The gate of an appliance with mutual access: plain control stops here, secure control is let in by role."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgpack

from firmware.control import SECURE, SECURE_ARGUMENTS, Control, arguments_of, decode_body, failure
from firmware.secure.responder import Export, Responder
from firmware.services.access import NOBODY, Access, Audit, Caller
from firmware.services.grants import SecureStream
from host_sdk.wire.errors import (
    BadArgumentError,
    NotAuthenticatedError,
    NotPermittedError,
    StatusError,
    status_error,
)
from host_sdk.wire.roles import Role
from host_sdk.wire.schema import Status
from host_sdk.wire.secure.certificates import Subject

GRANT = "grant"  # whose answer is good in its own stream alone, so that it is not remembered for others
REMEMBERED = 64  # answers that a request gets again which comes in another stream
_REFUSALS = (NotAuthenticatedError.status, NotPermittedError.status)


class MutualGate:
    """Carries out operations for those who have proved who they are, as far as their role goes.

    Args:
        control: Carries them out.
        access: The device's credentials and whom it trusts.
        clock: Monotonic ns.
        wall: Seconds since 1970.

    Attributes:
        responder: The secure streams; None where the device has no credentials, so that nobody gets in.
    """

    def __init__(self, control: Control, access: Access, clock: Callable[[], int], wall: Callable[[], float]) -> None:
        self._control, self._problem, self._wall = control, access.problem, wall
        self._audit = Audit(clock)
        self._answers: OrderedDict[tuple[int, int], bytes] = OrderedDict()  # by certificate and request
        self.responder: Responder | None = None
        if access.credentials and access.authority:
            self.responder = Responder(access.credentials, access.authority, self._serve, clock, wall)

    def handle(self, peer: int, body: bytes) -> tuple[Status, bytes]:
        """Carry out what the body of a CONTROL message asks for; return the status and body of the answer.

        Raises:
            ClosedError: The hardware has gone.
        """
        try:
            given = decode_body(body)
        except StatusError as error:
            return failure(error)
        name = given.pop("op")
        if name == SECURE:
            return self._secure(peer, given)
        status, answer = self._control.execute(name, given, NOBODY)
        self._note(NOBODY, peer, name, status, answer)
        return status, answer

    def _secure(self, peer: int, given: dict[str, Any]) -> tuple[Status, bytes]:
        caller = NOBODY
        try:
            if self.responder is None:
                raise NotAuthenticatedError(self._problem)
            taken = arguments_of(SECURE_ARGUMENTS, given)
            subject = self.responder.who(peer, taken["stream"])
            caller = _caller(subject) if subject else NOBODY
            offset, records = self.responder.take(peer, taken["stream"], taken["offset"], taken["records"])
        except StatusError as error:
            self._audit.refused(caller, peer, SECURE, error)
            return failure(error)
        return Status.OK, msgpack.packb({"offset": offset, "records": records})

    def _serve(self, subject: Subject, peer: int, export: Export, request: bytes) -> bytes:
        """Answer a request of a stream; one that came before, perhaps in another stream, gets the same answer again."""
        try:
            given = decode_body(request)
            number = given.get("id")
            if type(number) is not int:
                raise BadArgumentError("a request of a secure stream has a number of its own under id")
        except StatusError as error:
            return _pack(*failure(error))
        key = (subject.serial, number)
        if key not in self._answers:
            stream = SecureStream(peer, subject, export, subject.not_after - self._wall())
            caller, name = _caller(subject, stream), given.pop("op")
            status, answer = self._control.execute(name, given, caller)
            self._note(caller, peer, name, status, answer)
            if name == GRANT:
                return _pack(status, answer)
            self._answers[key] = _pack(status, answer)
            if len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
        return self._answers[key]

    def _note(self, caller: Caller, peer: int, name: str, status: Status, answer: bytes) -> None:
        """Write to the log what was refused, and what has changed something."""
        if status in _REFUSALS:
            self._audit.refused(caller, peer, name, status_error(status, answer.decode()))
        elif status is Status.OK and (name == GRANT or self._control.role(name) > Role.VIEWER):
            self._audit.allowed(caller, peer, name)


def _caller(subject: Subject, stream: SecureStream | None = None) -> Caller:
    return Caller(subject.name, subject.grant.role if subject.grant else Role.NOBODY, subject.serial, stream)


def _pack(status: Status, answer: bytes) -> bytes:
    packed: bytes = msgpack.packb({"status": int(status), "body": answer})
    return packed
