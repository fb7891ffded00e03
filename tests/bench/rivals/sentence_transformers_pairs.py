"""`CrossEncoder.predict` of sentence-transformers, on torch or ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.rivals.child import Operation, fastest, forget_peak, peak_mb, serve, timed

BATCH_SIZES = (32, 4, 1)  # 32 is the library's default


def load(model: str, threads: int, backend: str, file_name: str) -> Mapping[str, Operation]:
    """``file_name`` is the ONNX file in the model's folder; "" on torch."""
    import torch
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(threads)
    options: dict[str, Any] = {}
    if backend == "onnx":
        import onnxruntime

        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = threads
        options = {"provider": "CPUExecutionProvider", "file_name": file_name, "session_options": session}
    encoder = CrossEncoder(model, device="cpu", backend=backend, model_kwargs=options, local_files_only=True)
    identity = torch.nn.Identity()
    chosen = BATCH_SIZES[0]

    def predict(query: str, texts: Sequence[str], batch_size: int) -> list[float]:
        pairs = [(query, text) for text in texts]
        scores = encoder.predict(pairs, batch_size=batch_size, activation_fn=identity, show_progress_bar=False)
        return [float(score) for score in scores]

    def tune(query: str, texts: Sequence[str]) -> dict[str, Any]:
        nonlocal chosen
        chosen = fastest(BATCH_SIZES, lambda size: predict(query, texts, size))
        forget_peak()
        return {"batch_size": chosen}

    def score(query: str, texts: Sequence[str]) -> dict[str, Any]:
        scores, ms = timed(lambda: predict(query, texts, chosen))
        return {"scores": scores, "ms": ms}

    return {"tune": tune, "score": score, "peak": peak_mb}


if __name__ == "__main__":
    serve(load)
