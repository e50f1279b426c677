"""The SDK against an appliance that says what the test wants, over a link in memory."""

import asyncio
import itertools
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from host_sdk.aio import AsyncNapuClient
from host_sdk.client import NapuClient
from host_sdk.operations import InferOptions, Timeout
from host_sdk.results import Inference
from host_sdk.wire.errors import (
    STATUS_ERRORS,
    ClosedError,
    ConfigError,
    InternalError,
    NapuTimeoutError,
    RemoteProtocolError,
    StatusError,
    UnknownSessionError,
)
from host_sdk.wire.exchange.pace import RequesterLimits
from host_sdk.wire.links.memory import MemorySwitch
from host_sdk.wire.schema import Status
from tests.rig.frames import CLOSE, CONTROL, OPEN, Pdu
from tests.rig.nodes import ROOT, within
from tests.rig.scripted import ONCE_FLAG, PIPELINES, SESSION, Scripted, reply_to

BODY = b"abcd"
CANCEL = 0x20
TRANSIENT = {Status.BUSY, Status.UNAVAILABLE, Status.REASSEMBLY_TIMEOUT}
TRANSIENT |= {Status.BAD_CRC, Status.FRAGMENT_CONFLICT, Status.UNKNOWN_KEY}  # what arrived is not what was sent
QUICK = Timeout(request=0.3, control=0.3, discovery=0.1)


@pytest.fixture
def switch() -> MemorySwitch:
    return MemorySwitch()


@pytest.fixture
def appliance(switch: MemorySwitch) -> Iterator[Scripted]:
    with Scripted(switch) as running:
        yield running


def blocking(switch: MemorySwitch, appliance: Scripted, timeout: Timeout = QUICK, window: int = 64) -> NapuClient:
    return NapuClient(switch.attach(), appliance.address, timeout=timeout, limits=RequesterLimits(window=window))


def run(
    switch: MemorySwitch,
    appliance: Scripted,
    use: Callable[[AsyncNapuClient], Awaitable[Any]],
    timeout: Timeout = QUICK,
) -> Any:
    """Use an asyncio client in a loop of its own; nothing may take longer than some seconds."""

    async def main() -> Any:
        async with AsyncNapuClient(switch.attach(), appliance.address, timeout=timeout) as client:
            return await asyncio.wait_for(use(client), 20)

    return asyncio.run(main())


# ---- one class for each status ---------------------------------------------------------------------------------------


def test_every_status_but_ok_has_an_exception_of_its_own() -> None:
    assert set(STATUS_ERRORS) == set(Status) - {Status.OK}
    assert len(set(STATUS_ERRORS.values())) == len(STATUS_ERRORS)
    for status, error in STATUS_ERRORS.items():
        words = "".join(word.capitalize() for word in status.name.split("_"))
        assert error.__name__ == f"{words}Error"


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.OK}))
def test_a_status_is_raised_as_its_exception(switch: MemorySwitch, appliance: Scripted, status: Status) -> None:
    appliance.infer = lambda asked: [reply_to(asked, b"because", status=status, retry_after=200)]
    with blocking(switch, appliance) as client, pytest.raises(StatusError) as caught:
        client.infer("echo", BODY)
    assert type(caught.value) is STATUS_ERRORS[status]
    assert caught.value.detail == "because"
    assert str(caught.value) == f"{status.name}: because"
    assert caught.value.retry_after_s == pytest.approx(0.02)
    tries = len(appliance.infers())
    assert tries == (3 if status in (Status.UNKNOWN_SESSION, Status.UNKNOWN_PIPELINE) else 1) or status in TRANSIENT


def test_a_session_that_was_forgotten_is_opened_anew(switch: MemorySwitch, appliance: Scripted) -> None:
    answers = iter([Status.UNKNOWN_SESSION, Status.OK])
    appliance.infer = lambda asked: [reply_to(asked, BODY, status=next(answers))]
    with blocking(switch, appliance) as client:
        assert client.infer("echo", BODY).outputs["same"].tobytes() == BODY
    assert len([asked for asked in appliance.asked if asked.opcode == OPEN]) == 2
    first, second = appliance.infers()
    assert first.request != second.request


def test_sessions_that_never_hold_are_an_error_in_time(switch: MemorySwitch, appliance: Scripted) -> None:
    appliance.infer = lambda asked: [reply_to(asked, status=Status.UNKNOWN_SESSION)]
    with blocking(switch, appliance) as client, pytest.raises((UnknownSessionError, NapuTimeoutError)):
        client.infer("echo", BODY)


def test_a_status_that_this_version_does_not_know(switch: MemorySwitch, appliance: Scripted) -> None:
    appliance.infer = lambda asked: [reply_to(asked, b"new", status=999)]
    with blocking(switch, appliance) as client, pytest.raises(InternalError, match="unknown status 999: new"):
        client.infer("echo", BODY)


@pytest.mark.parametrize("status", sorted(TRANSIENT))
def test_what_passes_is_waited_for(switch: MemorySwitch, appliance: Scripted, status: Status) -> None:
    answers = iter([status, status, Status.OK])
    appliance.infer = lambda asked: [reply_to(asked, BODY, status=next(answers), retry_after=10)]
    with blocking(switch, appliance, Timeout(request=5)) as client:
        assert client.infer("echo", BODY).outputs["same"].tobytes() == BODY
    assert len(appliance.infers()) == 3


# ---- time ------------------------------------------------------------------------------------------------------------


def test_silence_is_a_timeout_everywhere(switch: MemorySwitch, appliance: Scripted) -> None:
    with blocking(switch, appliance) as client:
        client.pipelines()
        appliance.silent = True
        with pytest.raises(NapuTimeoutError, match=r"no answer within 0\.3 s after \d+ transmissions"):
            client.control("stats")
        with pytest.raises(TimeoutError, match=r"no session: the appliance did not answer|no answer within"):
            client.infer("echo", BODY)
        assert client.discover() == []
        (error,) = client.infer_many("echo", [BODY], return_errors=True)
        assert isinstance(error, NapuTimeoutError)
        appliance.silent = False
        assert client.infer("echo", BODY).outputs["same"].tobytes() == BODY


def test_silence_is_a_timeout_everywhere_in_asyncio(switch: MemorySwitch, appliance: Scripted) -> None:
    async def use(client: AsyncNapuClient) -> None:
        await client.pipelines()
        appliance.silent = True
        results = await asyncio.gather(
            client.control("stats"), client.infer("echo", BODY), client.pipelines(), return_exceptions=True
        )
        assert [type(result) for result in results] == [NapuTimeoutError] * 3
        assert await client.discover() == []
        appliance.silent = False
        assert (await client.infer("echo", BODY)).outputs["same"].tobytes() == BODY

    run(switch, appliance, use)


def test_lost_requests_are_sent_again(switch: MemorySwitch, appliance: Scripted) -> None:
    lost = iter([True, True])
    appliance.infer = lambda asked: [] if next(lost, False) else [reply_to(asked, BODY)]
    with blocking(switch, appliance, Timeout(request=10)) as client:
        answer = client.infer("echo", BODY)
    assert answer.transmissions == 3
    assert len({asked.request for asked in appliance.infers()}) == 1


def test_an_answer_that_comes_twice_counts_once(switch: MemorySwitch, appliance: Scripted) -> None:
    appliance.infer = lambda asked: [reply_to(asked, asked.payload[:4])] * 3
    bodies = [bytes([index] * 4) for index in range(50)]
    with blocking(switch, appliance) as client:
        answers = list(client.infer_many("echo", bodies))
    assert [answer.outputs["same"].tobytes() for answer in answers if isinstance(answer, Inference)] == bodies


# ---- asyncio ---------------------------------------------------------------------------------------------------------


def test_cancelled_requests_give_their_credit_back(switch: MemorySwitch, appliance: Scripted) -> None:
    held: list[Pdu] = []
    appliance.infer = lambda asked: held.append(asked) or []  # type: ignore[func-returns-value]

    async def use(client: AsyncNapuClient) -> None:
        tasks = [asyncio.create_task(client.infer("echo", BODY)) for _ in range(64)]
        while len(held) < 64:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        appliance.infer = lambda asked: [reply_to(old, b"late") for old in held[:3]] + [reply_to(asked, BODY)]
        answers = await asyncio.gather(*(client.infer("echo", BODY) for _ in range(64)))
        assert {answer.outputs["same"].tobytes() for answer in answers} == {BODY}

    run(switch, appliance, use, Timeout(request=10))


def test_a_cancelled_request_is_not_sent_again(switch: MemorySwitch, appliance: Scripted) -> None:
    appliance.infer = lambda _: []

    async def use(client: AsyncNapuClient) -> int:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.infer("echo", BODY), 0.1)
        await client.pipelines()
        sent = len(appliance.infers())
        await asyncio.sleep(0.6)  # more than a retransmission timeout
        return len(appliance.infers()) - sent

    assert run(switch, appliance, use, Timeout(request=10)) == 0


def test_asyncio_client_starts_no_thread(switch: MemorySwitch, appliance: Scripted) -> None:
    before = set(threading.enumerate())

    async def use(client: AsyncNapuClient) -> set[threading.Thread]:
        await asyncio.gather(*(client.infer("echo", BODY) for _ in range(100)), client.discover())
        return set(threading.enumerate())

    assert run(switch, appliance, use) == before


def test_wrong_arguments_are_raised_and_never_hang(switch: MemorySwitch, appliance: Scripted) -> None:
    async def use(client: AsyncNapuClient) -> None:
        for data in ("text", None, 4, [1, 2, 3, 4], "abcd"):
            with pytest.raises(ConfigError, match="pipeline echo takes"):
                await client.infer("echo", data)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await client.infer("echo", BODY, deadline="soon")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await client.control("stats", argument=object())
        with pytest.raises(ConfigError):
            await client.control("stats", target="not an address")
        assert (await client.infer("echo", BODY)).outputs["same"].tobytes() == BODY

    run(switch, appliance, use)


def test_an_infer_many_that_is_left_early_leaves_nothing_behind(switch: MemorySwitch, appliance: Scripted) -> None:
    async def use(client: AsyncNapuClient) -> None:
        answers = client.infer_many("echo", [BODY] * 1000)
        async for _ in answers:
            break
        await answers.aclose()  # type: ignore[attr-defined]
        assert (await client.infer("echo", BODY)).transmissions == 1

    run(switch, appliance, use)
    assert len(appliance.infers()) < 200
    with blocking(switch, appliance) as client:
        for _ in client.infer_many("echo", [BODY] * 1000):
            break
        assert client.infer("echo", BODY).outputs["same"].tobytes() == BODY


def test_closing_fails_what_is_under_way(switch: MemorySwitch, appliance: Scripted) -> None:
    appliance.infer = lambda _: []

    async def main() -> None:
        client = AsyncNapuClient(switch.attach(), appliance.address, timeout=Timeout(request=10))
        task = asyncio.create_task(client.infer("echo", BODY))
        while not appliance.infers():
            await asyncio.sleep(0.01)
        await client.close()
        await client.close()
        with pytest.raises(ClosedError):
            await task
        with pytest.raises(ClosedError):
            await client.infer("echo", BODY)

    asyncio.run(main())


def test_asyncio_client_outside_a_loop_opens_nothing() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncNapuClient("udp:127.0.0.1:0", "127.0.0.1:9")


# ---- pace ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "credit", "most"), [(64, 4, 4), (3, 64, 3), (5, 5, 5)])
def test_no_more_is_outstanding_than_window_and_credit_allow(
    switch: MemorySwitch, appliance: Scripted, window: int, credit: int, most: int
) -> None:
    waiting: list[Pdu] = []
    seen: list[int] = []

    def infer(asked: Pdu) -> list[Pdu]:
        waiting.append(asked)
        seen.append(len(waiting))
        # What waits is answered when nobody can send more, and the last ones when the rest has come.
        if len(waiting) < most and len(seen) < 40:
            return []
        answers = [reply_to(old, old.payload[:4], credits=credit) for old in waiting]
        waiting.clear()
        return answers

    appliance.infer = lambda asked: [reply_to(asked, BODY, credits=credit)]
    with blocking(switch, appliance, Timeout(request=10), window) as client:
        client.infer("echo", BODY)  # learns its credit
        appliance.infer = infer
        assert len(list(client.infer_many("echo", [BODY] * 40))) == 40
    assert max(seen) <= most


def test_several_targets_share_the_load(switch: MemorySwitch, appliance: Scripted) -> None:
    addresses = [appliance.address]
    with Scripted(switch) as other, NapuClient(switch.attach(), [*addresses, other.address], timeout=QUICK) as client:
        answers = list(client.infer_many("echo", [bytes([index] * 4) for index in range(40)], window=10))
        assert [answer.outputs["same"].tolist() for answer in answers if isinstance(answer, Inference)] == [
            [index] * 4 for index in range(40)
        ]
        shares = [len(each.infers()) for each in (appliance, other)]
        assert min(shares) >= 10  # which of them has room when is a matter of time
        for _ in range(10):
            client.infer("echo", BODY)
        assert [len(each.infers()) for each in (appliance, other)] == [share + 5 for share in shares]


def test_inferences_of_one_turn_of_the_loop_go_out_together(switch: MemorySwitch, appliance: Scripted) -> None:
    async def use(client: AsyncNapuClient) -> None:
        await client.infer("echo", BODY)
        before = client.link.statistics().tx_frames
        tasks = [asyncio.create_task(client.infer("echo", bytes([index] * 4))) for index in range(30)]
        await asyncio.sleep(0)
        assert client.link.statistics().tx_frames == before
        await asyncio.sleep(0)
        assert client.link.statistics().tx_frames == before + 30
        answers = await asyncio.gather(*tasks)
        assert [answer.outputs["same"].tolist() for answer in answers] == [[index] * 4 for index in range(30)]

    run(switch, appliance, use, Timeout(request=10))


# ---- once, sessions and notices --------------------------------------------------------------------------------------


def test_requests_are_once_unless_asked_otherwise(switch: MemorySwitch, appliance: Scripted) -> None:
    with blocking(switch, appliance) as client:
        client.infer("echo", BODY)
        client.infer("echo", BODY, once=False)
        list(client.infer_many("echo", [BODY], options=InferOptions(once=False)))
        client.infer("echo", BODY)
    (opening,) = [asked for asked in appliance.asked if asked.opcode == OPEN]
    assert [bool(asked.flags & ONCE_FLAG) for asked in appliance.infers()] == [True, False, False, True]
    numbers = [asked.request for asked in appliance.infers() if asked.flags & ONCE_FLAG]
    assert numbers == [opening.request + 1, opening.request + 2]


def test_who_stops_waiting_says_so(switch: MemorySwitch, appliance: Scripted) -> None:
    appliance.infer = lambda _: []

    async def use(client: AsyncNapuClient) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.infer("echo", BODY), 0.05)
        answers = client.infer_many("echo", [BODY] * 100, window=3)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(answers), 0.05)
        await answers.aclose()  # type: ignore[attr-defined]

    run(switch, appliance, use, Timeout(request=10))
    assert within(2, lambda: len(appliance.notices) == 4)
    with blocking(switch, appliance, Timeout(request=0.05)) as client:
        with pytest.raises(NapuTimeoutError):
            client.infer("echo", BODY)
        assert within(2, lambda: len(appliance.notices) == 5)
        appliance.infer = lambda asked: [reply_to(asked, BODY)] if asked.payload[:4] == BODY else []
        for _ in client.infer_many("echo", [BODY, b"none", b"none", b"none"], window=4):
            break
        assert within(2, lambda: len(appliance.notices) == 8)
    assert {notice.opcode for notice in appliance.notices} == {CANCEL}
    assert {notice.request for notice in appliance.notices} <= {asked.request for asked in appliance.infers()}


def test_a_session_is_gone_on_with_by_its_ticket(switch: MemorySwitch, appliance: Scripted) -> None:
    mine = 0x020000000099
    with NapuClient(switch.attach(mine), appliance.address) as client:
        assert client.tickets() == []
        client.infer("echo", BODY)
        (ticket,) = client.tickets()
    with NapuClient(switch.attach(mine), appliance.address, resume=[ticket]) as client:
        client.infer("echo", BODY)
    assert within(2, lambda: len([asked for asked in appliance.asked if asked.opcode == CLOSE]) == 1)  # by the second
    opens = [appliance.content(asked) for asked in appliance.asked if asked.opcode == OPEN]
    assert [content.get("resume", 0) for content in opens] == [0, SESSION]
    first, second = (asked.request for asked in appliance.infers())
    assert second == first + (1 << 32)


@pytest.mark.parametrize("ticket", [b"", b"\xc1", b"\x80", b"\x07", b"\x92\x01\x00", b"\x92\xa1x\x01"])
def test_a_ticket_that_is_none_is_refused(switch: MemorySwitch, ticket: bytes) -> None:
    link = switch.attach()
    with pytest.raises(ConfigError, match="no ticket"):
        NapuClient(link, resume=[ticket])
    link.close()


def test_a_tenant_is_named_when_a_session_is_opened(switch: MemorySwitch, appliance: Scripted) -> None:
    with NapuClient(switch.attach(), appliance.address, tenant="lab") as client:
        client.infer("echo", BODY)
    (opening,) = [asked for asked in appliance.asked if asked.opcode == OPEN]
    assert appliance.content(opening)["tenant"] == "lab"
    link = switch.attach()
    with pytest.raises(ConfigError, match="at most 64"):
        NapuClient(link, tenant="x" * 65)
    link.close()


def test_a_narrow_path_is_found_out(switch: MemorySwitch, appliance: Scripted) -> None:
    appliance.mtu = 1300
    with blocking(switch, appliance, Timeout(request=10)) as client:
        assert client.infer("echo", BODY).outputs["same"].tobytes() == BODY
    assert {asked.fragment_size for asked in appliance.infers()} == {1280 - 32}


def test_a_session_that_is_lost_under_way_costs_no_answer(switch: MemorySwitch, appliance: Scripted) -> None:
    answered = itertools.count()

    def infer(asked: Pdu) -> list[Pdu]:
        if next(answered) in (30, 31, 32, 77):
            return [reply_to(asked, status=Status.UNKNOWN_SESSION)]
        return [reply_to(asked, asked.payload[:4])]

    appliance.infer = infer
    bodies = [bytes([index] * 4) for index in range(100)]
    with blocking(switch, appliance, Timeout(request=10)) as client:
        answers = list(client.infer_many("echo", bodies, window=16))
    assert [answer.outputs["same"].tobytes() for answer in answers if isinstance(answer, Inference)] == bodies
    operations = [asked for asked in appliance.asked if asked.opcode in (OPEN, CONTROL)]
    assert len([asked for asked in operations if asked.opcode == OPEN]) >= 2
    assert len([asked for asked in operations if asked.opcode == CONTROL]) >= 2  # handles are asked for anew


def test_wrong_items_take_their_own_place_only(switch: MemorySwitch, appliance: Scripted) -> None:
    items: list[Any] = [BODY, b"long one", np.array([1, 2, 3, 4], np.uint8), None, np.zeros(3, np.uint8), BODY]
    with blocking(switch, appliance) as client:
        answers = list(client.infer_many("echo", items, return_errors=True))
    assert [isinstance(answer, ConfigError) for answer in answers] == [False, True, False, True, True, False]


def test_an_answer_shows_what_it_is(switch: MemorySwitch, appliance: Scripted) -> None:
    with blocking(switch, appliance) as client:
        answer = client.infer("echo", BODY)
    assert repr(answer).startswith("Inference({'same': array([ 97,  98,  99, 100]")
    assert answer.stages_us == {}
    assert answer.appliance == appliance.address


# ---- an appliance that is not to be trusted --------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"abc", b"abcde", bytes(5000)])
def test_an_answer_of_another_size(switch: MemorySwitch, appliance: Scripted, body: bytes) -> None:
    appliance.infer = lambda asked: [reply_to(asked, body)]
    with (
        blocking(switch, appliance) as client,
        pytest.raises(RemoteProtocolError, match=f"answer of {len(body)} bytes"),
    ):
        client.infer("echo", BODY)


@pytest.mark.parametrize(
    "answer",
    [
        7,
        [],
        {},
        {"pipelines": {}},
        {"pipelines": [7]},
        {"pipelines": [{**PIPELINES["pipelines"][0], "macs": -1}]},
        {"pipelines": [{**PIPELINES["pipelines"][0], "handle": 1 << 16}]},
        {"pipelines": [{**PIPELINES["pipelines"][0], "outputs": [{"name": "x", "dtype": "object", "shape": []}]}]},
        {"pipelines": [{**PIPELINES["pipelines"][0], "outputs": [{"name": "x", "dtype": "int8", "shape": [1 << 40]}]}]},
    ],
)
def test_a_listing_that_is_none(switch: MemorySwitch, appliance: Scripted, answer: Any) -> None:
    appliance.control["pipelines"] = answer
    with blocking(switch, appliance) as client, pytest.raises(RemoteProtocolError):
        client.infer("echo", BODY)


def test_an_announcement_that_is_none_is_passed_over(switch: MemorySwitch, appliance: Scripted) -> None:
    with Scripted(switch) as liar, NapuClient(switch.attach(), timeout=QUICK) as client:
        liar.control["identity"] = {"name": 7}
        assert [found.address for found in client.discover()] == [appliance.address]


def test_answers_by_somebody_else_are_not_believed(switch: MemorySwitch, appliance: Scripted) -> None:
    with Scripted(switch) as other, NapuClient(switch.attach(), appliance.address, timeout=QUICK) as client:
        me = client.link.address

        def infer(asked: Pdu) -> list[Pdu]:
            other.send(me, reply_to(asked, b"evil"))
            return [reply_to(asked, b"good")]

        appliance.infer = infer
        assert client.infer("echo", BODY).outputs["same"].tobytes() == b"good"


# ---- what people import ----------------------------------------------------------------------------------------------


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing() -> None:
    code = "import sys; before = set(sys.modules); import host_sdk; print(sorted(set(sys.modules) - before))"
    assert python(code).strip() == "['host_sdk']"


def test_the_clients_need_the_base_install_only() -> None:
    code = "import sys, host_sdk.client, host_sdk.aio; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    foreign = {"PIL", "ai_edge_litert", "appliance", "dpkt", "firmware", "pyroute2", "rich", "scapy", "tflite", "typer"}
    loaded = set(python(code).split())
    assert {"host_sdk", "numpy", "msgpack"} <= loaded
    assert not loaded & foreign


def test_tensors_are_arrays_of_the_described_type(switch: MemorySwitch, appliance: Scripted) -> None:
    with blocking(switch, appliance) as client:
        answer = client.infer("echo", np.array([1, 2, 3, 4], np.uint8))
        assert answer.outputs["same"].tolist() == [1, 2, 3, 4]
        assert answer.labels == ()
        assert answer.label is None
        assert answer.trailer is None


def test_a_client_that_is_closed_ends_its_session(switch: MemorySwitch, appliance: Scripted) -> None:
    with blocking(switch, appliance) as client:
        client.infer("echo", BODY)
        (session,) = {asked.session for asked in appliance.infers()}
    assert within(2, lambda: [asked.session for asked in appliance.asked if asked.opcode == CLOSE] == [session])


def test_many_at_once_ask_for_the_pipelines_once(switch: MemorySwitch, appliance: Scripted) -> None:
    with blocking(switch, appliance) as client:
        assert len(list(client.infer_many("echo", [BODY] * 50))) == 50
    assert len([asked for asked in appliance.asked if asked.opcode == CONTROL]) == 1
