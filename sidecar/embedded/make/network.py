"""The tiny cross-encoder: the network that is trained, and the same computation as an ONNX graph.

A two-layer BERT reads query and document together. Two parts make the logit: a small head over [CLS], the query's mean
and the document's mean, and a weighted MaxSim of the last hidden states, so that the student starts from term matching
(which the initial weights are good at) and learns what to add.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sidecar.engines.export.graph import BertShape, Graph, GraphBuilder, add_bert, add_masked_mean
from sidecar.engines.export.tensors import Floats, as_weights

if TYPE_CHECKING:
    import torch

NAME = "tiny-cross-encoder"
SHAPE = BertShape(layers=2, heads=2)
HIDDEN = 128
MASKED_OUT = 1e4
# MaxSim varies by 0.035 within a list, the teacher's scores divided by their temperature by about 2: e^4 = 55.
LOG_SCALE = 4.0


def create(weights: Mapping[str, Floats]) -> torch.nn.Module:
    """The network as a torch module: (input_ids, attention_mask, token_type_ids), int64 [b,s] -> logits [b]."""
    import torch
    from torch import nn
    from torch.nn import functional
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=weights["embeddings.word_embeddings.weight"].shape[0],
        hidden_size=HIDDEN,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        intermediate_size=4 * HIDDEN,
        # A student this small under-fits: dropout only slows it down.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )

    class TinyCrossEncoder(nn.Module):  # type: ignore[misc]  # mypy skips torch
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel(config, add_pooling_layer=False)
            self.head = nn.Linear(3 * HIDDEN, HIDDEN)
            self.out = nn.Linear(HIDDEN, 1)
            self.term_weight = nn.Linear(HIDDEN, 1)
            self.log_scale = nn.Parameter(torch.tensor([LOG_SCALE]))
            wanted = self.bert.state_dict()
            self.bert.load_state_dict({k: torch.from_numpy(weights[k]) for k in wanted if k in weights}, strict=False)
            # The head starts silent and all terms equal: MaxSim alone already agrees with the teacher (correlation
            # 0.75 within a list), and what a random head would add is noise that costs hundreds of steps.
            for silent in (self.out, self.term_weight):
                nn.init.zeros_(silent.weight)
                nn.init.zeros_(silent.bias)

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
        ) -> torch.Tensor:
            hidden = self.bert(input_ids, attention_mask, token_type_ids=token_type_ids).last_hidden_state
            in_document = (attention_mask * token_type_ids).to(hidden.dtype)
            in_query = attention_mask.to(hidden.dtype) - in_document
            means = [
                (hidden * m.unsqueeze(-1)).sum(1) / m.sum(1, keepdim=True).clamp(min=1) for m in (in_query, in_document)
            ]
            pooled = functional.gelu(self.head(torch.cat([hidden[:, 0], *means], dim=-1)))
            unit = functional.normalize(hidden, dim=-1, eps=1e-12)
            similarity = unit @ unit.transpose(1, 2) - MASKED_OUT * (1 - in_document).unsqueeze(1)
            importance = functional.softplus(self.term_weight(hidden)).squeeze(-1) * in_query
            best = similarity.amax(dim=-1).clamp(min=-1)
            maxsim = (best * importance).sum(1) / importance.sum(1).clamp(min=1e-6)
            return self.out(pooled).squeeze(-1) + self.log_scale.exp() * maxsim

    return TinyCrossEncoder()


def weights_of(module: torch.nn.Module) -> dict[str, NDArray[np.float32]]:
    """The trained weights as arrays, with the names that `build` reads."""
    state = module.state_dict()
    return {name.removeprefix("bert."): value.detach().numpy().copy() for name, value in state.items()}


def build(arrays: Mapping[str, Floats]) -> Graph:
    """The float32 graph: output `logits` [b]; the same computation as the module of `create`."""
    from onnx import TensorProto

    b, weights = GraphBuilder(), as_weights(arrays)
    hidden, mask = add_bert(b, weights, SHAPE, token_types=True)
    types = b.node("Cast", ["token_type_ids"], "types.float", to=TensorProto.FLOAT)
    last = b.constant("last_axis", np.array([-1]))
    in_document = b.node("Mul", [b.node("Unsqueeze", [types, last], "types"), mask], "in_document")
    in_query = b.node("Sub", [mask, in_document], "in_query")

    first = b.node("Gather", [hidden, b.constant("first", np.array(0))], "cls", axis=1)
    means = [add_masked_mean(b, hidden, m, f"mean.{m}") for m in (in_query, in_document)]
    pooled = b.node("Concat", [first, *means], "pooled", axis=-1)
    pooled = b.node(
        "Gelu", [b.linear(pooled, "head", weights["head.weight"].transposed(), weights["head.bias"])], "head.gelu"
    )
    from_head = b.linear(pooled, "out", weights["out.weight"].transposed(), weights["out.bias"])

    unit = b.l2_normalise(hidden, "unit")
    similarity = b.node("MatMul", [unit, b.node("Transpose", [unit], "unit.t", perm=[0, 2, 1])], "similarity")
    absent = b.node("Sub", [b.constant("one", np.array(1, dtype=np.float32)), in_document], "absent")
    absent = b.node("Mul", [absent, b.constant("masked_out", np.array(MASKED_OUT, dtype=np.float32))], "penalty")
    similarity = b.node("Sub", [similarity, b.node("Transpose", [absent], "penalty.t", perm=[0, 2, 1])], "masked")
    best = b.node("ReduceMax", [similarity, last], "best", keepdims=1)
    best = b.node("Max", [best, b.constant("minus_one", np.array(-1, dtype=np.float32))], "best.clamped")
    importance = b.linear(
        hidden, "term_weight", weights["term_weight.weight"].transposed(), weights["term_weight.bias"]
    )
    importance = b.node("Mul", [b.node("Softplus", [importance], "importance"), in_query], "importance.masked")
    axis = b.constant("token_axis", np.array([1]))
    total = b.node("ReduceSum", [b.node("Mul", [best, importance], "weighted"), axis], "weighted.sum", keepdims=0)
    norm = b.node("ReduceSum", [importance, axis], "importance.sum", keepdims=0)
    norm = b.node("Max", [norm, b.constant("smallest", np.array(1e-6, dtype=np.float32))], "importance.safe")
    scale = b.constant("maxsim_scale", np.exp(arrays["log_scale"]))
    from_maxsim = b.node("Mul", [b.node("Div", [total, norm], "maxsim"), scale], "maxsim.scaled")
    b.node("Squeeze", [b.node("Add", [from_head, from_maxsim], "logits.column"), last], "logits")
    return b.graph(NAME, ["input_ids", "attention_mask", "token_type_ids"], {"logits": ("b",)})


def float_products(graph: Graph) -> frozenset[str]:
    """MatMul nodes that stay float32: the ones without constant weights and the head, which is too small to matter."""
    names: Iterator[str] = (node.name for node in graph.nodes if node.op_type == "MatMul")
    return frozenset(name for name in names if not name.startswith("encoder."))
