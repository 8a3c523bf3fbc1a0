"""What the official vectors do not catch: docs/spec/eris.md, "Refused"."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b, shake_128

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from potsherd.crypto import eris
from potsherd.crypto.eris.decoder import BYTES_AHEAD
from potsherd.errors import (
    IntegrityError,
    LimitError,
    MalformedError,
    NotFoundError,
    PotsherdError,
    UsageError,
)

KIB = 1024
LIMIT = 1 << 30
SECRET = b"s" * 32


class Forge:
    """A slow, obvious ERIS of 1 KiB blocks that also writes trees that nobody may accept."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}
        self.asked: list[bytes] = []

    def block(self, plain: bytes, level: int, key: bytes | None = None) -> bytes:
        """Store one block and give its pair."""
        assert len(plain) == KIB
        if key is None:
            key = blake2b(plain, digest_size=32, key=b"" if level else SECRET).digest()
        nonce = bytes(4) + bytes([level]) + bytes(11)
        ciphertext = Cipher(ChaCha20(key, nonce), None).encryptor().update(plain)
        reference = blake2b(ciphertext, digest_size=32).digest()
        self.blocks[reference] = ciphertext
        return reference + key

    def leaf(self, content: bytes) -> bytes:
        return self.block(content.ljust(KIB, b"\0"), 0)

    def node(self, pairs: Sequence[bytes], level: int) -> bytes:
        return self.block(b"".join(pairs).ljust(KIB, b"\0"), level)

    def get(self, reference: bytes) -> bytes:
        self.asked.append(reference)
        return self.blocks[reference]

    def decode(self, level: int, pair: bytes, size_limit: int = LIMIT) -> bytes:
        return b"".join(eris.decode(capability(level, pair), self.get, size_limit=size_limit))


def capability(level: int, pair: bytes) -> eris.ReadCapability:
    return eris.ReadCapability(KIB, level, pair[:32], pair[32:])


def refuses(forge: Forge, level: int, pair: bytes, length: int, at: int | None = None) -> None:
    """Refused decoded whole, read at one byte (the last, or `at`), and with the length known."""
    start = length - 1 if at is None else at
    reads: list[Callable[[], bytes]] = [
        lambda: forge.decode(level, pair),
        lambda: eris.read_range(capability(level, pair), forge.get, start, 1, size_limit=LIMIT),
        lambda: known_length(forge, level, pair, length),
    ]
    for read in reads:
        with pytest.raises(MalformedError):
            read()
    with pytest.raises(PotsherdError):  # where pairs are missing, their blocks are
        located(forge, level, pair, length)


def located(forge: Forge, level: int, pair: bytes, length: int) -> bytes:
    """By arithmetic: the blocks are found by walking down naively, as deep as there are pairs."""
    blocks: dict[tuple[int, int], bytes] = {}

    def walk(at: int, index: int, found: bytes) -> None:
        ciphertext = forge.blocks.get(found[:32])
        if ciphertext is None:
            return
        blocks[at, index] = ciphertext
        if at:
            nonce = bytes(4) + bytes([at]) + bytes(11)
            plain = Cipher(ChaCha20(found[32:], nonce), None).encryptor().update(ciphertext)
            for number in range(16):
                walk(at - 1, index * 16 + number, plain[64 * number : 64 * number + 64])

    walk(level, 0, pair)
    return eris.decode_blocks(capability(level, pair), length, blocks)


def known_length(forge: Forge, level: int, pair: bytes, length: int) -> bytes:
    decoder = eris.Decoder(capability(level, pair), size_limit=LIMIT, content_length=length)
    pieces = []
    while not decoder.finished:
        for want in decoder.wants():
            decoder.supply(want, forge.get(want.reference))
        pieces += [bytes(piece) for piece in decoder.plaintext()]
    return b"".join(pieces)


FULL = b"f" * KIB
END = b"end\x80"


def test_the_forge_writes_eris() -> None:
    """The control: what the forge writes by the rules is what the encoder writes, and is read."""
    forge = Forge()
    pairs = [forge.leaf(FULL)] * 16
    left = forge.node(pairs, 1)
    right = forge.node([forge.leaf(END)], 1)
    root = forge.node([left, right], 2)
    content = FULL * 16 + b"end"
    assert forge.decode(2, root) == content
    assert known_length(forge, 2, root, len(content)) == content
    assert located(forge, 2, root, len(content)) == content
    encoded = eris.encode_many([content], convergence_secret=SECRET)[0]
    assert encoded.capability == capability(2, root)


@pytest.mark.parametrize("last", [b"", b"x", b"x\x80y", b"\x80\x01", b"\x81", b"en\x80d"])
def test_a_last_leaf_without_padding(last: bytes) -> None:
    """All zeros: some decoders take everything away and find no 0x80 to complain about."""
    forge = Forge()
    with pytest.raises(MalformedError, match="padding"):
        forge.decode(0, forge.leaf(last))
    root = forge.node([forge.leaf(FULL), forge.leaf(last)], 1)
    for length in (KIB + 1, KIB + 2):
        refuses(forge, 1, root, length, at=KIB)


def test_a_left_child_that_is_not_full() -> None:
    forge = Forge()
    short = forge.node([forge.leaf(FULL)] * 15, 1)
    root = forge.node([short, forge.node([forge.leaf(END)], 1)], 2)
    refuses(forge, 2, root, 15 * KIB + 3)


def test_a_useless_level_with_one_child() -> None:
    forge = Forge()
    inner = forge.node([forge.leaf(FULL), forge.leaf(END)], 1)
    refuses(forge, 2, forge.node([inner], 2), KIB + 3)
    refuses(forge, 1, forge.node([forge.leaf(END)], 1), 3)


def test_an_empty_node() -> None:
    forge = Forge()
    refuses(forge, 1, forge.block(bytes(KIB), 1), KIB)


def test_something_behind_the_last_child() -> None:
    """Vector 24 holds random bytes; here a whole valid pair follows a pair of zeros."""
    forge = Forge()
    leaf = forge.leaf(FULL)
    refuses(forge, 1, forge.node([leaf, leaf, bytes(64), forge.leaf(END)], 1), 2 * KIB)
    refuses(forge, 1, forge.node([leaf, forge.leaf(END), bytes(64), bytes(63) + b"\1"], 1), KIB + 3)


def test_the_root_key_is_checked() -> None:
    forge = Forge()
    plain = b"".join([forge.leaf(FULL), forge.leaf(END)]).ljust(KIB, b"\0")
    root = forge.block(plain, 1, key=b"k" * 32)
    with pytest.raises(MalformedError, match="key"):
        forge.decode(1, root)
    refuses(forge, 1, root, KIB + 3)


def test_the_keys_of_inner_nodes_are_checked() -> None:
    forge = Forge()
    plain = b"".join([forge.leaf(FULL)] * 16)
    left = forge.block(plain, 1, key=b"k" * 32)
    refuses(forge, 2, forge.node([left, forge.node([forge.leaf(END)], 1)], 2), 16 * KIB + 3, at=0)


def test_expansion_bomb_is_refused_before_it_expands() -> None:
    """Three blocks that pretend to be 4 MiB, and a level that cannot fit."""
    forge = Forge()
    pair = forge.leaf(FULL)
    for level in (1, 2, 3):
        pair = forge.node([pair] * 16, level)
    with pytest.raises(LimitError):
        forge.decode(3, pair, size_limit=KIB**2)
    assert len(forge.asked) == 1  # the root's children are counted, nothing else is asked for
    forge.asked.clear()
    with pytest.raises(LimitError):
        forge.decode(3, pair, size_limit=200 * KIB)
    with pytest.raises(LimitError):
        forge.decode(255, pair)
    assert not forge.asked


def test_a_bomb_under_the_limit_streams_and_ends_in_its_missing_padding() -> None:
    forge = Forge()
    pair = forge.leaf(FULL)
    for level in (1, 2):
        pair = forge.node([pair] * 16, level)
    pieces = eris.decode(capability(2, pair), forge.get, size_limit=KIB**2)
    with pytest.raises(MalformedError, match="padding"):
        for piece in pieces:
            assert set(piece) == {ord("f")}


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 16 * KIB - 1, 16 * KIB, 20_000])
def test_the_limit_is_exact(length: int) -> None:
    encoded = eris.encode_many([bytes(length)], convergence_secret=SECRET)[0]
    get = store(encoded).__getitem__
    assert b"".join(eris.decode(encoded.capability, get, size_limit=length)) == bytes(length)
    if length:
        with pytest.raises(LimitError):
            b"".join(eris.decode(encoded.capability, get, size_limit=length - 1))


def store(encoded: eris.Encoded) -> dict[bytes, bytes]:
    size = encoded.capability.block_size
    return {
        encoded.references[32 * i : 32 * i + 32]: encoded.blocks[size * i : size * i + size]
        for i in range(len(encoded.references) // 32)
    }


def pattern(length: int) -> bytes:
    """No two blocks alike."""
    return b"".join([number.to_bytes(8, "big") for number in range(length // 8 + 1)])[:length]


@pytest.fixture(scope="module")
def sample() -> tuple[bytes, eris.Encoded]:
    content = pattern(40 * KIB + 17)
    return content, eris.encode_many([content], convergence_secret=SECRET)[0]


def test_a_changed_byte_anywhere_never_gives_wrong_plaintext(
    sample: tuple[bytes, eris.Encoded],
) -> None:
    """Whatever comes out before the error is right, by streaming and by arithmetic."""
    content, encoded = sample
    for block in range(len(encoded.references) // 32):
        blocks = bytearray(encoded.blocks)
        blocks[block * KIB + block * 7] ^= 1
        with pytest.raises(IntegrityError):
            eris.decode_postorder(encoded.capability, len(content), blocks)
        damaged = dict(zip(store(encoded), store(encoded._replace(blocks=bytes(blocks))).values()))  # noqa: B905 (same length)
        given = bytearray()
        with pytest.raises(IntegrityError):
            for piece in eris.decode(encoded.capability, damaged.__getitem__, size_limit=LIMIT):
                given += piece
        assert content.startswith(given)


def test_a_missing_block_is_another_error(sample: tuple[bytes, eris.Encoded]) -> None:
    content, encoded = sample
    for reference in store(encoded):
        rest = store(encoded)
        del rest[reference]
        with pytest.raises(NotFoundError):
            b"".join(eris.decode(encoded.capability, rest.__getitem__, size_limit=LIMIT))
    with pytest.raises(NotFoundError):
        eris.decode_blocks(encoded.capability, len(content), {})


def test_a_block_of_the_wrong_size_is_refused(sample: tuple[bytes, eris.Encoded]) -> None:
    content, encoded = sample
    for bad in (b"", b"x", encoded.blocks[: KIB - 1], encoded.blocks[: 2 * KIB]):
        with pytest.raises(IntegrityError):
            next(eris.decode(encoded.capability, lambda _, bad=bad: bad, size_limit=LIMIT))  # type: ignore[misc] # the default binds `bad`
    with pytest.raises(IntegrityError):
        eris.decode_postorder(encoded.capability, len(content), encoded.blocks[:-1])
    with pytest.raises(IntegrityError):
        eris.decode_postorder(encoded.capability, len(content), encoded.blocks + bytes(KIB))


def test_another_content_length_is_refused(sample: tuple[bytes, eris.Encoded]) -> None:
    """Neighbouring lengths have the same tree: the padding decides."""
    content, encoded = sample
    for length in (len(content) - 1, len(content) + 1):
        with pytest.raises(MalformedError):
            eris.decode_postorder(encoded.capability, length, encoded.blocks)
        with pytest.raises(MalformedError):
            decode_known(encoded, length)
    for length in (len(content) - KIB, len(content) + KIB):
        with pytest.raises(PotsherdError):
            eris.decode_postorder(encoded.capability, length, encoded.blocks)
        with pytest.raises(MalformedError):
            decode_known(encoded, length)
    with pytest.raises(MalformedError, match="levels"):
        eris.decode_postorder(encoded.capability, 10, encoded.blocks)
    assert decode_known(encoded, len(content)) == content


def decode_known(encoded: eris.Encoded, length: int) -> bytes:
    forge = Forge()
    forge.blocks = store(encoded)
    root = encoded.capability
    return known_length(forge, root.level, root.root_reference + root.root_key, length)


def test_a_range_needs_only_its_own_blocks(sample: tuple[bytes, eris.Encoded]) -> None:
    content, encoded = sample
    shape = eris.shape_of(encoded.capability, len(content))
    forge = Forge()
    forge.blocks = store(encoded)
    got = eris.read_range(encoded.capability, forge.get, 18 * KIB - 1, 2, size_limit=LIMIT)
    assert got == content[18 * KIB - 1 : 18 * KIB + 1]
    needed = shape.blocks_of_range(18 * KIB - 1, 2)
    places = [32 * shape.position(level, index) for level, index in needed]
    assert sorted(forge.asked) == sorted(encoded.references[at : at + 32] for at in places)


def test_ranges_at_the_edges(sample: tuple[bytes, eris.Encoded]) -> None:
    content, encoded = sample
    get, end = store(encoded).__getitem__, len(content)
    for start in (0, 1, KIB - 1, KIB, 16 * KIB - 1, 16 * KIB, end - 18, end - 17, end - 1, end):
        for length in (0, 1, KIB, KIB + 1, end, 10 * end):
            got = eris.read_range(encoded.capability, get, start, length, size_limit=LIMIT)
            assert got == content[start : start + length]
    assert eris.read_range(encoded.capability, get, end + 10 * KIB, 5, size_limit=LIMIT) == b""
    for bad in ((-1, 5), (0, -1)):
        with pytest.raises(UsageError):
            eris.read_range(encoded.capability, get, *bad, size_limit=LIMIT)


def test_a_decoder_wants_and_keeps_a_bounded_number_of_blocks() -> None:
    """Blocks that come in the wrong order are kept, and no more is wanted meanwhile."""
    content = pattern(3 * BYTES_AHEAD)
    encoded = eris.encode_many([content], convergence_secret=SECRET)[0]
    blocks = store(encoded)
    decoder = eris.Decoder(encoded.capability, size_limit=LIMIT)
    outstanding: list[eris.Want] = []
    kept = 0
    given = bytearray()
    while not decoder.finished:
        outstanding += decoder.wants()
        assert (len(outstanding) + kept) * KIB <= BYTES_AHEAD
        want = outstanding.pop()
        decoder.supply(want, blocks[want.reference])
        kept += want.level == 0
        pieces = decoder.plaintext()
        given += b"".join(pieces)
        if pieces or not outstanding:
            kept = 0
    assert given == content


def test_the_window_holds_when_inner_nodes_come_in_the_wrong_order() -> None:
    """The children of a late node stand before those of an early one, and would push them out."""
    content = shake_128(b"window").digest(33 << 20)
    encoded = eris.encode_many([content], convergence_secret=SECRET, block_size=32 * KIB)[0]
    blocks = store(encoded)
    decoder = eris.Decoder(encoded.capability, size_limit=LIMIT)
    (root,) = decoder.wants()
    decoder.supply(root, blocks[root.reference])
    first, second = decoder.wants()
    assert (first.level, second.level) == (1, 1)
    leaves = 0
    for node in (second, first):
        decoder.supply(node, blocks[node.reference])
        leaves += sum(want.level == 0 for want in decoder.wants())
    assert leaves * 32 * KIB == BYTES_AHEAD


def test_unwanted_and_late_blocks_are_ignored(sample: tuple[bytes, eris.Encoded]) -> None:
    content, encoded = sample
    decoder = eris.Decoder(encoded.capability, size_limit=LIMIT)
    blocks = store(encoded)
    (root,) = decoder.wants()
    assert decoder.wants() == []
    decoder.supply(b"r" * 32, b"nobody asked")
    with pytest.raises(IntegrityError):
        decoder.supply(root, bytes(KIB))
    decoder.supply(root, blocks[root.reference])
    decoder.supply(root, bytes(KIB))  # a second answer to a hedged request
    given = bytearray()
    while not decoder.finished:
        for want in decoder.wants():
            decoder.supply(want.reference, blocks[want.reference], verified=True)
        given += b"".join(decoder.plaintext())
    assert given == content


def test_equal_leaves_are_wanted_once_at_a_time() -> None:
    encoded = eris.encode_many([bytes(10 * KIB)], convergence_secret=SECRET)[0]
    decoder = eris.Decoder(encoded.capability, size_limit=LIMIT)
    blocks = store(encoded)
    decoder.supply(decoder.wants()[0], blocks[encoded.capability.root_reference])
    assert [want.index for want in decoder.wants()] == [0, 10]


def test_capabilities_that_are_spelt_differently() -> None:
    encoded = eris.encode_many([b"x"], convergence_secret=SECRET)[0]
    good = encoded.capability
    assert eris.ReadCapability.from_urn(good.urn) == good
    assert eris.ReadCapability.from_bytes(good.to_bytes()) == good
    last = good.urn[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    spare = [alphabet[(alphabet.index(last) & ~3) + i] for i in range(4)]
    spellings = {
        *(good.urn[:-1] + other for other in spare if other != last),
        good.urn.lower(),
        good.urn.upper(),
        good.urn + "=",
        good.urn + "\n",
        " " + good.urn,
        good.urn[:-1],
        good.urn.removeprefix("urn:"),
        good.urn.replace("urn:eris:", "urn:eris:urn:eris:"),
        good.urn[:-1] + "1",
        good.urn[:-1] + "é",
        good.urn.replace("BIA", "CIA", 1),
        "",
    }
    raw = base64.b32decode(good.urn[9:] + "======")
    same = {base64.b32decode(good.urn[9:-1] + other + "======") for other in spare}
    assert same == {raw}  # the reason for the check
    for spelling in spellings:
        with pytest.raises(MalformedError):
            eris.ReadCapability.from_urn(spelling)
    for data in (b"", raw[:-1], raw + b"\0", b"\x0b" + raw[1:]):
        with pytest.raises(MalformedError):
            eris.ReadCapability.from_bytes(data)


def test_repr_shows_no_key_and_no_urn() -> None:
    encoded = eris.encode_many([b"x"], convergence_secret=SECRET)[0]
    shown = repr(encoded.capability) + str(encoded.capability)
    for secret in (encoded.capability.root_key, encoded.capability.root_reference):
        assert secret.hex() not in shown
        assert str(secret)[2:-1] not in shown
    assert encoded.capability.urn[:30] not in shown


def test_wrong_calls() -> None:
    for bad in (b"", b"x" * 31, b"x" * 33):
        with pytest.raises(UsageError):
            eris.encode_many([b""], convergence_secret=bad)
    for size in (0, 512, 2048):
        with pytest.raises(UsageError):
            eris.Encoder(SECRET, size)
    encoder = eris.Encoder(SECRET, KIB)
    encoder.finish()
    with pytest.raises(UsageError):
        encoder.feed(b"x")
    with pytest.raises(UsageError):
        encoder.finish()


def keystream(name: str, length: int, step: int = 1 << 20) -> Iterator[bytes]:
    """Content of the official large streams: ChaCha20 under the hash of the stream's name."""
    key = blake2b(name.encode(), digest_size=32).digest()
    stream = Cipher(ChaCha20(key, bytes(16)), None).encryptor()
    for at in range(0, length, step):
        yield stream.update(bytes(min(step, length - at)))


@pytest.mark.slow
def test_official_stream_of_100_mib() -> None:
    name = "100MiB (block size 1KiB)"
    encoder = eris.Encoder(eris.NULL_SECRET, KIB)
    for piece in keystream(name, 100 << 20):
        encoder.feed(piece)
    assert encoder.finish()[1].urn == (
        "urn:eris:BIC6F5EKY2PMXS2VNOKPD3AJGKTQBD3EXSCSLZIENXAXBM7PCTH2TCMF5OKJWAN36N4DFO6JPFZBR3MS7ECO"
        "GDYDERIJJ4N5KAQSZS67YY"
    )


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1024, 32768])
def test_a_stream_of_many_batches_and_levels(block_size: int) -> None:
    """4 MiB + 1 (1 KiB: five levels) and 17 MiB (32 KiB: three), in pieces of odd size."""
    length = (4 << 20) + 1 if block_size == KIB else 17 << 20
    content = b"".join(keystream("reduced", length))
    encoder = eris.Encoder(SECRET, block_size)
    batches = []
    for at in range(0, length, 700_001):
        batches += encoder.feed(content[at : at + 700_001])
    last, root = encoder.finish()
    batches += last
    blocks = b"".join([batch.blocks for batch in batches])
    assert [batch.first for batch in batches] == [
        sum(len(before.blocks) for before in batches[:i]) // block_size for i in range(len(batches))
    ]
    assert eris.default_backend().references(blocks, block_size) == b"".join(
        [batch.references for batch in batches]
    )
    assert root == eris.encode(
        content, convergence_secret=SECRET, block_size=block_size, put_block=lambda _, __: None
    )
    assert eris.decode_postorder(root, length, blocks) == content
