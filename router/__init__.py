"""The decision: pure, deterministic, standard library only. No I/O, no clock, no randomness."""
