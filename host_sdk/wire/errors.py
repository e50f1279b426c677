"""Every exception of the project.

::

    NapuError
    ├── ConfigError               a profile, manifest, lab or argument is wrong
    │   └── CaptureError          a capture file is damaged, or is none
    ├── LinkError                 the cable
    │   ├── LinkPrivilegeError    the operating system refuses; says what would allow it
    │   ├── InterfaceError        the interface is missing, down or renamed
    │   └── MtuError              the interface's MTU is too small
    ├── ProtocolError
    │   ├── LocalProtocolError    our own side asked for what the protocol forbids
    │   └── RemoteProtocolError   the other side sent what the protocol forbids
    │       └── FrameError        a frame or message cannot be decoded; has a status or drop reason
    ├── DeviceError               the emulated hardware: bus, flash, boot
    ├── PowerCutError             the emulated board lost its power; no DeviceError, so that nothing handles it as one
    ├── EngineError               the container engine refuses
    │   ├── EngineUnavailableError  no engine answers
    │   └── ImageMissingError     it does not have the image
    ├── NapuTimeoutError          no answer in time (also a TimeoutError)
    ├── UncertainError            an appliance is gone, with a request that it may have executed
    ├── ClosedError               the client or link was closed
    └── StatusError               the appliance answered with a status that is not OK
        └── BusyError … one class for each status, see STATUS_ERRORS
"""

from host_sdk.wire.schema import STATUS_MEANING, DropReason, Status


class NapuError(Exception):
    """Root of the project's exceptions."""


class ConfigError(NapuError):
    """A profile, manifest, lab file or argument is wrong."""


class CaptureError(ConfigError):
    """A file is no capture, is damaged, or is over a bound of its reader."""


class LinkError(NapuError):
    """The cable failed."""


class LinkPrivilegeError(LinkError):
    """The operating system refuses the link to this user."""


class InterfaceError(LinkError):
    """The interface is missing, down or was renamed."""


class MtuError(LinkError):
    """The interface carries too small frames, or too large ones for this link."""


class ProtocolError(NapuError):
    """The protocol was broken."""


class LocalProtocolError(ProtocolError):
    """Our own side asked for what the protocol forbids."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol forbids."""


class FrameError(RemoteProtocolError):
    """A frame or a message cannot be decoded.

    Attributes:
        reason: The counter of a frame that is dropped, or the status that answers it.
    """

    def __init__(self, reason: DropReason | Status, detail: str) -> None:
        super().__init__(f"{reason.name}: {detail}")
        self.reason = reason


class DeviceError(NapuError):
    """The emulated hardware refused: bus, flash or boot."""


class PowerCutError(NapuError):
    """The emulated board lost its power; its chips answer nothing until it is back."""


class EngineError(NapuError):
    """The container engine refused what a lab needs."""


class EngineUnavailableError(EngineError):
    """No container engine answers."""


class ImageMissingError(EngineError):
    """The container engine does not have the image."""


class NapuTimeoutError(NapuError, TimeoutError):
    """No answer came in time."""


class UncertainError(NapuError):
    """An appliance does not answer any more, and nobody can say whether it executed a request.

    Attributes:
        member: The appliance.
    """

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(
            f"it may or may not have been executed at {member}: {reason}; "
            "ask again if that does no harm, or let the cluster do so without strict"
        )
        self.member = member


class ClosedError(NapuError):
    """The client or the link was closed."""


class StatusError(NapuError):
    """The appliance answered with a status that is not OK.

    Attributes:
        status: The status.
        detail: The appliance's own sentence, possibly empty.
        retry_after_s: Seconds after which to try again; 0 where the appliance does not say.
    """

    status: Status = Status.INTERNAL

    def __init__(self, detail: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{self.status.name}: {detail or STATUS_MEANING[self.status]}")
        self.detail = detail
        self.retry_after_s = retry_after_s


class BusyError(StatusError):
    """No room now; try again later."""

    status = Status.BUSY


class DeadlineExceededError(StatusError):
    """The deadline passed before the work was done."""

    status = Status.DEADLINE_EXCEEDED


class UnavailableError(StatusError):
    """The firmware is not running at the moment."""

    status = Status.UNAVAILABLE


class InternalError(StatusError):
    """The appliance failed."""

    status = Status.INTERNAL


class CancelledError(StatusError):
    """The request was cancelled."""

    status = Status.CANCELLED


class MalformedError(StatusError):
    """The appliance could not make sense of the message."""

    status = Status.MALFORMED


class UnknownOpcodeError(StatusError):
    """The appliance does not serve this opcode."""

    status = Status.UNKNOWN_OPCODE


class UnsupportedFlagError(StatusError):
    """The appliance does not know a flag that was set."""

    status = Status.UNSUPPORTED_FLAG


class BadCrcError(StatusError):
    """The message arrived damaged."""

    status = Status.BAD_CRC


class TooLargeError(StatusError):
    """The message is longer than the appliance takes."""

    status = Status.TOO_LARGE


class FragmentConflictError(StatusError):
    """Fragments of one request contradicted each other."""

    status = Status.FRAGMENT_CONFLICT


class ReassemblyTimeoutError(StatusError):
    """Fragments were lost on the way."""

    status = Status.REASSEMBLY_TIMEOUT


class UnknownSessionError(StatusError):
    """The session is not open."""

    status = Status.UNKNOWN_SESSION


class UnknownPipelineError(StatusError):
    """The appliance has no such pipeline."""

    status = Status.UNKNOWN_PIPELINE


class WrongSizeError(StatusError):
    """The body has another size than the pipeline's input."""

    status = Status.WRONG_SIZE


class UndecodableError(StatusError):
    """The body is not media that the pipeline takes."""

    status = Status.UNDECODABLE


class UnknownOperationError(StatusError):
    """The firmware does not serve this control operation."""

    status = Status.UNKNOWN_OPERATION


class BadArgumentError(StatusError):
    """An argument of a control operation is missing or wrong."""

    status = Status.BAD_ARGUMENT


class BadPipelineError(StatusError):
    """The pipeline package cannot be run."""

    status = Status.BAD_PIPELINE


class NoSpaceError(StatusError):
    """Flash or memory of the appliance is full."""

    status = Status.NO_SPACE


class NotAuthenticatedError(StatusError):
    """A certificate is missing or does not count, or the secure stream was broken."""

    status = Status.NOT_AUTHENTICATED


class NotPermittedError(StatusError):
    """The caller's role does not allow this operation, or its certificate not this pipeline."""

    status = Status.NOT_PERMITTED


class NotSealedError(StatusError):
    """The pipeline takes sealed frames alone."""

    status = Status.NOT_SEALED


class UnknownKeyError(StatusError):
    """The key of a sealed frame is not known."""

    status = Status.UNKNOWN_KEY


STATUS_ERRORS: dict[Status, type[StatusError]] = {cls.status: cls for cls in StatusError.__subclasses__()}


def status_error(status: int, detail: str = "", retry_after_s: float = 0.0) -> StatusError:
    """Return the exception for a status; one that this version does not know becomes an InternalError."""
    try:
        cls = STATUS_ERRORS[Status(status)]
    except (KeyError, ValueError):
        return InternalError(f"unknown status {status}: {detail}")
    return cls(detail, retry_after_s=retry_after_s)
