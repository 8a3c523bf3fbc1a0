"""The planner: from what donors give and what is asked to the cheapest codes that do it.

`question` is what is asked, `evaluation` what one code would mean, `search` looks for the cheapest, `levers` says what
would have to change where none will do, `prices` what it costs, `traced` what measured lives change.
"""

__all__: list[str] = []
