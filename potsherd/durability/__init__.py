"""Chances of loss, exact: what the planner, `stat` and the repair trigger all call. Pure."""

from potsherd.durability.chain import Chain

__all__ = ["Chain"]
