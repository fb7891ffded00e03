"""Calibration: measures what each reranker is worth and costs on a corpus, on the machine at hand."""
