"""Scores become ranks with intervals.

In: `SuiteResults`.
Out: rank intervals of architectures, on each dataset and over all, with simultaneous coverage; paired differences; the
frames of a board. `paired_ranks` of `ranks` computes the ranks, `standings` attaches them to architectures.
Add here: a statistic that compares architectures, with a simulation of its coverage among the tests.
"""
