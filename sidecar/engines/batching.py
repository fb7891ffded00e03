"""What one run of a model reads: how far a text is cut, and which texts go together."""

from __future__ import annotations

from collections.abc import Sequence

CHARACTERS_PER_TOKEN = 6  # above the mean of every language measured (English prose has about 4.5)
MAX_CHARACTERS = 8_192
# MaxSim over this many kept documents takes about as long as encoding one token (measured: 0.03 against 0.5 ms).
KEPT_PER_TOKEN = 16


def max_characters(max_tokens: int) -> int:
    """Characters of a text that can matter when it is truncated to ``max_tokens``; the rest is never tokenised.

    A tokenizer reads its whole input before it truncates, so that a document of 1 MB would cost as much as
    thousands of short ones.
    """
    return min(MAX_CHARACTERS, CHARACTERS_PER_TOKEN * max_tokens)


def estimated_tokens(text: str, max_tokens: int) -> int:
    """Tokens of a text without a tokenizer: characters / 4 + 2 special ones, at most ``max_tokens``.

    An approximation: right to about 20 % for English prose, too low by a factor of 2 to 4 for Chinese or Japanese and
    for code full of punctuation. It only has to be proportional within one corpus; the latency model learns the rest.
    """
    return min(len(text) // 4 + 2, max_tokens)


def kept_tokens(documents: int) -> int:
    """What documents with kept vectors cost, in tokens to compute: one for every `KEPT_PER_TOKEN` of them."""
    return -(-documents // KEPT_PER_TOKEN)


def plan_batches(lengths: Sequence[int], token_budget: int, padding: int | None = None) -> list[list[int]]:
    """Groups indexes into batches of at most ``token_budget`` padded tokens, shortest texts first.

    A batch costs ``rows * longest row`` tokens, of which at most ``padding`` are no text's (None: any number). A text
    longer than the budget is a batch of its own, so that a budget of 1 runs every text alone. Ties keep the order
    given.
    """
    batches: list[list[int]] = []
    texts_tokens = 0  # of the last batch, without padding
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        cost = (len(batches[-1]) + 1) * lengths[index] if batches else 0
        wasted = cost - texts_tokens - lengths[index]
        if batches and cost <= token_budget and (padding is None or wasted <= padding):
            batches[-1].append(index)
            texts_tokens += lengths[index]
        else:
            batches.append([index])
            texts_tokens = lengths[index]
    return batches
