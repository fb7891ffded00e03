"""Tiny cross-encoder checkpoints of every family that can be exported, with random weights and real tokenizers.

Written by hand, so that no test needs torch to make one; `test_export` compares the same folders with transformers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.rerankers.local_models import TINY_CROSS_ENCODER

Arrays = dict[str, NDArray[Any]]

HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 32, 3, 4, 64, 160
BERT_WORDS = 30_522
PAD = 1  # of RoBERTa's family: its positions begin after it
SENTENCES = (
    "Reads rows of a csv file as lists of strings, and writes them.",
    "Cancels the timer while it is still waiting in another thread.",
    "Die Straße ist lang. Il fait beau aujourd'hui. Un archivo con filas.",
)
KINDS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}


def write_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]], kind: str = "F32") -> None:
    """Arrays as ``kind`` (whole numbers as I64); bfloat16 is cut off, not rounded."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, array in arrays.items():
        stored = "I64" if array.dtype.kind == "i" else kind
        values = (array.view(np.uint32) >> 16) if stored == "BF16" else array
        data = values.astype(KINDS[stored]).tobytes()
        header[name] = {"dtype": stored, "shape": array.shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def make(family: str, folder: Path, kind: str = "F32") -> Path:
    """A checkpoint folder of model type ``family``."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(family)), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", arrays(family), kind)
    if family in ("roberta", "xlm-roberta", "camembert"):
        write_unigram(folder / "tokenizer.json")
    else:
        shutil.copyfile(TINY_CROSS_ENCODER / "tokenizer.json", folder / "tokenizer.json")
    return folder


def config(family: str) -> dict[str, Any]:
    """config.json as transformers writes it."""
    class_name = {
        "bert": "Bert",
        "roberta": "Roberta",
        "xlm-roberta": "XLMRoberta",
        "camembert": "Camembert",
        "electra": "Electra",
        "distilbert": "DistilBert",
    }[family]
    common = {"architectures": [f"{class_name}ForSequenceClassification"], "model_type": family, "num_labels": 1}
    common |= {"vocab_size": _words(family), "max_position_embeddings": POSITIONS, "id2label": {"0": "LABEL_0"}}
    if family == "distilbert":
        return common | {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": INNER, "activation": "gelu"}
    common |= {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    common |= {"intermediate_size": INNER, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    if family == "electra":
        common |= {"embedding_size": HIDDEN // 2}
    if _is_roberta(family):
        common |= {"pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2}
    return common | {"type_vocab_size": _types(family)}


def arrays(family: str) -> Arrays:
    """Random weights under the names of transformers; large enough for scores to differ."""
    random = np.random.default_rng(5)
    found: Arrays = {}

    def linear(name: str, out: int, into: int) -> None:
        found[f"{name}.weight"] = random.normal(0, 1.3 / np.sqrt(into), (out, into)).astype(np.float32)
        found[f"{name}.bias"] = random.normal(0, 0.1, out).astype(np.float32)

    def norm(name: str, width: int = HIDDEN) -> None:
        found[f"{name}.weight"] = random.normal(1, 0.1, width).astype(np.float32)
        found[f"{name}.bias"] = random.normal(0, 0.1, width).astype(np.float32)

    prefix = "roberta" if _is_roberta(family) else family
    width = HIDDEN // 2 if family == "electra" else HIDDEN
    tables = {
        "word": _words(family),
        "position": POSITIONS,
        "token_type": 0 if family == "distilbert" else _types(family),
    }
    for table, rows in tables.items():
        if rows:
            name = f"{prefix}.embeddings.{table}_embeddings.weight"
            found[name] = random.normal(0, 1, (rows, width)).astype(np.float32)
    norm(f"{prefix}.embeddings.LayerNorm", width)
    if family == "electra":
        linear(f"{prefix}.embeddings_project", HIDDEN, width)
    for layer in range(LAYERS):
        if family == "distilbert":
            at = f"{prefix}.transformer.layer.{layer}"
            for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
                linear(f"{at}.attention.{part}", HIDDEN, HIDDEN)
            names = ("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm")
        else:
            at = f"{prefix}.encoder.layer.{layer}"
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                linear(f"{at}.attention.{part}", HIDDEN, HIDDEN)
            names = ("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm")
        norm(f"{at}.{names[0]}")
        linear(f"{at}.{names[1]}", INNER, HIDDEN)
        linear(f"{at}.{names[2]}", HIDDEN, INNER)
        norm(f"{at}.{names[3]}")
    heads = {"bert": ("bert.pooler.dense", "classifier"), "distilbert": ("pre_classifier", "classifier")}
    dense, out = heads.get(family, ("classifier.dense", "classifier.out_proj"))
    linear(dense, HIDDEN, HIDDEN)
    linear(out, 1, HIDDEN)
    return found


def write_unigram(path: Path) -> None:
    """A small SentencePiece-like tokenizer with XLM-R's special tokens and pair layout: <s> a </s></s> b </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram(_pieces(), unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(path))


def _pieces() -> list[tuple[str, float]]:
    """Special tokens first, then every letter and every word of `SENTENCES`, most useful first."""
    words = sorted({f"▁{word}" for sentence in SENTENCES for word in sentence.split()})
    letters = sorted({letter for sentence in SENTENCES for letter in sentence if letter != " "} | {"▁"})
    special = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    return [*special, *((word, -4.0) for word in words), *((letter, -8.0) for letter in letters), ("<mask>", 0.0)]


def _is_roberta(family: str) -> bool:
    return family in ("roberta", "xlm-roberta", "camembert")


def _words(family: str) -> int:
    return len(_pieces()) if _is_roberta(family) else BERT_WORDS


def _types(family: str) -> int:
    return 1 if _is_roberta(family) else 2
