"""`python -m potsherd.kernels.build`: compile the kernels of this machine and leave their images in the cache.

A process of its own, so that whoever uses the kernels never loads the compiler.
"""

from __future__ import annotations

from potsherd.kernels.choice import cache_folder
from potsherd.kernels.eris import ErisKernel
from potsherd.kernels.gf_llvm import LlvmEngine
from potsherd.kernels.llvm import KernelUnavailable

__all__ = ["main"]


def main() -> int:
    """The exit code: 0 when they are there."""
    folder = cache_folder()
    try:
        ErisKernel(cache=folder)
        LlvmEngine(cache=folder)
    except KernelUnavailable:
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
