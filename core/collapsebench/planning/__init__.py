"""Cells with keys, and frozen jobs; trains nothing and imports no torch.

In: a `Suite`, and the store.
Out: a `Plan`: every cell of the suite with its key and its stored record; jobs, the files that say everything an
executor needs; where a result comes from.
Add here: whatever decides a cell's numbers into `describe` of `cells` (its key is the hash of that); a protocol, or a
field of a job, into `jobs` (raise its schema version for a field).
"""
