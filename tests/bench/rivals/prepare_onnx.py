"""Checkpoint -> the ONNX files that the rivals load: the fastest that the tools of their own manuals make.

float32: exported and optimised (O3) by sentence-transformers and optimum. int8: that file through ONNX Runtime's
dynamic quantisation with the settings of optimum's preset for this processor. Measured on two cores without VNNI,
interleaved, four pairs of 256 tokens: O3 is 4 to 13 % faster than the plain export, int8 of O3 15 to 20 % faster than
int8 of the plain one, so that the latter, which most people have, would be the weaker rival.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.rivals.child import Operation, serve

FP32 = "model.onnx"
INT8 = "model_quantized.onnx"


def load(checkpoint: str, folder: str) -> Mapping[str, Operation]:
    """``folder`` gets ``fp32`` and ``int8``, each a checkpoint folder with one ONNX file."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from sentence_transformers import CrossEncoder, export_optimized_onnx_model

    target = Path(folder)

    def export() -> dict[str, Any]:
        for name in ("fp32", "int8"):
            shutil.copytree(checkpoint, target / name)
        options = {"export": True}
        model = CrossEncoder(checkpoint, device="cpu", backend="onnx", local_files_only=True, model_kwargs=options)
        export_optimized_onnx_model(model, "O3", str(target / "fp32"))
        (made,) = (target / "fp32").rglob("*.onnx")  # it is put into a folder below, under a name of its own
        made.replace(target / "fp32" / FP32)
        quantize_dynamic(
            target / "fp32" / FP32,
            target / "int8" / INT8,
            op_types_to_quantize=["MatMul", "Attention"],
            per_channel=True,
            reduce_range=not _has_vnni(),
            weight_type=QuantType.QInt8,
            # It cannot see through the fused nodes: what comes out of them is float32 (TensorProto.FLOAT).
            extra_options={"DefaultTensorType": 1},
        )
        return {"reduce_range": not _has_vnni()}

    return {"export": export}


def _has_vnni() -> bool:
    """Whether products of bytes cannot overflow here: with VNNI, and on ARM."""
    if platform.machine() in {"aarch64", "arm64"}:
        return True
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags)


if __name__ == "__main__":
    serve(load)
