"""For people who write plugins: the laws that a component keeps, the check of them, and a plugin to start from."""
