"""The code, segment layout, Merkle trees: pure (docs/spec/erasure.md, docs/spec/segments.md)."""

from potsherd.erasure.code import Code
from potsherd.erasure.corrupt import find_corrupt

__all__ = ["Code", "find_corrupt"]
