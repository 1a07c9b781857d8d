"""Parameters of the first-party executors, none of which has any so far; this module imports no torch."""
