"""That a failed call tells nothing of what was asked."""

from __future__ import annotations

from tests.helpers import MARKER


def assert_silent(error: BaseException, logged: str) -> None:
    """The marker, which stands in every text of the request, is in no log and nowhere in the chain of errors."""
    chain: BaseException | None = error
    while chain is not None:
        assert MARKER not in f"{chain} {chain!r} {vars(chain)}"
        chain = chain.__cause__ or chain.__context__
    assert MARKER not in logged
