"""The Python API, one file for each verb.

In: what people pass: a suite, a table, a trained model, two architectures.
Out: data frames and small frozen objects that show themselves in notebooks.
Add here: a verb, exported in `__init__.pyi` of the package and mirrored by a command in `cli`.
"""
