"""The control plane's operations: what they are called, what arguments they take, who handles them.

The body of a CONTROL message is a msgpack map with the operation's name under ``op`` and its arguments under theirs;
keys that the operation does not know are passed over. Any bytes at all get a status.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import msgpack

from firmware.hal import Hal
from firmware.packing import MapReader
from firmware.services.access import ANYBODY, Access, Caller, permit
from firmware.services.attestation import Attestation
from firmware.services.health import Health
from firmware.services.identity import Identity
from firmware.services.logs import MAX_LINES, Logs
from firmware.services.pipelines import Pipelines
from firmware.services.statistics import Statistics
from firmware.services.update import SELF, Updates
from host_sdk.wire.attest.events import MAX_EVENTS
from host_sdk.wire.errors import (
    BadArgumentError,
    ClosedError,
    DeviceError,
    InternalError,
    MalformedError,
    StatusError,
    UnknownOperationError,
)
from host_sdk.wire.roles import Role
from host_sdk.wire.schema import MAX_DETAIL, Status

_log = logging.getLogger(__name__)
MAX_UPDATE = 0xFFFFFFFF  # bytes of an image; a slot has far fewer
_KINDS = {str: "text", int: "an integer", bytes: "bytes"}


@dataclass(frozen=True, slots=True)
class Services:
    """Who handles operations."""

    identity: Identity
    pipelines: Pipelines
    statistics: Statistics
    logs: Logs
    health: Health
    access: Access
    updates: Updates
    attestation: Attestation

    @classmethod
    def on(cls, hal: Hal, digest: str, clock: Callable[[], int]) -> Self:
        """Return the services of a firmware that was booted from an image with this digest, hex; clock in ns."""
        return cls(
            identity=Identity(hal, digest),
            pipelines=Pipelines(hal),
            statistics=Statistics(hal, clock),
            logs=Logs(hal),
            health=Health(hal, clock),
            access=Access(hal),
            updates=Updates(hal, digest),
            attestation=Attestation(hal),
        )


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of an operation.

    Attributes:
        name: Its key in the body.
        kind: str, int or bytes.
        default: What it is when it is not given; None: it must be.
        low: Smallest integer.
        high: Largest integer.
    """

    name: str
    kind: type
    default: Any = None
    low: int = 0
    high: int = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its handler, which returns the map to answer with, its arguments, the lowest role that may ask."""

    handler: Callable[[Services, dict[str, Any]], dict[str, Any]]
    arguments: tuple[Argument, ...] = ()
    role: Role = Role.ADMIN
    told_caller: bool = False  # it finds under ``caller`` who asks


def _remove(services: Services, arguments: dict[str, Any]) -> dict[str, Any]:
    services.pipelines.remove(arguments["name"])
    return {}


OPERATIONS: dict[str, Operation] = {
    "identity": Operation(lambda services, _: services.identity.describe(), role=Role.NOBODY),
    "pipelines": Operation(
        lambda services, _: {"pipelines": services.pipelines.describe()},
        role=Role.VIEWER,
    ),
    "pipeline.install": Operation(
        lambda services, given: {"pipeline": services.pipelines.install(given["package"])},
        (Argument("package", bytes),),
        Role.OPERATOR,
    ),
    "pipeline.remove": Operation(_remove, (Argument("name", str),), Role.OPERATOR),
    "stats": Operation(lambda services, _: services.statistics.describe(), role=Role.VIEWER),
    "health": Operation(lambda services, _: services.health.describe(), role=Role.VIEWER),
    "logs": Operation(
        lambda services, given: services.logs.after(given["after"], given["limit"]),
        (Argument("after", int, 0), Argument("limit", int, MAX_LINES, low=1, high=MAX_LINES)),
        Role.VIEWER,
    ),
    "fw.status": Operation(lambda services, _: services.updates.status(), role=Role.VIEWER),
    "fw.begin": Operation(
        lambda services, given: services.updates.begin(given["size"], given["digest"]),
        (Argument("size", int, low=1, high=MAX_UPDATE), Argument("digest", bytes)),
        Role.ADMIN,
    ),
    "fw.chunk": Operation(
        lambda services, given: services.updates.chunk(given["offset"], given["data"]),
        (Argument("offset", int, high=MAX_UPDATE), Argument("data", bytes)),
        Role.ADMIN,
    ),
    "fw.finish": Operation(lambda services, _: services.updates.finish(), role=Role.ADMIN),
    "fw.activate": Operation(
        lambda services, given: services.updates.activate(given["digest"], given["confirm"]),
        (Argument("digest", bytes), Argument("confirm", str, SELF)),
        Role.ADMIN,
    ),
    "fw.confirm": Operation(lambda services, _: services.updates.confirm(), role=Role.ADMIN),
    "fw.rollback": Operation(
        lambda services, given: services.updates.roll_back(given["leaving"]),
        (Argument("leaving", bytes),),
        Role.ADMIN,
    ),
    "attest": Operation(
        lambda services, given: services.attestation.quote(given["nonce"]),
        (Argument("nonce", bytes),),
        Role.VIEWER,
    ),
    "attest.log": Operation(
        lambda services, given: services.attestation.log(given["after"]),
        (Argument("after", int, 0, high=MAX_EVENTS),),
        Role.VIEWER,
    ),
    "grant": Operation(
        lambda services, given: services.access.grants.grant(given["caller"].stream, given["key"]),
        (Argument("key", int, 0),),
        Role.VIEWER,
        told_caller=True,
    ),
    "access.revoke": Operation(
        lambda services, given: services.access.revoke(given["list"]),
        (Argument("list", bytes),),
        Role.ADMIN,
    ),
}
# What carries the records of a secure stream; the gate takes it, as its answer depends on who sent it.
SECURE = "secure"
SECURE_ARGUMENTS = (Argument("stream", int, low=1), Argument("offset", int), Argument("records", bytes))
_KNOWN_KEYS = {"op", "id"} | {
    argument.name
    for arguments in (SECURE_ARGUMENTS, *(operation.arguments for operation in OPERATIONS.values()))
    for argument in arguments
}


class Control:
    """Carries out operations; whatever becomes of one, the next is carried out."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def handle(self, body: bytes, caller: Caller) -> tuple[Status, bytes]:
        """Carry out what the body of a CONTROL message asks for; return the status and body of the answer."""
        try:
            given = decode_body(body)
        except StatusError as error:
            return failure(error)
        return self.execute(given.pop("op"), given, caller)

    def role(self, name: str) -> Role:
        """Return the lowest role that may ask for an operation."""
        operation = OPERATIONS.get(name)
        return operation.role if operation else Role.VIEWER

    def execute(self, name: str, given: dict[str, Any], caller: Caller) -> tuple[Status, bytes]:
        """Carry out an operation for somebody; return the status and body of the answer.

        Raises:
            ClosedError: The hardware has gone.
        """
        try:
            # Before anything else, so that those who may not ask learn nothing.
            permit(caller, name[:80], self.role(name))
            operation = OPERATIONS.get(name)
            if operation is None:
                raise UnknownOperationError(f"there is no operation {name[:80]!r}; there are {', '.join(OPERATIONS)}")
            arguments = arguments_of(operation.arguments, given)
            if operation.told_caller:
                arguments["caller"] = caller
            return Status.OK, msgpack.packb(operation.handler(self._services, arguments))
        except ClosedError:
            raise
        except StatusError as error:
            return failure(error)
        except DeviceError as error:
            _log.error("operation %s: %s", name, error)
            return failure(InternalError(str(error)))
        except Exception as error:  # noqa: BLE001 - one bad request must not end the service of all others
            _log.exception("operation %s failed", name)
            return failure(InternalError(f"{type(error).__name__}; the log says more"))


def decode_body(body: bytes) -> dict[str, Any]:
    """Return the operation's name under ``op`` and the arguments in a control message's body.

    Raises:
        MalformedError: The body is not a msgpack map of text to values, or has no operation.
    """
    reader = MapReader(body)
    given: dict[str, Any] = {}
    try:
        for key in reader.map_keys():
            if key in _KNOWN_KEYS:
                given[key] = reader.value()
            else:
                reader.skip()
        reader.end()
    except ValueError as error:
        raise MalformedError(f"the body is no msgpack map as control takes it: {error}") from None
    if not isinstance(given.get("op"), str):
        raise MalformedError("the map in the body has no operation; give its name as text under op")
    return given


def arguments_of(arguments: tuple[Argument, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Return an operation's arguments as they are given, or as they are where they are not.

    Raises:
        BadArgumentError: One is missing, of another type or out of range.
    """
    return {argument.name: _check(argument, given) for argument in arguments}


class OpenGate:
    """The gate of an appliance with open access: whoever asks is an administrator."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def handle(self, _peer: int, body: bytes) -> tuple[Status, bytes]:
        """Carry out what the body of a CONTROL message asks for; return the status and body of the answer.

        Raises:
            ClosedError: The hardware has gone.
        """
        return self._control.handle(body, ANYBODY)


def _check(argument: Argument, given: dict[str, Any]) -> Any:
    value: Any = given.get(argument.name)
    if value is None:
        value = argument.default
    if value is None:
        raise BadArgumentError(f"argument {argument.name} is missing; give {_KINDS[argument.kind]}")
    if type(value) is not argument.kind:
        raise BadArgumentError(f"argument {argument.name} must be {_KINDS[argument.kind]}")
    if isinstance(value, int) and not argument.low <= value <= argument.high:
        raise BadArgumentError(f"argument {argument.name} must be {argument.low} to {argument.high}")
    return value


def failure(error: StatusError) -> tuple[Status, bytes]:
    """Return the status and body that say what was wrong."""
    sentence = error.detail.encode(errors="replace")[:MAX_DETAIL]
    # The cut may have gone through a character.
    return error.status, sentence.decode(errors="ignore").encode()
