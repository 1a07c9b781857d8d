"""The figures of a suite, each kind for every dataset, in PNG and PDF with a caption.

In: `SuiteResults` and the curves of `publishing/curves`.
Out: files and captions.
Add here: a kind of figure, registered in `draw`.
"""
