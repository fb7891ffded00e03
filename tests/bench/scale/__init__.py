"""What a pool costs over a model in the process, measured; and what it does at 100 times that load, simulated."""
