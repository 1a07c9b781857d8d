"""A small kernel in C for CPUs: compiled on first use, and left aside with a reason where it cannot be.

In: affine maps, activations, sums and layer norms of modules, whoever wrote them.
Out: chains of affine maps, or loss and gradient of a whole pair in one pass.
Add here: an activation (`library` and `vectors.h`), or an operation that a pair may consist of (`program` and
`pair.c`).
"""
