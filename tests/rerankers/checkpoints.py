"""Hugging Face checkpoints for the tests, made on this machine: real MiniLM weights under two heads, and a tiny XLM-R.

No hub is reachable from a test, so they are written here, in the formats in which such models are published. A script
can call ``make_*(folder)``; test modules take the fixtures, one checkpoint a session, by naming this module in
``pytest_plugins``.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import logging
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sidecar.embedded.make.files import MINILM, load_weights, source_folder

Arrays = dict[str, NDArray[np.float32]]
HIDDEN = 384
TOKEN_DIM = 128
# What colbert-ir/colbertv2.0 states, with shorter documents.
COLBERT_METADATA = {
    "query_token_id": "[unused0]",
    "doc_token_id": "[unused1]",
    "query_token": "[Q]",
    "doc_token": "[D]",
    "dim": TOKEN_DIM,
    "similarity": "cosine",
    "query_maxlen": 32,
    "doc_maxlen": 180,
    "mask_punctuation": True,
    "attend_to_mask_tokens": False,
}
# Queries and the documents that answer them. The first pair is one that the conformance suite asks about.
PAIRS = (
    ("how to read a csv file", "How to read a CSV file: open the file and pass it to csv.reader."),
    ("what is it like in the mountains", "The weather in the mountains changes within minutes."),
    ("bake bread at home", "Knead the dough, let it rise and bake the loaf for forty minutes."),
    ("fix a flat bicycle tyre", "Remove the wheel, patch the inner tube and pump it up."),
)


def make_colbert(folder: Path) -> Path:
    """A ColBERT checkpoint in Stanford's format, as colbert-ai, RAGatouille and `MultiVectorEncoder` read it.

    MiniLM under a projection with orthonormal rows: nothing is trained, but inner products survive it well enough for
    a matching document to win. float32 [128, 384] ``linear.weight`` beside the encoder, no bias.
    """
    square = np.random.default_rng(7).normal(size=(HIDDEN, HIDDEN))
    orthogonal, _ = np.linalg.qr(square)
    weights = {f"bert.{name}": value for name, value in _minilm().items()}
    weights["linear.weight"] = np.ascontiguousarray(orthogonal[:TOKEN_DIM].astype(np.float32))
    _write_minilm(folder, {"architectures": ["HF_ColBERT"]}, weights)
    (folder / "artifact.metadata").write_text(json.dumps(COLBERT_METADATA, indent=2), encoding="utf-8")
    return folder


def make_cross_encoder(folder: Path) -> Path:
    """A BERT cross-encoder with one label: MiniLM under a linear head that knows `PAIRS`, and little beyond them.

    MiniLM never saw pairs, and a head alone cannot teach it what relevance is. It is enough to see that scores have the
    right sign and belong to the right documents.
    """
    # A head needs features, features need the model: the folder is loaded once without one.
    _write_minilm(folder, {"architectures": ["BertModel"]}, _minilm())
    features = _pair_features(folder)
    labels = np.eye(len(PAIRS)).ravel() - 1 / len(PAIRS)
    mean = features.mean(axis=0)
    centred = features - mean
    ridge = centred @ centred.T + 0.01 * np.eye(len(features))  # fewer pairs than dimensions: the dual form is smaller
    head = centred.T @ np.linalg.solve(ridge, labels)
    weights = {f"bert.{name}": value for name, value in _minilm().items()}
    weights["classifier.weight"] = head[None].astype(np.float32)
    weights["classifier.bias"] = np.array([-mean @ head], np.float32)
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    _write_minilm(folder, config, weights)
    return folder


def make_xlmr(folder: Path, labels: int = 1) -> Path:
    """A checkpoint of the shape of BAAI/bge-reranker-v2-m3, two layers of 32: random weights, a tokenizer of its own.

    XLM-R counts positions from 2, has no token types, and joins a pair with two separators.
    """
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    vocabulary = _write_xlmr_tokenizer(folder)
    config = XLMRobertaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=514,
        type_vocab_size=1,
        num_labels=labels,
        initializer_range=0.3,  # the usual 0.02 gives every text the same score in its first four digits
    )
    with torch.random.fork_rng():
        torch.manual_seed(11)
        XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    return folder


def _pair_features(folder: Path) -> NDArray[np.float64]:
    """What the head sees of every query with every document of `PAIRS`: float64 [pairs, 384]."""
    import torch
    from transformers import AutoTokenizer, BertModel

    queries = [query for query, _ in PAIRS for _ in PAIRS]
    documents = [document for _, document in PAIRS] * len(PAIRS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        output = model(**tokenizer(queries, documents, padding=True, return_tensors="pt"))
    features: NDArray[np.float64] = output.pooler_output.double().numpy()
    return features


def _write_xlmr_tokenizer(folder: Path) -> int:
    """Byte-pair pieces of English from the standard library's docstrings; returns how many there are."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106 - a token of a text
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    modules = (argparse, contextlib, csv, logging, shutil, sqlite3, subprocess, threading)
    texts = [str(thing.__doc__) for module in modules for thing in (module, *vars(module).values())]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=4_000, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        **{f"{role}_token": name for role, name in names.items()},
    )
    wrapped.save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def _minilm() -> Arrays:
    weights = load_weights(MINILM)
    del weights["embeddings.position_ids"]  # a buffer that current transformers no longer keep
    return weights


def _write_minilm(folder: Path, config: Mapping[str, Any], weights: Arrays) -> None:
    """MiniLM's config (``config`` on top) and tokenizer beside ``weights``."""
    source = source_folder(MINILM)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(source / name, folder / name)
    # The package's tokenizer.json pads everything to 128 tokens; no published checkpoint does that.
    tokenizer = json.loads((source / "tokenizer.json").read_bytes()) | {"truncation": None, "padding": None}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    stated = json.loads((source / "config.json").read_bytes()) | config
    (folder / "config.json").write_text(json.dumps(stated, indent=2), encoding="utf-8")
    from safetensors.numpy import save_file

    # Without the mark that says who wrote them, transformers refuse the weights.
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="session")
def colbert_minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make_colbert`."""
    return make_colbert(tmp_path_factory.mktemp("checkpoints") / "colbert-minilm")


@pytest.fixture(scope="session")
def minilm_cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make_cross_encoder`."""
    return make_cross_encoder(tmp_path_factory.mktemp("checkpoints") / "minilm-cross-encoder")


@pytest.fixture(scope="session")
def xlmr_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`make_xlmr`."""
    return make_xlmr(tmp_path_factory.mktemp("checkpoints") / "xlmr-tiny")


@pytest.fixture(scope="session")
def xlmr_three_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the head of a classifier."""
    return make_xlmr(tmp_path_factory.mktemp("checkpoints") / "xlmr-three-labels", labels=3)
