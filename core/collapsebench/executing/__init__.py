"""One job from its file to its end: train, store, observe.

In: the path of a job file, in a store that this process sees.
Out: stored cells with a status, their weights and logs, and the observables that the job asks for.
Add here: what every executor must do with a job; how jobs are distributed is an executor, and a plugin.
"""
