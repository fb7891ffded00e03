"""Queries made from the training texts themselves, as people type them: synopses, keywords, spans and questions."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.embedded.make.texts import MIN_BODY_CHARACTERS, Pair

MIN_WORDS, MAX_WORDS = 2, 15
KEYWORD_POOL = 12
HELD_OUT_SHARE = 0.35
# An imperative summary line ("Return the ...") turns into "how to ..."; anything else names a thing.
HOW_TEMPLATES = (
    "how to {}",
    "how do i {}",
    "{} in python",
    "python {}",
    "how can i {}",
    "function to {}",
    "best way to {}",
)
WHAT_TEMPLATES = (
    "what is {}",
    "{} explained",
    "is there a {}",
    "what does {} do",
    "looking for {}",
    "which tool for {}",
)
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9+#'-]+|\d+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_IMPERATIVE = re.compile(
    r"^(add|apply|build|calculate|check|compute|convert|create|decode|delete|determine|download|draw|encode|evaluate|"
    r"extract|fetch|fill|filter|find|fit|format|generate|get|insert|iterate|join|list|load|make|map|merge|move|normali[sz]e|"
    r"open|parse|perform|plot|print|read|remove|rename|replace|reset|resolve|return|run|save|search|select|send|set|sort|"
    r"split|start|stop|test|transform|update|validate|verify|write)s?\b\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Example:
    """One document and the queries that it is an answer to."""

    document: str
    queries: tuple[str, ...]


def make_examples(pairs: Sequence[Pair], queries_each: int, seed: int) -> list[Example]:
    """`queries_each` queries for every pair (fewer where the text does not give them); seeded."""
    rng = random.Random(seed)
    frequency: Counter[str] = Counter()
    for pair in pairs:
        frequency.update(set(_words(pair.body)))
    rarity = {word: math.log(1 + len(pairs) / count) for word, count in frequency.items()}
    examples = []
    for pair in pairs:
        body, held_out = _hold_out_sentence(pair.body, rng)
        made = (_make_query(pair.heading, body, held_out, rarity, rng) for _ in range(3 * queries_each))
        unique = list(dict.fromkeys(query for query in made if query is not None))
        if unique:
            examples.append(Example(body, tuple(unique[:queries_each])))
    return examples


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _hold_out_sentence(body: str, rng: random.Random) -> tuple[str, str | None]:
    """Takes one sentence out of some bodies, so that a span of it can be asked for without being found verbatim."""
    sentences = _SENTENCE.split(body)
    if len(sentences) < 3 or rng.random() > HELD_OUT_SHARE:
        return body, None
    chosen = rng.randrange(len(sentences))
    rest = " ".join(sentences[:chosen] + sentences[chosen + 1 :])
    if len(rest) < MIN_BODY_CHARACTERS or len(_words(sentences[chosen])) < 4:
        return body, None
    return rest, sentences[chosen]


def _make_query(
    heading: str, body: str, held_out: str | None, rarity: dict[str, float], rng: random.Random
) -> str | None:
    kind = rng.random()
    if kind < 0.35:
        query = heading
    elif kind < 0.60:
        query = _keywords(heading, body, rarity, rng)
    elif kind < 0.80:
        query = _span(held_out or heading, rng)
    else:
        query = _question(heading, rng)
    words = query.strip(" .:;,").split()[:MAX_WORDS]
    if len(words) < MIN_WORDS:
        return None
    query = " ".join(words)
    return query.lower() if rng.random() < 0.6 else query


def _keywords(heading: str, body: str, rarity: dict[str, float], rng: random.Random) -> str:
    """Two to six telling words of the heading and the body; sampled, so that not only the rarest are asked for."""
    pool = sorted(set(_words(f"{heading} {body}")), key=lambda word: -rarity.get(word, 0.0) * rng.uniform(0.5, 1.0))
    chosen = pool[:KEYWORD_POOL]
    rng.shuffle(chosen)
    return " ".join(chosen[: rng.randint(MIN_WORDS, 6)])


def _span(text: str, rng: random.Random) -> str:
    words = text.split()
    length = min(len(words), rng.randint(3, 10))
    start = rng.randint(0, len(words) - length)
    return " ".join(words[start : start + length])


def _question(heading: str, rng: random.Random) -> str:
    first = re.split(r"[.;(]\s*", heading)[0].strip()
    if match := _IMPERATIVE.match(first):
        verb = match[1].lower()
        verb = "get" if verb == "return" else verb
        return rng.choice(HOW_TEMPLATES).format(f"{verb} {first[match.end() :]}")
    return rng.choice(WHAT_TEMPLATES).format(first[:1].lower() + first[1:])
