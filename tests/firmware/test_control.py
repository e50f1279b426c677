import itertools
import logging
from typing import Any, cast

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.control import OPERATIONS, Control, Services
from firmware.hal import Hal
from firmware.services.access import ANYBODY
from host_sdk.wire.errors import ClosedError, DeviceError
from host_sdk.wire.schema import MAX_DETAIL, Status
from tests.appliance.board.fake_hardware import package
from tests.firmware.fake_hal import FakeHal


def make_control(fake: FakeHal) -> Control:
    ticks = itertools.count(0, 5_000_000_000)
    return Control(Services.on(cast("Hal", fake), "ab" * 32, lambda: next(ticks)))


@pytest.fixture
def hal() -> FakeHal:
    return FakeHal()


@pytest.fixture
def control(hal: FakeHal) -> Control:
    return make_control(hal)


def ask(control: Control, **body: Any) -> tuple[Status, Any]:
    status, answer = control.handle(msgpack.packb(body), ANYBODY)
    return status, msgpack.unpackb(answer) if status is Status.OK else answer.decode()


def test_identity(control: Control) -> None:
    ask(control, op="pipeline.install", package=package("digits"))
    status, identity = ask(control, op="identity")
    assert status is Status.OK
    assert sorted(identity) == [
        "access", "address", "counters", "credits", "device", "firmware", "link", "mtu", "name",
        "pipelines", "profile", "protocol"
    ]  # fmt: skip
    assert sorted(identity["firmware"]) == ["digest", "epoch", "pid", "version"]
    assert (identity["firmware"]["epoch"], identity["firmware"]["digest"]) == (3, "ab" * 32)
    assert identity["protocol"] == 1
    told = ["digest", "handle", "input_bytes", "name", "sealed"]
    assert [sorted(pipeline) for pipeline in identity["pipelines"]] == [told]


def test_installing_listing_removing(control: Control, hal: FakeHal) -> None:
    status, answer = ask(control, op="pipeline.install", package=package("digits"))
    assert status is Status.OK
    assert answer["pipeline"]["name"] == "digits"
    assert ask(control, op="pipelines") == (Status.OK, {"pipelines": [answer["pipeline"]]})
    assert hal.flash.objects == {"pipelines/digits": package("digits")}
    assert ask(control, op="pipeline.remove", name="digits") == (Status.OK, {})
    assert ask(control, op="pipelines") == (Status.OK, {"pipelines": []})
    assert hal.flash.objects == {}
    status, sentence = ask(control, op="pipeline.remove", name="digits")
    assert status is Status.UNKNOWN_PIPELINE
    assert "'digits'" in sentence


def test_stats(control: Control) -> None:
    assert ask(control, op="stats") == (
        Status.OK,
        {
            "hardware": {"frames": 12},
            "firmware": {
                "version": "1.0",
                "slot": "A",
                "state": "confirmed",
                "reason": "CONFIRMED",
                "uptime_s": 10,
                "epoch": 3,
                "resets": 2,
                "letters": 0,
            },
        },
    )


def test_health(control: Control, hal: FakeHal) -> None:
    hal.rates = [25]
    assert ask(control, op="health") == (
        Status.OK,
        {
            "board": {
                "uptime_s": 86_400, "temperature_c": 40.0, "limit_c": 80.0, "power_w": 4.5,
                "dla_rate_percent": 25, "throttled": True,
            },
            "firmware": {
                "version": "1.0", "epoch": 3, "boots": 3, "uptime_s": 5, "reset_reason": "WATCHDOG",
                    "slot": "A", "state": "confirmed", "reason": "CONFIRMED", "trial_ms": 0,
            },
            "resets": {"exited": 0, "killed": 1, "watchdog": 1},
            "watchdog": {"period_ms": 8000},
        },
    )  # fmt: skip


def test_health_does_not_ask_the_dataplane(control: Control, hal: FakeHal) -> None:
    hal.failure = DeviceError("the dataplane does not run")
    assert ask(control, op="stats")[0] is Status.INTERNAL
    assert ask(control, op="health")[0] is Status.OK


def test_logs_can_be_paged(control: Control) -> None:
    _, page = ask(control, op="logs", after=2, limit=3)
    assert page == {
        "lines": [{"sequence": n, "time_s": float(n), "text": f"line {n}"} for n in (3, 4, 5)],
        "next": 5,
    }
    _, everything = ask(control, op="logs")
    assert everything["next"] == 10
    _, nothing = ask(control, op="logs", after=10)
    assert nothing == {"lines": [], "next": 10}


def test_unknown_keys_are_passed_over(control: Control) -> None:
    body = msgpack.packb({"later": [[{"x": [1]}]], "op": "pipelines", "trace": {"a": msgpack.Timestamp(1)}})
    assert control.handle(body, ANYBODY) == (Status.OK, msgpack.packb({"pipelines": []}))


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"op": "crash"}, Status.UNKNOWN_OPERATION, "no operation 'crash'; there are identity"),
        ({"op": ""}, Status.UNKNOWN_OPERATION, "no operation ''"),
        ({"op": "pipeline.install"}, Status.BAD_ARGUMENT, "argument package is missing; give bytes"),
        ({"op": "pipeline.install", "package": "text"}, Status.BAD_ARGUMENT, "package must be bytes"),
        ({"op": "pipeline.remove", "name": 5}, Status.BAD_ARGUMENT, "name must be text"),
        ({"op": "pipeline.remove", "name": ["x"]}, Status.BAD_ARGUMENT, "name must be text"),
        ({"op": "logs", "after": -1}, Status.BAD_ARGUMENT, "after must be 0 to"),
        ({"op": "logs", "after": 1 << 63}, Status.BAD_ARGUMENT, "after must be 0 to"),
        ({"op": "logs", "limit": 0}, Status.BAD_ARGUMENT, "limit must be 1 to 500"),
        ({"op": "logs", "limit": True}, Status.BAD_ARGUMENT, "limit must be an integer"),
        ({"op": "logs", "limit": 1.0}, Status.BAD_ARGUMENT, "limit must be an integer"),
        ({}, Status.MALFORMED, "no operation"),
        ({"op": None}, Status.MALFORMED, "no operation"),
        ({"op": {"x": 1}}, Status.MALFORMED, "no operation"),
        ({1: "x", "op": "stats"}, Status.MALFORMED, "no text"),
        ([], Status.MALFORMED, "no msgpack map"),
        (None, Status.MALFORMED, "no msgpack map"),
    ],
)
def test_mistakes_have_a_status_and_a_sentence(control: Control, body: Any, status: Status, sentence: str) -> None:
    got, answer = control.handle(msgpack.packb(body), ANYBODY)
    assert got is status
    assert sentence in answer.decode()


def test_a_known_fault_of_the_hardware_is_internal(
    control: Control, hal: FakeHal, caplog: pytest.LogCaptureFixture
) -> None:
    hal.failure = DeviceError("the hardware answers FAILED: counters are lost")
    assert ask(control, op="stats") == (Status.INTERNAL, "the hardware answers FAILED: counters are lost")
    assert "counters are lost" in caplog.text


def test_an_unexpected_fault_is_logged_and_survived(
    control: Control, hal: FakeHal, caplog: pytest.LogCaptureFixture
) -> None:
    hal.failure = RuntimeError("secret detail")
    status, sentence = ask(control, op="stats")
    assert status is Status.INTERNAL
    assert sentence == "RuntimeError; the log says more"
    assert "secret detail" in caplog.text
    hal.failure = None
    assert ask(control, op="stats")[0] is Status.OK


def test_a_lost_bus_is_not_swallowed(control: Control, hal: FakeHal) -> None:
    hal.failure = ClosedError("the hardware has closed the bus")
    with pytest.raises(ClosedError):
        ask(control, op="stats")


def test_sentences_are_bounded_and_whole_characters(control: Control) -> None:
    status, answer = control.handle(msgpack.packb({"op": "pipeline.remove", "name": "ä" * 5000}), ANYBODY)
    assert status is Status.UNKNOWN_PIPELINE
    assert len(answer) <= MAX_DETAIL
    answer.decode()


@given(st.binary(max_size=200))
def test_any_bytes_get_a_status(raw: bytes) -> None:
    logging.disable(logging.CRITICAL)
    control = make_control(FakeHal())
    for body in (
        raw,
        b"\x81\xa2op" + raw,
        b"\x82\xa2op\xa4logs" + raw,
        b"\x82\xa2op\xb0pipeline.install\xa7package" + raw,
    ):
        status, answer = control.handle(body, ANYBODY)
        assert status in Status
        if status is not Status.OK:
            assert answer.decode()
            assert len(answer) <= MAX_DETAIL
    logging.disable(logging.NOTSET)


@given(
    st.sampled_from(list(OPERATIONS)),
    st.dictionaries(
        st.sampled_from(["package", "name", "after", "limit", "x"]),
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.text()
        | st.binary()
        | st.lists(st.integers(0, 9)),
    ),
)
def test_any_arguments_get_a_status_that_is_not_internal(operation: str, arguments: dict[str, Any]) -> None:
    status, _ = make_control(FakeHal()).handle(msgpack.packb({**arguments, "op": operation}), ANYBODY)
    assert status is not Status.INTERNAL


def test_attestation_is_passed_on(control: Control) -> None:
    passed_on = {"quote": bytes(32), "signature": b"signature", "key": b"key", "boots": b"boots"}
    assert ask(control, op="attest", nonce=bytes(32)) == (Status.OK, passed_on)
    assert ask(control, op="attest.log") == (Status.OK, {"log": 5, "events": [b"first", b"second"]})
    assert ask(control, op="attest.log", after=1) == (Status.OK, {"log": 5, "events": [b"second"]})
    for wrong in ({}, {"nonce": bytes(31)}, {"nonce": bytes(33)}, {"nonce": "n" * 32}):
        assert ask(control, op="attest", **wrong)[0] is Status.BAD_ARGUMENT
    for after in (-1, 1025, "0"):
        assert ask(control, op="attest.log", after=after)[0] is Status.BAD_ARGUMENT
