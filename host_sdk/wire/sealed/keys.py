"""The keys that frames are sealed with: a pair for each grant, one key for each direction."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from host_sdk.wire.links.base import SEALED_PEER
from host_sdk.wire.schema import SEAL_FRAMES
from host_sdk.wire.sealed.window import ReplayWindow

LABEL = "EXPORTER-nip-seal-"  # and the key's number, 16 hexadecimal digits
KEY_SIZE = 16  # AES-128
IV_SIZE = 12
MATERIAL_SIZE = 2 * (KEY_SIZE + IV_SIZE)  # requester's key and IV, responder's key and IV
WHOLE = 100  # per cent


def label_of(number: int) -> bytes:
    """Return the label by which both ends of a secure stream export the material of a key."""
    return f"{LABEL}{number:016x}".encode()


class _Direction:
    """One key of a pair."""

    __slots__ = ("_iv", "aead")

    def __init__(self, material: bytes) -> None:
        self.aead = AESGCM(material[:KEY_SIZE])
        self._iv = int.from_bytes(material[KEY_SIZE : KEY_SIZE + IV_SIZE], "big")

    def nonce(self, sequence: int) -> bytes:
        """Return the nonce of a frame: the IV, with the sequence exclusive-or'ed into its end."""
        return (self._iv ^ sequence).to_bytes(IV_SIZE, "big")


class SealKey:
    """A pair of keys between one requester and one responder, as one of them has it.

    Args:
        number: What frames name it by, 1 to 2^63 - 1.
        peer: The other end's address; frames from elsewhere do not count.
        material: MATERIAL_SIZE bytes, from the exporter of the stream over which it was granted.
        responder: Whether this end is the responder.
        expires_ns: Until when it is in force, on this end's clock.
        share: Per cent of the credits in replies that are left when they are sealed.

    Attributes:
        window: Of what was received.
        sequence: The last that was used in sending.
        used_ns: When a frame was opened last.
    """

    def __init__(
        self, number: int, peer: int, material: bytes, *, responder: bool, expires_ns: int, share: int = WHOLE
    ) -> None:
        if not 0 < number < SEALED_PEER or len(material) != MATERIAL_SIZE:
            raise ValueError(f"key {number:#x} with {len(material)} bytes of material")
        self.number, self.peer, self.expires_ns, self.share = number, peer, expires_ns, share
        requester, answers = (_Direction(material[at:]) for at in (0, MATERIAL_SIZE // 2))
        self._in, self._out = (requester, answers) if responder else (answers, requester)
        self.window = ReplayWindow()
        self.sequence = 0
        self.used_ns = 0

    @property
    def virtual_peer(self) -> int:
        """The peer key under which the other end's sealed frames are handed over."""
        return SEALED_PEER | self.number

    @property
    def spent(self) -> int:
        """The furthest that either direction has come, of SEAL_FRAMES."""
        return max(self.sequence, self.window.highest)

    def draw(self, count: int) -> range:
        """Return sequences for up to ``count`` frames to send: fewer, or none, at the end of the key."""
        begin = self.sequence + 1
        self.sequence = min(self.sequence + count, SEAL_FRAMES)
        return range(begin, self.sequence + 1)

    def seal(self, frames: list[tuple[int, memoryview, memoryview, memoryview]]) -> None:
        """Encrypt fragments.

        Args:
            frames: Of each its sequence, its fragment, the header and seal before it, and where ciphertext and tag go.
        """
        encrypt, nonce = self._out.aead.encrypt_into, self._out.nonce
        for sequence, plain, clear, out in frames:
            encrypt(nonce(sequence), plain, clear, out)

    def open(self, frames: list[tuple[int, memoryview, memoryview, memoryview]]) -> list[int]:
        """Decrypt fragments; return the places in the list of those that are not authentic.

        Args:
            frames: Of each its sequence, ciphertext and tag, header and seal before it, and where the fragment goes.
        """
        decrypt, nonce, bad = self._in.aead.decrypt_into, self._in.nonce, []
        for place, (sequence, cipher, clear, out) in enumerate(frames):
            try:
                decrypt(nonce(sequence), cipher, clear, out)
            except InvalidTag:
                bad.append(place)
        return bad


class KeyRing:
    """The keys that one end has, by their numbers."""

    def __init__(self) -> None:
        self._keys: dict[int, SealKey] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: SealKey) -> None:
        """Put a key into force."""
        self._keys[key.number] = key

    def get(self, number: int) -> SealKey | None:
        """Return a key; also one whose time is over, which its owner has not removed yet."""
        return self._keys.get(number)

    def remove(self, number: int) -> None:
        """Forget a key; one that is not there is no error."""
        self._keys.pop(number, None)

    def all(self) -> list[SealKey]:
        """Return all keys."""
        return list(self._keys.values())
