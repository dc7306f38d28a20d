"""Consumers of a training run's records, and the tables of the other commands. Start at `reporter.make_reporter`.

consumer.py    what a consumer is
reporter.py    which consumers a run has: a screen or plain lines, JSON lines, results
console.py     the live screen of a terminal; steps.py: its table of steps; memory.py: memory planned and measured
lines.py       plain lines for pipes and dumb terminals; the results on standard output
records.py     JSON lines
plots.py       the loss curve as text
tables.py      results of eval, gradcheck and profile; flow.py: of gradcheck --flow
inspection.py  results of inspect and tokenize
grid.py        columns that fit a width
terminal.py    what a stream can show; quantities.py: how numbers are written
"""
