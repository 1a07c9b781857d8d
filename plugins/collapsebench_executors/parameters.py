"""Parameters of the first-party executors, which have none so far; this module imports no torch."""
