"""Evidence, as an appliance answers a nonce with it, and the checks that need nothing but the nonce."""

import hashlib
import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from host_sdk.wire.attest.boots import Boot, decode_boots
from host_sdk.wire.attest.collected import Evidence
from host_sdk.wire.attest.errors import (
    BadQuoteSignatureError,
    BootsMismatchError,
    LogMismatchError,
    NotExplainedError,
    WrongNonceError,
)
from host_sdk.wire.attest.events import Event, EventKind, encode_facts, replay
from host_sdk.wire.attest.quote import Quote, signed_bytes

PREFIX_SIZE = 8  # bytes of a model's digest in a trailer
_BEGINNING = (EventKind.ROM, EventKind.IMAGE, EventKind.CONFIGURATION)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline of the log: its name, and the SHA-256 of its package and of its model file, 32 bytes each."""

    name: str
    package: bytes
    model: bytes


@dataclass(frozen=True, slots=True)
class Claims:
    """What a device claims, after all checks that need no reference: its key has signed this over the nonce.

    Attributes:
        key: The device key, 32 bytes; whose it is remains to be asked.
        quote: The quote.
        rom: SHA-256 of the boot ROM's code.
        image: The event of the firmware image.
        configuration: How the board is set up.
        pipelines: Every pipeline that the log names, in its order; what was replaced or removed is among them.
        served: Those of them that are served now, by name.
        restarted: Whether a log that was full came before this one in the same epoch.
        boots: The last boots, oldest first.
    """

    key: bytes
    quote: Quote
    rom: bytes
    image: Event
    configuration: dict[str, str]
    pipelines: tuple[Pipeline, ...]
    served: dict[str, Pipeline] = field(default_factory=dict)
    restarted: bool = False
    boots: tuple[Boot, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """What made an answer, as a quote has it.

    Attributes:
        boot: The boot of the trailer's epoch.
        pipelines: Pipelines of the log whose model has the trailer's digest.
    """

    boot: Boot
    pipelines: tuple[Pipeline, ...]


def check_evidence(evidence: Evidence, nonce: bytes) -> Claims:
    """Check signature, nonce, history of boots and log; return what the device claims.

    Raises:
        MalformedEvidenceError: A part is none.
        BadQuoteSignatureError: The key has not signed the quote.
        WrongNonceError: The quote is over another nonce.
        BootsMismatchError: The history of boots is not the one in the quote.
        LogMismatchError: The log does not lead to the register's value, or no board makes such a log.
    """
    quote = Quote.decode(evidence.quote)
    try:
        Ed25519PublicKey.from_public_bytes(evidence.key).verify(evidence.signature, signed_bytes(evidence.quote))
    except (InvalidSignature, ValueError):
        raise BadQuoteSignatureError(f"key {evidence.key.hex()} has not signed this quote") from None
    if not secrets.compare_digest(quote.nonce, nonce):
        raise WrongNonceError("the quote is over another nonce; it may be an old one that somebody replays")
    if len(evidence.events) != quote.events or replay(evidence.events) != quote.value:
        raise LogMismatchError(
            f"{len(evidence.events)} events do not lead to the register's value after {quote.events}; "
            "the log was changed, cut or put in another order"
        )
    boots = _checked_boots(evidence, quote)
    events = [Event.decode(event) for event in evidence.events]
    claims = _read_log(events, quote, evidence.key, boots)
    last = boots[-1]
    if last.epoch != quote.epoch or last.image is None or last.image.digest != claims.image.digest:
        raise BootsMismatchError("the last boot of the history is not the one that the log is of")
    return claims


def explain(claims: Claims, epoch: int, prefix: bytes) -> Explanation:
    """Return which firmware and which model made an answer with this epoch and digest prefix in its trailer.

    A model is named if the log of now names it; the log of an earlier epoch is not kept.

    Args:
        claims: Of the appliance that answered.
        epoch: ``firmware_epoch`` of the trailer.
        prefix: ``model_digest`` of the trailer, 8 bytes.

    Raises:
        NotExplainedError: No boot of the history has the epoch, or no model of the log the digest.
    """
    boot = next((boot for boot in reversed(claims.boots) if boot.epoch == epoch), None)
    if boot is None:
        raise NotExplainedError(f"the last {len(claims.boots)} boots, which the quote covers, have no epoch {epoch}")
    found = tuple(pipeline for pipeline in claims.pipelines if pipeline.model[:PREFIX_SIZE] == prefix)
    if not found:
        raise NotExplainedError(f"no model that this log names has a digest that begins with {prefix.hex()}")
    return Explanation(boot, found)


def _checked_boots(evidence: Evidence, quote: Quote) -> tuple[Boot, ...]:
    if len(evidence.boots) != quote.boots_size or hashlib.sha256(evidence.boots).digest() != quote.boots:
        raise BootsMismatchError("the history of boots is not the one whose digest is in the quote")
    boots = decode_boots(evidence.boots)
    if not boots:
        raise BootsMismatchError("the history of boots is empty")
    return boots


def _read_log(events: list[Event], quote: Quote, key: bytes, boots: tuple[Boot, ...]) -> Claims:
    restarted = events[0].kind is EventKind.RESTARTED
    begin = int(restarted)
    kinds = tuple(event.kind for event in events[begin : begin + len(_BEGINNING)])
    if kinds != _BEGINNING:
        raise LogMismatchError("the log does not begin with ROM, image and configuration")
    rom, image, configuration = events[begin : begin + len(_BEGINNING)]
    if hashlib.sha256(encode_facts(configuration.facts)).digest() != configuration.digest:
        raise LogMismatchError("the configuration's digest is not that of its facts")
    pipelines, served = _read_pipelines(events[begin + len(_BEGINNING) :])
    return Claims(
        *(key, quote, rom.digest, image, dict(configuration.facts), tuple(pipelines), served, restarted, boots)
    )


def _read_pipelines(events: list[Event]) -> tuple[list[Pipeline], dict[str, Pipeline]]:
    pipelines: list[Pipeline] = []
    served: dict[str, Pipeline] = {}
    rest = iter(events)
    for event in rest:
        name = event.facts.get("name", "")
        if event.kind is EventKind.PIPELINE:
            model = next(rest, None)
            if model is None or model.kind is not EventKind.MODEL or model.facts.get("pipeline") != name:
                raise LogMismatchError(f"the model of pipeline {name!r} does not follow it in the log")
            served[name] = Pipeline(name, event.digest, model.digest)
            pipelines.append(served[name])
        elif event.kind is EventKind.PIPELINE_REMOVED and name in served:
            if served.pop(name).package != event.digest:
                raise LogMismatchError(f"another pipeline {name!r} was removed than was served")
        else:
            raise LogMismatchError(f"an event {event.kind.name} where none can be")
    return pipelines, served
