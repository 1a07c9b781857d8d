"""Numbers about covariances, curves and trained weights; knows no suite and no file.

In: arrays, or a model and samples as observables see them.
Out: the exact solution of the linear case, thresholds, exponents, effective dimensions, equilibrium residuals, other
people's criteria of collapse and their conventions of beta.
Add here: a formula of the field, with its source.
"""
