"""``python -m tests.bench.rerankers``: the local engines against what a user would pick instead.

Same weights, same pairs, same run; every contender in a process and an environment of its own, asked in turn.
"""
