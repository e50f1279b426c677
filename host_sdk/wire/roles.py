"""Who may do what: roles in their order, and what an authority grants a user."""

import re
from dataclasses import dataclass
from enum import IntEnum

import msgpack

from host_sdk.wire.errors import RemoteProtocolError
from host_sdk.wire.schema import MAX_TENANT

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}")  # of users and devices; never a path
MAX_PIPELINES = 64  # names of pipelines in a grant
MAX_RATE = 1_000_000  # requests a second
WHOLE = 100  # per cent


class Role(IntEnum):
    """What somebody may do; each may do what those below it may."""

    NOBODY = 0  # has not said who it is
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Grant:
    """What an authority grants a user; it stands in the user's certificate.

    Attributes:
        role: VIEWER, OPERATOR or ADMIN.
        tenant: On whose behalf the user's requests are made; at most MAX_TENANT bytes.
        pipelines: Names of the pipelines that the user may run; empty is all.
        rate: Requests a second; 0 is without limit.
        share: Per cent of a session's credits, 1 to 100.
    """

    role: Role
    tenant: str = ""
    pipelines: tuple[str, ...] = ()
    rate: int = 0
    share: int = WHOLE

    def encode(self) -> bytes:
        """Return the grant as the msgpack map of a certificate's extension."""
        packed: bytes = msgpack.packb(
            {
                "role": self.role.name.lower(),
                "tenant": self.tenant,
                "pipelines": list(self.pipelines),
                "rate": self.rate,
                "share": self.share,
            }
        )
        return packed

    @classmethod
    def decode(cls, data: bytes) -> "Grant":
        """Read a grant, every part of which has to be there.

        Raises:
            RemoteProtocolError: It is none.
        """
        try:
            found = msgpack.unpackb(data, max_map_len=8, max_array_len=MAX_PIPELINES, max_str_len=256)
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            raise RemoteProtocolError(f"the grant is no msgpack: {error}") from None
        if not isinstance(found, dict):
            raise RemoteProtocolError("the grant is no map")
        roles = {role.name.lower(): role for role in Role if role is not Role.NOBODY}
        role, tenant, pipelines = found.get("role"), found.get("tenant"), found.get("pipelines")
        rate, share = found.get("rate"), found.get("share")
        if not isinstance(role, str) or role not in roles:
            raise RemoteProtocolError(f"the grant's role is none of {', '.join(roles)}")
        if not isinstance(tenant, str) or len(tenant.encode("utf-8", "surrogatepass")) > MAX_TENANT:
            raise RemoteProtocolError(f"the grant's tenant is no text of at most {MAX_TENANT} bytes")
        if not isinstance(pipelines, list) or not all(isinstance(name, str) for name in pipelines):
            raise RemoteProtocolError("the grant's pipelines are no list of names")
        if type(rate) is not int or not 0 <= rate <= MAX_RATE or type(share) is not int or not 1 <= share <= WHOLE:
            raise RemoteProtocolError(f"the grant's rate is 0 to {MAX_RATE}, its share 1 to {WHOLE}")
        return cls(roles[role], tenant, tuple(pipelines), rate, share)
