"""Passes on what the board measured and signed; nothing in it is the firmware's own word."""

from typing import Any

from firmware.hal import Hal
from host_sdk.wire.attest.quote import NONCE_SIZE
from host_sdk.wire.errors import BadArgumentError


class Attestation:
    """Asks the board for quotes and for its measurement log.

    Args:
        hal: The hardware.
    """

    def __init__(self, hal: Hal) -> None:
        self._hal = hal

    def quote(self, nonce: bytes) -> dict[str, Any]:
        """Return quote, signature, key and boots, as docs/attestation.md has them, over a nonce.

        Raises:
            BadArgumentError: The nonce has not NONCE_SIZE bytes.
            BusyError: The board has signed a quote just now.
        """
        if len(nonce) != NONCE_SIZE:
            raise BadArgumentError(f"argument nonce must have {NONCE_SIZE} bytes, from a good source of randomness")
        quote, signature, key, boots = self._hal.quote(nonce)
        return {"quote": quote, "signature": signature, "key": key, "boots": boots}

    def log(self, after: int) -> dict[str, Any]:
        """Return the number of the measurement log, and the next of its events after the first ``after``."""
        log, events = self._hal.measurements(after)
        return {"log": log, "events": events}
