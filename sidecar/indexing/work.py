"""What scoring over an index costs, in the tokens that latency is predicted from. Light, because the parent imports it.

A query of 32 tokens, which ColBERT always fills up to, costs as much as 32 tokens of anything else. Measured with a
six-layer encoder, 384 wide, and documents of 45 tokens: looking one up takes a 20th to a 35th of what a token takes.
"""

from __future__ import annotations

QUERY_TOKENS = 32
DOCUMENTS_PER_TOKEN = 16


def document_tokens(documents: int) -> int:
    """The cost of looking up so many documents, in tokens to compute."""
    return -(-documents // DOCUMENTS_PER_TOKEN)
