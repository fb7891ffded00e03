"""Makes what calibration ships with: gains on public collections, and the built-in profile. Not in the wheel.

``python -m sidecar.calibrate.make --collections FOLDER``
"""
