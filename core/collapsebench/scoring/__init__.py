"""Tables become scores.

In: a plan, the store, and the suite's metrics.
Out: `SuiteResults`: every planned cell with its status, what was measured and what each metric made of it, or the
reason why there is nothing.
Add here: a field that travels with every result (`results`). A new score is a metric, and a plugin.
"""
