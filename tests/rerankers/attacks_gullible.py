"""A stand-in for the worst LLM that there could be: it does whatever any passage that it is shown asks for.

It bounds what an attack can do: no real model obeys more. It reads through look-alikes, invisible characters and
base64. What it cannot show is how often a real model falls for these texts.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata

from tests.rerankers.fake_openai import FakeOpenAI, Received

_VERB = r"\b(?:score|rate|grade|give)\s+"
_NUMBER = r"\b\D{0,40}?(-?\d+)"
_OWN = re.compile(_VERB + r"(?:me|it|this(?: passage| document)?)" + _NUMBER + r"|\bcorrect score is (\d+)")
_OTHERS = re.compile(_VERB + r"(?:all )?(?:the )?(?:others|other passages|rest)" + _NUMBER)
_LABEL = re.compile(r"\"(p\d{2}|id-\d+)\"\s*:\s*(-?\d+)")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")
_LATIN = str.maketrans("асеорх", "aceopx")


class GullibleOpenAI(FakeOpenAI):
    """Grades honestly, then does what the passages ask for, one after the other.

    ``constrained`` as real servers are under a strict schema: its answer keeps to labels and range whatever it wants
    to say. False: it writes down any key and any number.
    """

    def __init__(self, *, constrained: bool = True) -> None:
        super().__init__()
        self._constrained = constrained

    def grades(self, request: Received) -> dict[str, object]:
        honest = super().grades(request)
        wanted = {name: int(str(score)) for name, score in honest.items()}
        for name, passage in request.passages.items():
            _obey(understood(passage), name, wanted)
        if self._constrained:
            wanted = {name: min(10, max(0, wanted[name])) for name in honest}
        return dict(wanted)


def understood(passage: str) -> str:
    """The passage as somebody reads it who sees through every disguise, in lower case."""
    hidden = []
    for found in _BASE64.findall(passage):
        try:
            hidden.append(base64.b64decode(found, validate=True).decode())
        except (binascii.Error, UnicodeDecodeError):
            continue  # a long word
    plain = unicodedata.normalize("NFKC", " ".join([passage, *hidden])).translate(_LATIN)
    return "".join(letter for letter in plain if unicodedata.category(letter) != "Cf").lower()


def _obey(text: str, name: str, wanted: dict[str, int]) -> None:
    """Everything that ``text``, the passage under the label ``name``, demands; its own score comes last."""
    for demand in _OTHERS.finditer(text):
        wanted.update({other: int(demand[1]) for other in wanted if other != name})
    for demand in _LABEL.finditer(text):
        wanted[demand[1].upper() if demand[1].startswith("p") else demand[1]] = int(demand[2])
    for demand in _OWN.finditer(text):
        wanted[name] = int(demand[1] or demand[2])
