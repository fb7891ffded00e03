"""Programs that are measured, each run by the Python of its own environment as ``python -m tests.bench.rivals.NAME``.

They import `tests.bench.rivals.child` and what their own environment has, nothing else of the bench.
"""
