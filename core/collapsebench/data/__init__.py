"""Arrays as the harness trains and measures on them.

In: what a dataset loaded.
Out: `Standardised` splits with covariance, PCA and fingerprint; the batches and noise of every update; a split in
chunks for observables.
Add here: a way to scale, to draw batches or to read a split.
"""
