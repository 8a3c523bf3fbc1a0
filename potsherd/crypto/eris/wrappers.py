"""The stable surface: encode, decode and read with two functions, `put_block` and `get_block`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from potsherd.crypto.eris.capability import REFERENCE_BYTES, ReadCapability
from potsherd.crypto.eris.decoder import Decoder
from potsherd.crypto.eris.encoder import BATCH_BYTES, Batch, Encoder
from potsherd.errors import NotFoundError
from potsherd.ports import Buffer

__all__ = ["decode", "encode", "read_range"]

PutBlock = Callable[[bytes, bytes], object]
GetBlock = Callable[[bytes], Buffer]


def encode(
    content: Buffer | BinaryIO,
    *,
    convergence_secret: bytes,
    block_size: int,
    put_block: PutBlock,
) -> ReadCapability:
    """Encode bytes or a binary file; `put_block(reference, block)` gets every block, in post-order.

    Equal blocks are put as often as they occur. Memory is flat for files.
    """
    encoder = Encoder(convergence_secret, block_size)
    for piece in _pieces(content):
        for batch in encoder.feed(piece):
            _put(batch, block_size, put_block)
    batches, capability = encoder.finish()
    for batch in batches:
        _put(batch, block_size, put_block)
    return capability


def decode(capability: ReadCapability, get_block: GetBlock, *, size_limit: int) -> Iterator[bytes]:
    """The content in verified pieces; `get_block(reference)` gives the block or raises KeyError.

    Raises NotFoundError (a block is missing), IntegrityError (other bytes than the reference says),
    MalformedError (a wrong capability or tree), LimitError (more than `size_limit` bytes).
    """
    return _run(Decoder(capability, size_limit=size_limit), get_block)


def read_range(
    capability: ReadCapability, get_block: GetBlock, start: int, length: int, *, size_limit: int
) -> bytes:
    """content[start : start+length], fetching only the blocks it needs. Raises like `decode`.

    `size_limit` bounds the whole content, not the range.
    """
    decoder = Decoder(capability, size_limit=size_limit, start=start, length=length)
    return b"".join(_run(decoder, get_block))


def _pieces(content: Buffer | BinaryIO) -> Iterator[Buffer]:
    if isinstance(content, (bytes, bytearray, memoryview)):
        view = memoryview(content).cast("B")
        for at in range(0, len(view), BATCH_BYTES):
            yield view[at : at + BATCH_BYTES]
        return
    while piece := content.read(BATCH_BYTES):
        yield piece


def _put(batch: Batch, block_size: int, put_block: PutBlock) -> None:
    blocks = memoryview(batch.blocks)
    for number in range(len(blocks) // block_size):
        reference = batch.references[number * REFERENCE_BYTES : (number + 1) * REFERENCE_BYTES]
        put_block(reference, bytes(blocks[number * block_size : (number + 1) * block_size]))


def _run(decoder: Decoder, get_block: GetBlock) -> Iterator[bytes]:
    while not decoder.finished:
        for want in decoder.wants():
            try:
                block = get_block(want.reference)
            except KeyError:
                raise NotFoundError("a block is missing") from None
            decoder.supply(want, block)
        for piece in decoder.plaintext():
            yield bytes(piece)
