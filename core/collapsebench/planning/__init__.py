"""Turn a suite into cells with keys and into jobs; nothing here trains a model or imports torch.

In: a `Suite` and the store.
Out: a `Plan` with the key and the stored record of every cell; job files, which hold everything that an executor needs;
the provenance of a result.
Add here: a setting that decides a cell's numbers, to `describe` in `cells`: `key_of` hashes that description into the
key. A training protocol or a field of job files, to `jobs`: raise `SCHEMA_VERSION` there for a new field.
"""
