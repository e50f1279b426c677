"""Inferences of a cluster on their way: submitted by the batch, moved, sent twice, and each told what became of it."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from host_sdk.cluster.retry import RETRY_RULES, Cause, Verdict, cause_of
from host_sdk.operations import InferOptions
from host_sdk.results import Inference
from host_sdk.streams import SEQUENCE_BITS, Data, Plan, encode_inputs
from host_sdk.wire.errors import (
    BusyError,
    DeadlineExceededError,
    NapuError,
    NapuTimeoutError,
    RemoteProtocolError,
    StatusError,
    UncertainError,
)
from host_sdk.wire.exchange.answers import Answers
from host_sdk.wire.message import encode_extensions

if TYPE_CHECKING:
    from host_sdk.cluster.core import ClusterCore
    from host_sdk.cluster.members import Member

# That a deadline is not shortened for, as alike headers are written together; and in which nothing is sent any more.
_MOMENT_NS = 1_000_000
_MOST_OLD = 4096  # chunks that may yet be sent twice
_PAUSE_NS = 20_000_000  # before the same appliance is asked again, where it does not say


@dataclass(slots=True, eq=False)
class _Chunk:
    """Items that were submitted together to one member.

    Attributes:
        begun: When the caller submitted them, in ns.
        expires: When the caller's time is over.
        route: Peer key that they went to.
    """

    member: "Member"
    plan: Plan
    route: int
    items: Sequence[Data]
    sequence: Sequence[int]
    begun: int
    expires: int

    def item(self, number: int) -> Data:
        return self.items[self.sequence.index(number)]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An item that waits for a member that can take it.

    Attributes:
        due: When it may go to any member but the one that it comes from, in ns.
        due_there: When it may go to that one as well.
        last: What became of it there; None where it was nowhere yet.
    """

    number: int
    item: Data
    begun: int
    expires: int
    due: int = 0
    due_there: int = 0
    avoid: "Member | None" = None
    last: NapuError | None = None


class ClusterStream:
    """Inferences with the same pipeline and options, numbered in the order of their submission.

    Args:
        core: The cluster.
        number: Its own.
        name: The pipeline's.
        options: How each is asked for.

    Attributes:
        results: By sequence number, what has become of items and was not taken yet.

    Raises:
        ConfigError: An option is out of range.
    """

    def __init__(self, core: "ClusterCore", number: int, name: str, options: InferOptions) -> None:
        options.header(0)
        self._block = encode_extensions(options.extensions) if options.extensions else b""
        self.name = name
        self.results: dict[int, Inference | NapuError] = {}
        self._core, self._options, self._hedges = core, options, core.policy.hedges
        self._base = number << SEQUENCE_BITS
        self._following = 0
        self._plans: dict[int, Plan] = {}
        self._chunks: dict[int, _Chunk] = {}  # of what is under way, by sequence number
        self._twins: dict[int, _Chunk] = {}  # second copies
        self._waiting: list[_Waiting] = []
        self._order: deque[_Chunk] = deque(maxlen=_MOST_OLD)  # those that may yet be sent twice, the oldest first

    def __len__(self) -> int:
        return len(self._chunks) + len(self._waiting) + len(self.results)

    @property
    def waiting(self) -> bool:
        """Whether there are items that no member has."""
        return bool(self._waiting)

    def number(self) -> int:
        """Return the sequence number of the next item."""
        self._following += 1
        return self._following - 1

    def submit(self, items: Sequence[Data], sequence: Sequence[int]) -> None:
        """Submit items under their numbers, spread over the members; what cannot be sent yet waits."""
        now = self._core.now()
        self._core.earn(len(items))
        ready = self._core.ready(self.name)
        calm = [member for member in ready if member.busy_until <= now]
        self._spread(items, sequence, now, now + self._core.timeout_ns, calm or ready)

    def take(self, number: int, answers: Answers, row: int) -> None:
        """Take what became of one item."""
        chunk = self._chunks.pop(number, None)
        if chunk is not None and number in self._twins:
            chunk = self._decide(number, chunk, answers)
        if chunk is None:
            return
        if answers.error is not None:
            self._failed(number, chunk, answers, answers.error)
            return
        plan = chunk.plan
        size, right = answers.bodies.shape[1], plan.layout.size
        if size == right:
            self.results[number] = Inference(plan.layout, plan.address, answers, row)
        else:
            self.results[number] = RemoteProtocolError(f"answer of {size} bytes; its tensors have {right}")
        if self._hedges:
            self._core.took(self._core.now() - chunk.begun)

    def cancel(self, number: int) -> None:
        """Give one item up; whoever has it is told at the next flush."""
        self.results.pop(number, None)
        self._waiting = [each for each in self._waiting if each.number != number]
        self._twins.pop(number, None)
        if self._chunks.pop(number, None):
            self._core.engine.cancel(self._base + number)

    def cancel_all(self) -> None:
        """Give every item up."""
        for number in list(self._chunks):
            self.cancel(number)
        self._waiting.clear()
        self._order.clear()
        self.results.clear()

    # ---- on the way out ------------------------------------------------------------------------------------------

    def _spread(
        self, items: Sequence[Data], sequence: Sequence[int], begun: int, expires: int, members: "Sequence[Member]"
    ) -> None:
        if not members:
            self._waiting.extend(
                _Waiting(number, item, begun, expires) for number, item in zip(sequence, items, strict=True)
            )
            self._core.wake()
            return
        begin = 0
        for member, count in self._core.share(members, len(items)):
            end = begin + count
            self._submit_to(member, items[begin:end], sequence[begin:end], begun, expires)
            begin = end

    def _submit_to(
        self, member: "Member", items: Sequence[Data], sequence: Sequence[int], begun: int, expires: int
    ) -> None:
        plan, route = self._plan(member)
        chunk = _Chunk(member, plan, route, items, sequence, begun, expires)
        try:
            self._send(chunk)
        except NapuError as error:
            if len(items) == 1:
                self.results[sequence[0]] = error
                return
            for number, item in zip(sequence, items, strict=True):
                self._submit_to(member, [item], [number], begun, expires)
            return
        self._chunks.update(dict.fromkeys(sequence, chunk))
        if self._hedges:
            self._order.append(chunk)
            self._core.wake_at(self._hedge_at(chunk))

    def _plan(self, member: "Member") -> tuple[Plan, int]:
        """Return how a member is asked that is ready, and where."""
        pipeline, route = self._core.served(member, self.name)
        plan = self._plans.get(member.peer)
        if plan is None or plan.pipeline is not pipeline:
            header = self._options.header(pipeline.handle)
            plan = self._plans[member.peer] = Plan(member.peer, member.appliance.address, pipeline, header)
        return plan, route

    def _send(self, chunk: _Chunk) -> None:
        bodies: NDArray[np.uint8] | list[bytes] = encode_inputs(chunk.plan.pipeline, chunk.items)
        if self._block:
            bodies = [self._block + bytes(body) for body in bodies]
        tokens = np.array(chunk.sequence, np.int64)
        tokens += self._base
        now, header = self._core.now(), chunk.plan.header
        if header.deadline and now - chunk.begun >= _MOMENT_NS:
            left = header.deadline - (now - chunk.begun) // 1000
            if left < 1:
                raise DeadlineExceededError("it passed while no appliance could take the request")
            header = replace(header, deadline=left)
        self._core.engine.infer(chunk.route, header, bodies, tokens, max(1, chunk.expires - now))

    # ---- on the way back -----------------------------------------------------------------------------------------

    def _failed(self, number: int, chunk: _Chunk, answers: Answers, error: NapuError) -> None:
        """Do what the table says about an item that was not answered well."""
        core, transmissions = self._core, int(answers.transmissions[0])
        cause = cause_of(error, replied=answers.replied, transmissions=transmissions, once=self._options.once)
        verdict = RETRY_RULES[cause]
        if verdict is Verdict.MOVE_UNLESS_STRICT and core.policy.strict:
            core.tally.uncertain += 1
            uncertain = isinstance(error, UncertainError)
            self.results[number] = error if uncertain else UncertainError(str(chunk.member), str(error))
            return
        if verdict is Verdict.END:
            self.results[number] = error
            return
        if verdict is Verdict.LEARN_AND_MOVE:
            core.doubt(chunk.member, chunk.plan.pipeline)
        now, pause = core.now(), _PAUSE_NS
        if isinstance(error, StatusError):
            pause = round(error.retry_after_s * 1e9) or pause
        if cause is Cause.BUSY:
            chunk.member.busy_until = now + pause
        at_once = cause is Cause.NEVER_SENT or core.retries.spend(now)
        core.tally.moved += 1
        core.tally.delayed += not at_once
        self._waiting.append(
            _Waiting(
                number,
                chunk.item(number),
                chunk.begun,
                chunk.expires,
                due=0 if at_once else now + pause,
                due_there=now + pause if cause is not Cause.NEVER_SENT else 0,
                avoid=chunk.member,
                last=error if isinstance(error, BusyError) else None,
            )
        )
        core.wake()

    def pass_time(self, now: int) -> None:
        """Submit what waits and may go now, end what has waited too long, and send second copies."""
        if self._waiting:
            self._go_on(now)
        while self._order and (at := self._hedge_at(self._order[0])) is not None and at <= now:
            self._hedge(self._order.popleft(), now)
        if self._order:
            self._core.wake_at(self._hedge_at(self._order[0]))

    def _go_on(self, now: int) -> None:
        waiting, self._waiting = self._waiting, []
        groups: dict[tuple[int, int, Member | None], list[_Waiting]] = {}
        ready, settling = self._core.ready(self.name), self._core.settling(now)
        calm = [member for member in ready if member.busy_until <= now]
        hopeless = None if ready else self._core.hopeless(self.name)
        for each in waiting:
            avoid = each.avoid if now < each.due_there else None
            if each.expires - now < _MOMENT_NS or hopeless:
                self.results[each.number] = each.last or hopeless or self._over(each)
            elif now < each.due or not any(member is not avoid for member in calm) or (settling and not each.avoid):
                self._waiting.append(each)
            else:
                groups.setdefault((each.begun, each.expires, avoid), []).append(each)
        for (begun, expires, avoid), group in groups.items():
            self._spread(
                [each.item for each in group],
                [each.number for each in group],
                begun,
                expires,
                [member for member in calm if member is not avoid],
            )

    def _over(self, waiting: _Waiting) -> NapuError:
        seconds = (waiting.expires - waiting.begun) / 1e9
        return NapuTimeoutError(f"no answer within {seconds:g} s: {self._core.shortage(self.name)}")

    # ---- second copies -------------------------------------------------------------------------------------------

    def _hedge_at(self, chunk: _Chunk) -> int | None:
        after = self._core.hedge_after_ns
        return None if after is None else chunk.begun + after

    def _hedge(self, chunk: _Chunk, now: int) -> None:
        """Send what of a chunk has no answer yet to another member as well."""
        for number in chunk.sequence:
            if self._chunks.get(number) is not chunk or number in self._twins:
                continue
            others = [member for member in self._core.ready(self.name) if member is not chunk.member]
            members = [member for member in others if member.busy_until <= now]
            if not members or not self._core.hedges.spend(now):
                return
            ((member, _),) = self._core.share(members, 1)
            plan, route = self._plan(member)
            twin = _Chunk(member, plan, route, [chunk.item(number)], [number], chunk.begun, chunk.expires)
            try:
                self._send(twin)
            except NapuError:
                return  # the first copy goes on, and says what is wrong if there is anything
            self._twins[number] = twin
            self._core.tally.hedged += 1

    def _decide(self, number: int, chunk: _Chunk, answers: Answers) -> _Chunk | None:
        """Take news of one of two copies; return that copy if it is answered, None where it is left to the other."""
        twin = self._twins.pop(number)
        first = answers.peer == chunk.route
        if answers.error is None:
            self._core.tally.hedges_won += not first
            self._core.engine.cancel(self._base + number)
            return chunk if first else twin
        self._chunks[number] = twin if first else chunk
        return None
