"""Run by a rival's own Python: write a random little BERT cross-encoder, and score pairs with it.

Argument: the folder. Input: JSON ``[query, text, ...]``. Output: JSON list of ``sigmoid(logit)``, which is what rerank
servers answer.
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_TOKENS = 512


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    letters = [*string.ascii_lowercase, *string.digits]
    vocabulary = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=MAX_TOKENS)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_TOKENS,
        num_labels=1,
        initializer_range=0.3,  # the usual 0.02 would score everything the same
    )
    model = BertForSequenceClassification(config).eval()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    query, *texts = json.load(sys.stdin)
    with torch.inference_mode():
        pairs = [tokenizer(query, text, truncation=True, return_tensors="pt") for text in texts]
        scores = [torch.sigmoid(model(**pair).logits).item() for pair in pairs]
    json.dump(scores, sys.stdout)


if __name__ == "__main__":
    main()
