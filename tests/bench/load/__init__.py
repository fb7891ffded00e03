"""``python -m tests.bench.load``: the promise under load, from half of what the machine can do to ten times that.

An open-loop generator: requests are sent when a Poisson process says so, whether or not earlier ones were answered,
and latency counts from the scheduled moment (a generator that waits for answers measures the best case only).
"""
