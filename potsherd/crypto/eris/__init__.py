"""ERIS 1.0 over batches of blocks (docs/spec/eris.md).

Start with `encode`, `decode` and `read_range`; `Encoder`, `Decoder`, `encode_many`, `decode_blocks` and
`decode_many` are for callers that move blocks themselves.
"""

from potsherd.crypto.eris.backend import Backend, PlainBackend, default_backend
from potsherd.crypto.eris.capability import (
    BLOCK_SIZE_LARGE,
    BLOCK_SIZE_SMALL,
    BLOCK_SIZES,
    ReadCapability,
    block_size_for,
)
from potsherd.crypto.eris.decoder import Decoder, Want
from potsherd.crypto.eris.encoder import NULL_SECRET, Batch, Encoded, Encoder, encode_many
from potsherd.crypto.eris.located import (
    Run,
    decode_blocks,
    decode_many,
    decode_postorder,
    decode_runs,
    shape_of,
)
from potsherd.crypto.eris.tree import TreeShape
from potsherd.crypto.eris.wrappers import decode, encode, read_range

__all__ = [
    "BLOCK_SIZES",
    "BLOCK_SIZE_LARGE",
    "BLOCK_SIZE_SMALL",
    "NULL_SECRET",
    "Backend",
    "Batch",
    "Decoder",
    "Encoded",
    "Encoder",
    "PlainBackend",
    "ReadCapability",
    "Run",
    "TreeShape",
    "Want",
    "block_size_for",
    "decode",
    "decode_blocks",
    "decode_many",
    "decode_postorder",
    "decode_runs",
    "default_backend",
    "encode",
    "encode_many",
    "read_range",
    "shape_of",
]
