"""A job becomes trained weights.

In: a `Job` and standardised data.
Out: for each replica its weights, its mark (converged, budget, unstable, diverged) and its log. Whether a replica has
converged is decided in `verdict`: its Ward residuals and its stability (`theory/equilibrium`), the drift of its signal
fractions, and a loss that no longer falls.
Add here: a criterion of convergence (`verdict`), a prediction of memory (`memory`), or a rule that chooses how stacks
are computed (`choose`).
"""
