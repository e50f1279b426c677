"""AES-128-GCM from FIPS 197 and NIST SP 800-38D, byte by byte: slow, and independent of any library."""


def _sbox() -> list[int]:
    powers, box = [1], [0x63] * 256  # 0x03 generates the field's multiplicative group
    for _ in range(254):
        powers.append(powers[-1] ^ _double(powers[-1]))
    for index, value in enumerate(powers):
        inverse, shown = powers[-index % 255], 0x63
        for turn in range(5):
            shown ^= (inverse << turn | inverse >> (8 - turn)) & 0xFF
        box[value] = shown
    return box


def _double(value: int) -> int:
    return (value << 1) ^ (0x11B if value & 0x80 else 0)


_SBOX = _sbox()


def _round_keys(key: bytes) -> list[bytes]:
    words, constant = [key[at : at + 4] for at in range(0, 16, 4)], 1
    while len(words) < 44:
        word = words[-1]
        if len(words) % 4 == 0:
            word = bytes(_SBOX[byte] for byte in word[1:] + word[:1])
            word = bytes((word[0] ^ constant, *word[1:]))
            constant = _double(constant)
        words.append(bytes(one ^ other for one, other in zip(words[-4], word, strict=True)))
    return [b"".join(words[at : at + 4]) for at in range(0, 44, 4)]


def _mix(column: bytes) -> bytes:
    one, two, three, four = column
    every = one ^ two ^ three ^ four
    pairs = ((one, two), (two, three), (three, four), (four, one))
    return bytes(own ^ every ^ _double(own ^ following) for own, following in pairs)


def aes128(key: bytes, block: bytes) -> bytes:
    """Encrypt one block."""
    keys = _round_keys(key)
    state = _xor(block, keys[0])
    for turn in range(1, 11):
        state = bytes(_SBOX[state[(at + 4 * (at % 4)) % 16]] for at in range(16))  # bytes substituted, rows shifted
        if turn < 10:
            state = b"".join(_mix(state[at : at + 4]) for at in range(0, 16, 4))
        state = _xor(state, keys[turn])
    return state


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(left ^ right for left, right in zip(one, other, strict=False))


def _multiply(one: int, other: int) -> int:
    product = 0
    for bit in range(127, -1, -1):
        if other >> bit & 1:
            product ^= one
        one = one >> 1 ^ (0xE1 << 120 if one & 1 else 0)
    return product


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def seal(key: bytes, nonce: bytes, plain: bytes, clear: bytes) -> bytes:
    """Return ciphertext and tag of ``plain``, with ``clear`` as the additional data; the nonce has 12 bytes."""
    counters = (nonce + number.to_bytes(4, "big") for number in range(2, 3 + len(plain) // 16))
    cipher = _xor(plain, b"".join(aes128(key, counter) for counter in counters))
    lengths = (8 * len(clear)).to_bytes(8, "big") + (8 * len(cipher)).to_bytes(8, "big")
    hashed, subkey = 0, int.from_bytes(aes128(key, bytes(16)), "big")
    covered = _padded(clear) + _padded(cipher) + lengths
    for at in range(0, len(covered), 16):
        hashed = _multiply(hashed ^ int.from_bytes(covered[at : at + 16], "big"), subkey)
    return cipher + _xor(hashed.to_bytes(16, "big"), aes128(key, nonce + b"\0\0\0\1"))
