"""What Hypothesis draws headers and messages from."""

from hypothesis import strategies as st

from host_sdk.wire.header import Header
from host_sdk.wire.message import Extension, Message, Trailer
from host_sdk.wire.schema import REPLY_BIT, STAGES, Flag


def unsigned(bits: int) -> st.SearchStrategy[int]:
    """Integers of so many bits, their edges among them."""
    return st.integers(0, (1 << bits) - 1)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    """Any header that can be encoded; its fragment need not exist."""
    opcode = draw(unsigned(8))
    reply = bool(opcode & REPLY_BIT)
    return Header(
        opcode,
        draw(unsigned(64)),
        flags=draw(unsigned(16)),
        session=draw(unsigned(32)),
        length=draw(unsigned(32)),
        pipeline=draw(unsigned(16)),
        priority=draw(unsigned(8)),
        credits=draw(unsigned(8)),
        fragment=draw(unsigned(16)),
        fragment_size=draw(unsigned(16)),
        deadline=0 if reply else draw(unsigned(32)),
        status=draw(unsigned(16)) if reply else 0,
        retry_after=draw(unsigned(16)) if reply else 0,
    )


trailers = st.builds(
    Trailer,
    st.tuples(*[unsigned(32) for _ in STAGES]),
    st.tuples(*[unsigned(32) for _ in STAGES]),
    unsigned(32),
    unsigned(16),
    unsigned(16),
    unsigned(64),
)

extensions = st.lists(st.builds(Extension, unsigned(16), st.binary(max_size=60)), max_size=6).map(tuple)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Any message that can be encoded."""
    header = draw(headers())
    flags = draw(st.sampled_from([0, int(Flag.CRC), int(Flag.TRAILER), int(Flag.CRC | Flag.TRAILER)]))
    trailer = draw(st.none() | trailers) if header.is_reply else None
    base = Header(
        header.opcode,
        header.request,
        flags,
        header.session,
        pipeline=header.pipeline,
        priority=header.priority,
        credits=header.credits,
        deadline=header.deadline,
        status=header.status,
        retry_after=header.retry_after,
    )
    return Message(base, draw(st.binary(max_size=300)), draw(extensions), trailer)
