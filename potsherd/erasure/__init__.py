"""The code, segment layout, Merkle trees: pure (docs/spec/erasure.md, docs/spec/segments.md)."""

from potsherd.erasure.code import Code

__all__ = ["Code"]
