"""What calibration and routing are worth: ``python -m tests.bench.router --collections FOLDER``."""
