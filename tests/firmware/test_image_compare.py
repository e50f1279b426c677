"""What an image says of itself, and in what two differ."""

import io
import zipfile

import pytest

from firmware.image import read_image
from firmware.image.compare import MAX_FILES, compare, describe, payload_files
from firmware.image.errors import NotAnImageError
from tests.firmware.images import NEVER, Parts, certificate


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def test_every_field_is_described() -> None:
    found = describe(read_image(Parts(chain=certificate(not_after=NEVER)).image()))
    assert found["version"] == "1.2"
    assert found["hardware"] == "board-7"
    assert found["security_counter"] == 5
    assert (found["name"], found["entry"], found["build"]) == ("napu", "a:b", {"files": "1"})
    assert (found["issued"], found["expires"]) == ("1970-01-01T00:08:20Z", "1970-01-01T00:50:00Z")
    assert (found["key_kind"], found["key_serial"], found["key_not_after"]) == ("release", 7, "never")


def test_a_time_beyond_all_dates_is_shown_as_seconds() -> None:
    found = describe(read_image(Parts(expires=(2**63).to_bytes(8, "big")).image()))
    assert found["expires"] == "9223372036854775808 s"


def test_the_same_image_does_not_differ() -> None:
    image = read_image(Parts(payload=zipped({"a": b"1"})).image())
    assert not compare(image, image)


def test_what_differs_is_found() -> None:
    first = Parts(payload=zipped({"same": b"1", "gone": b"2", "other": b"3"}), version=b"1.2")
    second = Parts(payload=zipped({"same": b"1", "new": b"2", "other": b"4"}), version=b"1.3", counter=6)
    found = compare(read_image(first.image()), read_image(second.image()))
    assert (found.added, found.removed, found.changed) == (["new"], ["gone"], ["other"])
    assert found.fields["version"] == ("1.2", "1.3")
    assert found.fields["security_counter"] == (5, 6)
    assert not found.fields.keys() & {"name", "entry", "hardware", "key_id", "issued", "expires"}
    assert found.fields.keys() >= {"digest", "signature", "payload_sha256"}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"payload",
        zipped({"bomb": bytes(1 << 20)}, zipfile.ZIP_DEFLATED),
        zipped({f"{number}": b"" for number in range(MAX_FILES + 1)}),
    ],
)
def test_payloads_that_are_not_unpacked(payload: bytes) -> None:
    with pytest.raises(NotAnImageError, match="payload"):
        payload_files(payload)


def test_entries_that_share_their_bytes_are_not_unpacked() -> None:
    """Many entries over the same bytes unpack to more than the payload is."""
    one = zipped({"a": bytes(10_000)})
    begin, end = one.index(b"PK\1\2"), one.index(b"PK\5\6")
    entries = b"".join(one[begin:end].replace(b"a", bytes([98 + number]), 1) for number in range(10))
    tail = bytearray(one[end:])
    tail[8:12] = (10).to_bytes(2, "little") * 2
    tail[12:16] = len(entries).to_bytes(4, "little")
    with pytest.raises(NotAnImageError, match="payload"):
        payload_files(one[:begin] + entries + bytes(tail))
