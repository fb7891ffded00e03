"""How a local model runs: in worker processes, but for the light parts (manifest, threads, batching)."""

import os

# ONNX Runtime 1.32 reports its use to its vendor, and writes a device id, unless told not to before it is imported:
# no network at load, and nothing outside our own folders (DESIGN section 6, invariant 12).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
