"""How fast stacks are trained on this machine, how soon they reach equilibrium, and whether they had.

In: numbers of replicas, repetitions, and what else a benchmark varies.
Out: ratios of interleaved measurements with their spread, because absolute times drift.
Add here: a benchmark, or somebody else's program to compare with (`others`).
"""
