"""Whom the firmware runs as, where the node may choose: a user who owns nothing."""

import pwd
from typing import NamedTuple

from host_sdk.wire.errors import ConfigError

_LARGEST = 2**32 - 2  # 2**32 - 1 means "leave it as it is" to the kernel


class User(NamedTuple):
    """A user id and a group id."""

    uid: int
    gid: int


NOBODY = User(65534, 65534)


def find_user(text: str) -> User:
    """Return the user of a name, or of ``UID:GID``.

    Raises:
        ConfigError: There is no such user, or it is root.
    """
    uid, colon, gid = text.partition(":")
    if colon and uid.isdecimal() and gid.isdecimal() and max(int(uid[:11]), int(gid[:11])) <= _LARGEST:
        user = User(int(uid[:11]), int(gid[:11]))
    else:
        try:
            entry = pwd.getpwnam(text)
        except (KeyError, ValueError):
            raise ConfigError(f"no user is called {text!r}; give a name, or UID:GID as numbers") from None
        user = User(entry.pw_uid, entry.pw_gid)
    if user.uid == 0 or user.gid == 0:
        raise ConfigError(
            f"the firmware must not run as root or in root's group, as with {text!r}; choose another user"
        )
    return user
