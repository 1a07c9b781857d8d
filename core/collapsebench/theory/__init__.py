"""Compute with covariances, curves and trained weights, independently of suites and files.

In: arrays, or a model and samples as observables see them.
Out: the exact solution of the linear case, thresholds, exponents, effective dimensions, equilibrium residuals,
published criteria of collapse, and conversions from other conventions of beta.
Add here: a formula of the field, with its source.
"""
