"""The arrays that stacks are trained and measured on.

In: the splits that a dataset has loaded.
Out: `Standardised` splits with covariance, PCA and fingerprint; the batches and noise of every update; a split in
chunks for observables.
Add here: a way to scale data, to draw batches or to read a split.
"""
