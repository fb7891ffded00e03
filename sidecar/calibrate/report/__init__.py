"""The read-out of a calibration: what each arm is worth and costs, the verdict in words, as HTML, Markdown and JSON."""
