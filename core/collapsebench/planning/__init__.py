"""Turn a suite into cells with keys and into jobs; nothing here trains a model or imports torch.

In: a `Suite` and the store.
Out: a `Plan` with the key and the stored record of every cell; job files, which hold everything that an executor needs;
the provenance of a result.
Add here: whatever decides a cell's numbers, to `describe` in `cells` (a cell's key is the hash of its description); a
protocol or a field of a job, to `jobs` (raise the schema version for a new field).
"""
