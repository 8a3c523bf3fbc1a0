"""Proof instead of hope: audits of others' shards, a scrub of one's own, proofs of bad coding (docs/design/audit.md)."""

__all__: list[str] = []
