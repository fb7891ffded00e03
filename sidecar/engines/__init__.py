"""How a local model runs: in worker processes, but for the light parts (manifest, threads, batching)."""
