"""The report of a simulation: one HTML file that needs nothing else; plots are SVG made here."""

__all__: list[str] = []
