"""Execute one job: train, store, observe.

In: the path of a job file, in a store that this process can read and write.
Out: stored cells with a status, their weights and logs, and the observables that the job asks for.
Add here: what every executor must do with a job. How jobs are distributed is the business of executors, which are
plugins.
"""
