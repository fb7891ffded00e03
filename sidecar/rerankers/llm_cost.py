"""What an LLM call costs: estimated before it, counted after it. Pure arithmetic on tokens and micro-USD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from router.arms import Work
from sidecar.rerankers import prompts
from sidecar.rerankers.base import Document


@dataclass(frozen=True, slots=True)
class Prices:
    """Micro-USD per 1,000 tokens: 0.15 USD per million tokens is 150."""

    prompt_per_1k: float = 0.0
    completion_per_1k: float = 0.0

    def of(self, usage: prompts.Usage) -> float:
        """Micro-USD of what was used."""
        return (usage.prompt * self.prompt_per_1k + usage.completion * self.completion_per_1k) / 1000

    def dearest_per_token(self, completion_shares: Sequence[float]) -> float:
        """Micro-USD per token where the share of completion tokens is the dearest of those given; 0 for none."""
        surcharge = self.completion_per_1k - self.prompt_per_1k
        dearest = (max if surcharge > 0 else min)(completion_shares, default=0.0)
        return (self.prompt_per_1k + surcharge * dearest) / 1000 if completion_shares else 0.0


def estimated_work(
    query: str,
    instruction: str,
    documents: Sequence[Document],
    *,
    max_document_tokens: int,
    prompting: prompts.Prompting,
    prices: Prices,
) -> Work:
    """Estimated prompt and completion tokens (characters / 4), and a price per token.

    Listwise pays for system prompt, query and instruction once a request, pointwise with every candidate. Prompt and
    completion tokens have two prices and `Work` has one: it is the dearest mean price over the first k candidates,
    whatever k may be scored, so that no k is promised cheaper than it is estimated to be.
    """
    texts = (prompts.SYSTEM_PROMPT, query, instruction)
    frame = sum(map(prompts.text_tokens, texts)) + prompts.FRAME_PROMPT_TOKENS + prompts.FRAME_COMPLETION_TOKENS
    per_candidate = prompts.PASSAGE_PROMPT_TOKENS + prompts.PASSAGE_COMPLETION_TOKENS
    completion, fixed_completion = prompts.PASSAGE_COMPLETION_TOKENS, prompts.FRAME_COMPLETION_TOKENS
    most = prompts.MAX_LISTWISE
    fixed = frame
    if prompting == "pointwise":
        per_candidate += frame
        completion, fixed_completion = completion + fixed_completion, 0
        most = len(documents)
        fixed = 0
    tokens = tuple(min(prompts.text_tokens(each.text), max_document_tokens) + per_candidate for each in documents)
    shares = [
        (fixed_completion + k * completion) / total
        for k, total in enumerate(accumulate(tokens[:most], initial=fixed))
        if total
    ]
    return Work(tokens=tokens, fixed_tokens=fixed, micro_usd_per_token=prices.dearest_per_token(shares))
