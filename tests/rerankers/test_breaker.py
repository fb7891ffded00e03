"""The circuit breaker alone, by exact numbers."""

from __future__ import annotations

from sidecar.rerankers.breaker import Breaker, Permit


def run(breaker: Breaker, outcomes: str, now: float) -> None:
    """One call after the other: ``F`` fails, ``S`` succeeds. Fails where a call is not admitted."""
    for outcome in outcomes:
        permit = breaker.admit(now)
        assert permit is not None
        if outcome == "F":
            breaker.failed(permit, now)
        else:
            breaker.succeeded(permit)


def admitted(breaker: Breaker, now: float) -> Permit:
    permit = breaker.admit(now)
    assert permit is not None
    return permit


def test_breaker_opens_at_the_fifth_failure_in_a_row() -> None:
    """Four failures and a success begin the count again; the fifth in a row opens it for 10 s."""
    breaker = Breaker()
    run(breaker, "FFFFSFFFF", 100.0)
    assert breaker.blocked(100.0) == ""
    run(breaker, "F", 100.0)
    assert breaker.blocked(100.0) == "5 failures in a row; next probe in 10.0 s"
    assert breaker.admit(109.999) is None
    assert breaker.blocked(110.0) == ""


def test_breaker_opens_above_half_of_the_last_twenty() -> None:
    """10 of 20 is half and stays closed; 11 of 20 opens; before 20 calls shares do not count."""
    half = Breaker()
    run(half, "FS" * 10 + "SF", 0.0)
    assert half.blocked(0.0) == ""
    short = Breaker()
    run(short, "FFS" * 6 + "F", 0.0)  # 13 of 19
    assert short.blocked(0.0) == ""
    above = Breaker()
    run(above, "FS" * 9 + "FF", 0.0)  # 11 of 20
    assert above.blocked(0.0) == "11 failures in the last 20 calls; next probe in 10.0 s"


def test_breaker_pause_doubles_to_two_minutes() -> None:
    """Probes that fail: 10, 20, 40, 80, 120, 120 s."""
    breaker = Breaker()
    run(breaker, "FFFFF", 0.0)
    now = 0.0
    for pause in (10.0, 20.0, 40.0, 80.0, 120.0, 120.0):
        assert breaker.admit(now + pause - 0.001) is None
        now += pause
        run(breaker, "F", now)


def test_breaker_closes_with_a_clean_slate() -> None:
    """After a probe that succeeds it takes five new failures, and the pause is 10 s again."""
    breaker = Breaker()
    run(breaker, "FFFFF", 0.0)
    run(breaker, "F", 10.0)
    run(breaker, "S", 30.0)
    run(breaker, "FFFF", 30.0)
    assert breaker.blocked(30.0) == ""
    run(breaker, "F", 30.0)
    assert breaker.blocked(30.0) == "5 failures in a row; next probe in 10.0 s"
    by_share = Breaker()
    run(by_share, "FS" * 9 + "FF", 0.0)  # 11 of 20
    run(by_share, "SF", 10.0)
    assert by_share.blocked(10.0) == ""


def test_breaker_lets_one_probe_through() -> None:
    """After the pause one call passes; the next one waits for its outcome."""
    breaker = Breaker()
    run(breaker, "FFFFF", 0.0)
    admitted(breaker, 10.0)
    assert breaker.admit(10.0) is None
    assert breaker.admit(1000.0) is None


def test_breaker_gives_a_withdrawn_probe_to_the_next_call() -> None:
    """A probe without a verdict neither closes nor lengthens; its late outcome is not heard."""
    breaker = Breaker()
    run(breaker, "FFFFF", 0.0)
    probe = admitted(breaker, 10.0)
    breaker.withdrawn(probe)
    second = admitted(breaker, 10.0)
    breaker.succeeded(probe)
    assert breaker.admit(10.0) is None
    breaker.succeeded(second)
    assert breaker.blocked(10.0) == ""


def test_breaker_does_not_count_withdrawn_calls() -> None:
    """Cancelled calls between failures neither add to the count nor reset it."""
    breaker = Breaker()
    for _ in range(4):
        run(breaker, "F", 0.0)
        breaker.withdrawn(admitted(breaker, 0.0))
    assert breaker.blocked(0.0) == ""
    run(breaker, "F", 0.0)
    assert breaker.blocked(0.0) != ""


def test_breaker_hears_no_verdict_from_before_it_opened() -> None:
    """A hundred calls that fail together open it once, for 10 s; late successes do not close it."""
    breaker = Breaker()
    permits = [admitted(breaker, 0.0) for _ in range(100)]
    for permit in permits[:50]:
        breaker.failed(permit, 0.0)
    for permit in permits[50:75]:
        breaker.succeeded(permit)
    for permit in permits[75:]:
        breaker.failed(permit, 9.0)
    assert breaker.blocked(9.0) == "5 failures in a row; next probe in 1.0 s"
    run(breaker, "F", 10.0)
    assert breaker.blocked(10.0) == "5 failures in a row; next probe in 20.0 s"
