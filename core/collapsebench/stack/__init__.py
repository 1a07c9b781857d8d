"""R replicas of one encoder and decoder as one computation.

In: pairs of modules, an objective, dials and seeds.
Out: a `Stack` that returns losses and gradients of all replicas, computed in one of several ways that agree within
rounding; optimisers that update all replicas at once, and updates that are recorded and replayed on a device; the C
kernel for CPUs and the Triton kernels for GPUs in `kernel/`.
Add here: an optimiser: a `StackOptimiser` in `optimisers`, a class with its settings in the union
`Training.optimiser` of `suite/schema`, and an entry in `OPTIMISERS` of `training/trainer`. Another way to compute a
stack, on a CPU or a GPU: an `Engine` in `computation` or a `Grouping` in `groups`, an entry in `COMPUTATIONS`, its name
in `ComputeSettings.path` of `suite/schema`, and the rule that picks it, `choose_computation` of `training/choose`.
"""
