"""A job becomes trained weights.

In: a `Job` and standardised data.
Out: for each replica its weights, its mark (converged, budget, unstable, diverged) and its log. Convergence is
decided in `check` of `trainer`, from the residuals of `theory/equilibrium`.
Add here: a criterion of convergence (`trainer`), a prediction of memory (`memory`), or a rule that chooses how stacks
are computed (`choose`).
"""
