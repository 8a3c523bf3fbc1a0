"""Traces of real nodes: strict readers of four CSV formats, and what is learned from them (docs/planning.md)."""

__all__: list[str] = []
