"""The real `Env`: the one place that touches the operating system's clock, randomness, sockets and disk."""

from potsherd.node.real.env import real_env

__all__ = ["real_env"]
