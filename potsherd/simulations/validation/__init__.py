"""Our models beside published tables and each other: every number with its source, made by a script.

`python -m potsherd.simulations.validation` prints docs/validation.md.
"""

__all__: list[str] = []
