"""Who gives, who gets, what stays: an experiment with rules of giving and taking.

`python -m potsherd.simulations.incentives docs/studies` runs it anew and writes the tables and plots of
docs/studies/incentives.md.
"""

__all__: list[str] = []
