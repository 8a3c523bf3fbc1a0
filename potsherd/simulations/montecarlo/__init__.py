"""The sampled model: whole networks of nodes that come and go, segments that lose shards and are repaired.

`scenario` says what is simulated, `population` draws it, `numpy_engine` and the compiled engine run it,
`replicates` repeats it and says how sure the result is, `rare` and `splitting` reach what no plain run would see.
"""

__all__: list[str] = []
