"""Parameters of the first-party observables, none of which has any so far; this module imports no torch."""
