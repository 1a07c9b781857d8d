"""Results become files that people read, and a bundle from which all of them can be made again.

In: `SuiteResults`, or a published folder.
Out: boards and tables in every format, figures, one interactive page, and the bundle of data behind them.
Add here: a format of tables (`report`), a part of the board (`board_report`), a figure (`figures/`), a section of the
page (`page/`).
"""
