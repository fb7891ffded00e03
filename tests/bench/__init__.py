"""``python -m tests.bench``: what the sidecar costs, measured on this machine.

One module measures one thing and returns a `tests.bench.report.Section`; `tests.bench.__main__` runs them.
"""
