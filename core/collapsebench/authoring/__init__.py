"""For people who write plugins: the laws that a component must obey, their check, and a plugin to start from.

In: a registered component, or the name of a new plugin.
Out: findings, one for each law of its kind; a folder with a plugin that passes them.
Add here: a law, in the file of its kind.
"""
