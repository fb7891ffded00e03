"""What reads bytes from outside, and what may come of it: a value that keeps its promises, or one kind of error."""

from __future__ import annotations

from tests.fuzz import answers, files, requests

TARGETS = {target.name: target for target in (*requests.TARGETS, *answers.TARGETS, *files.TARGETS)}
