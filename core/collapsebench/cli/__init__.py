"""The command line: one command for each verb of the Python API, and commands that look around."""
