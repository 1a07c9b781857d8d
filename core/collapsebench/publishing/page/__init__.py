"""One interactive page that needs no server, and an index over several.

In: `SuiteResults`.
Out: a self-contained HTML file.
Add here: numbers for a chart (`numbers`), a table (`tables`), a section (`page` and `assets/`).
"""
