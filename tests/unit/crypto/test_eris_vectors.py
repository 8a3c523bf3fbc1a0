"""The 25 official vectors of ERIS 1.0.0, through every way to encode and to decode."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from potsherd.crypto import eris
from potsherd.errors import IntegrityError, MalformedError, NotFoundError, PotsherdError

VECTORS = Path(__file__).parents[2] / "vectors" / "eris"
SIZE_LIMIT = 1 << 24
Vector = dict[
    str, Any
]  # parsed JSON of the official set; its fields are named in the set's own README


def load(kind: str) -> list[Vector]:
    cases = [json.loads(path.read_text()) for path in sorted(VECTORS.glob(f"*-{kind}-*.json"))]
    assert cases
    return cases


def raw(text: str) -> bytes:
    return base64.b32decode(text + "=" * (-len(text) % 8))


def blocks_of(vector: Vector) -> dict[bytes, bytes]:
    return {raw(reference): raw(block) for reference, block in vector["blocks"].items()}


def name_of(vector: Vector) -> str:
    return f"{vector['id']:02}"


positive = pytest.mark.parametrize("vector", load("positive"), ids=name_of)


def test_the_set_is_complete() -> None:
    assert len(load("positive")) == 13
    assert len(load("negative")) == 12


@positive
def test_encode_gives_the_urn_and_exactly_the_blocks(vector: Vector) -> None:
    content, stored = raw(vector["content"]), dict[bytes, bytes]()
    for source in (content, io.BytesIO(content)):
        capability = eris.encode(
            source,
            convergence_secret=raw(vector["convergence-secret"]),
            block_size=vector["block-size"],
            put_block=stored.__setitem__,
        )
        assert capability.urn == vector["urn"]
        assert stored == blocks_of(vector)


@positive
def test_encode_many_gives_the_urn_and_exactly_the_blocks(vector: Vector) -> None:
    content, size = raw(vector["content"]), vector["block-size"]
    others = [b"", b"x" * 5000, content]
    encoded = eris.encode_many(
        [content, *others], convergence_secret=raw(vector["convergence-secret"]), block_size=size
    )
    assert encoded[0] == encoded[3]
    assert encoded[0].capability.urn == vector["urn"]
    blocks, references = encoded[0].blocks, encoded[0].references
    stored = {
        references[32 * i : 32 * i + 32]: blocks[size * i : size * i + size]
        for i in range(len(references) // 32)
    }
    assert stored == blocks_of(vector)


@positive
def test_capability_fields(vector: Vector) -> None:
    capability = eris.ReadCapability.from_urn(vector["urn"])
    fields = vector["read-capability"]
    assert capability.block_size == fields["block-size"]
    assert capability.level == fields["level"]
    assert capability.root_reference == raw(fields["root-reference"])
    assert capability.root_key == raw(fields["root-key"])
    assert capability.urn == vector["urn"]


@positive
def test_decode(vector: Vector) -> None:
    capability = eris.ReadCapability.from_urn(vector["urn"])
    pieces = eris.decode(capability, blocks_of(vector).__getitem__, size_limit=SIZE_LIMIT)
    assert b"".join(pieces) == raw(vector["content"])


@positive
def test_decode_blocks_with_known_length(vector: Vector) -> None:
    content, stored = raw(vector["content"]), blocks_of(vector)
    capability = eris.ReadCapability.from_urn(vector["urn"])
    encoded = eris.encode_many(
        [content],
        convergence_secret=raw(vector["convergence-secret"]),
        block_size=vector["block-size"],
    )[0]
    shape = eris.shape_of(capability, len(content))
    located = {}
    for level, index in shape.blocks_of_range(0, len(content)):
        at = shape.position(level, index) * 32
        located[level, index] = stored[encoded.references[at : at + 32]]
    assert eris.decode_blocks(capability, len(content), located) == content
    assert eris.decode_postorder(capability, len(content), encoded.blocks) == content


EXPECTED: dict[int, tuple[type[PotsherdError], ...]] = {
    13: (NotFoundError,),
    14: (IntegrityError,),
    15: (NotFoundError,),
    16: (IntegrityError,),
    17: (MalformedError,),
    18: (MalformedError,),
    19: (MalformedError,),
    20: (IntegrityError,),
    21: (IntegrityError,),
    22: (MalformedError,),
    23: (MalformedError,),
    24: (MalformedError,),
}


@pytest.mark.parametrize("vector", load("negative"), ids=name_of)
def test_negative(vector: Vector) -> None:
    capability = eris.ReadCapability.from_urn(vector["urn"])
    get_block: Callable[[bytes], bytes] = blocks_of(vector).__getitem__
    with pytest.raises(EXPECTED[vector["id"]]):
        b"".join(eris.decode(capability, get_block, size_limit=SIZE_LIMIT))
