"""TOML in, a resolved `Suite` out.

In: the id of a shipped suite or a path, a preset, and `key=value` overrides.
Out: a frozen `Suite` with every default filled in, or one error that lists every mistake and where it was written.
Add here: a key of suite files (`schema`), or a better message about one (`problems`).
"""
