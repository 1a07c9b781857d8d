"""R replicas of one encoder and decoder as one computation.

In: pairs of modules, an objective, dials and seeds.
Out: a `Stack` that returns losses and gradients of all replicas, computed in one of several ways that agree within
rounding; optimisers that update all replicas at once; the C kernel for CPUs in `kernel/`.
Add here: an optimiser (`optimisers`; its settings are a class in `suite/schema`, and `make_optimiser` of
`training/trainer` builds it), or another way to compute a stack (`computation`, `groups`).
"""
