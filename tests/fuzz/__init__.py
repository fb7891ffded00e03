"""Bytes that nobody meant to send, for everything of ours that reads bytes.

`targets` says what is read and what may come of it; `make fuzz MINUTES=10` looks for bytes that break the promise, with
Atheris (coverage-guided); `test_targets` repeats, in seconds and always alike, what was found before and a few thousand
damaged copies of good input.
"""
