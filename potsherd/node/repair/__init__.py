"""Keeping segments alive without keys: reconciling, auditing, repairing (docs/design/repair.md)."""

__all__: list[str] = []
