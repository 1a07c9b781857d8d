"""The command line: one command for each verb of the Python API, and commands that look around.

In: arguments. Commands are imported when they are used, so that `--help` stays fast.
Out: text or JSON, and an exit code: 0 all good, 1 some cell not ok, 2 usage, 130 interrupted.
Add here: a command, listed in `LAZY` of `main`.
"""
