"""Why an attestation does not hold: one class for each cause, whose sentence begins with the cause's name.

::

    NapuError
    └── AttestationError
        ├── MalformedEvidenceError     MALFORMED_EVIDENCE: quote, event or history of boots is none
        ├── BadQuoteSignatureError     BAD_QUOTE_SIGNATURE: the key has not signed the quote
        ├── WrongNonceError            WRONG_NONCE: the quote answers another question
        ├── LogMismatchError           LOG_MISMATCH: the log does not lead to the register, or no board makes such a log
        ├── BootsMismatchError         BOOTS_MISMATCH: the history of boots is not the one that was signed
        ├── NotExplainedError          NOT_EXPLAINED: nothing in the quote explains a trailer
        ├── MalformedReferenceError    REFERENCE_MALFORMED: the bytes are no reference
        ├── ReferenceNotSignedError    REFERENCE_NOT_SIGNED: no key that is taken has signed it
        ├── ReferenceExpiredError      REFERENCE_EXPIRED: it, or its key's certificate, is past its time
        └── ReferenceOutdatedError     REFERENCE_OUTDATED: its sequence number is below the lowest that is taken
"""

from host_sdk.wire.errors import NapuError


class AttestationError(NapuError):
    """An attestation does not hold.

    Attributes:
        code: Name of the cause, as it stands in docs/attestation.md.
    """

    code = "ATTESTATION"

    def __init__(self, why: str) -> None:
        super().__init__(f"{self.code}: {why}")


class MalformedEvidenceError(AttestationError):
    """A quote, an event or a history of boots is none."""

    code = "MALFORMED_EVIDENCE"


class BadQuoteSignatureError(AttestationError):
    """The device key has not signed the quote."""

    code = "BAD_QUOTE_SIGNATURE"


class WrongNonceError(AttestationError):
    """The quote answers another nonce: it may be an old one."""

    code = "WRONG_NONCE"


class LogMismatchError(AttestationError):
    """The log does not lead to the register's value, or is not one that a board makes."""

    code = "LOG_MISMATCH"


class BootsMismatchError(AttestationError):
    """The history of boots is not the one in the quote, or contradicts the log."""

    code = "BOOTS_MISMATCH"


class NotExplainedError(AttestationError):
    """Nothing in the quote explains a trailer."""

    code = "NOT_EXPLAINED"


class MalformedReferenceError(AttestationError):
    """The bytes are no reference."""

    code = "REFERENCE_MALFORMED"


class ReferenceNotSignedError(AttestationError):
    """No key that is taken has signed the reference."""

    code = "REFERENCE_NOT_SIGNED"


class ReferenceExpiredError(AttestationError):
    """The reference, or the certificate of its key, is past its time: somebody may be keeping a newer one back."""

    code = "REFERENCE_EXPIRED"


class ReferenceOutdatedError(AttestationError):
    """The reference's sequence number is below the lowest that is taken."""

    code = "REFERENCE_OUTDATED"
