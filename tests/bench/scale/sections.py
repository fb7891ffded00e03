"""From what was measured and simulated to the tables and the figures that are followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from tests.bench.report import Row, Section, Spread
from tests.bench.scale.sharing import CALLERS, ROUNDS, SECONDS, SMALL, Compared
from tests.bench.scale.simulation import Figures, Load
from tests.bench.scale.workload import AT_ONCE, CANDIDATES, MODEL, ONE_BY_ONE, TOGETHER_S, Measured, Way

IN_PROCESS = "in process"
HOP_GOAL_MS = 12.0
FIGURES = (
    "hop_p50_ms",
    "requests_per_s_in_process",
    "requests_per_s_pool_of_1",
    "requests_per_s_pool_of_2",
    "shared_calls_x_embedded",
    "shared_calls_x_torch",
    "simulated_adherence_worst",
)


def pool_of(replicas: int) -> str:
    """The name of a pool's row."""
    return f"pool of {replicas}"


def measured_section(measured: Mapping[str, Measured]) -> Section:
    """One row, and one figure, for each place that the model was called at; its name says where."""
    return Section(
        title=f"{MODEL}, one thread, {CANDIDATES} candidates",
        rows=[Row(name, _values(asdict(one))) for name, one in measured.items()],
        figures={f"requests_per_s_{name.replace(' ', '_')}": one.requests_per_s for name, one in measured.items()},
        notes=(
            f"p50, p95: {ONE_BY_ONE} requests one after the other; requests_per_s and the p99 with it: {AT_ONCE} "
            f"callers that never wait, for {TOGETHER_S:g} s",
        ),
    )


def hop_section(measured: Mapping[str, Measured], way: Way) -> Section:
    """What a pool of one replica takes more than the model in the process, and where."""
    hop_ms = measured[pool_of(1)].p50_ms - measured[IN_PROCESS].p50_ms
    return Section(
        title=f"The hop: ms more at p50 (goal: at most {HOP_GOAL_MS:g})",
        rows=[Row(pool_of(1), _values({"hop_p50_ms": hop_ms, **asdict(way)}))],
        figures={"hop_p50_ms": hop_ms},
        notes=(
            "by a bare gRPC client, medians: proxy_ms from it through Ray's proxy to the ingress and back, replica_ms "
            "in the ingress and from there to the replica and back, model_ms the model's own",
        ),
    )


def sharing_section(compared: Sequence[Compared]) -> Section:
    """One row for each model and number of candidates, and a figure for each model: the gain at the fewest of them."""
    rows, figures = [], {}
    for one in compared:
        gain = Spread.of([shared / alone for shared, alone in zip(one.shared_per_s, one.alone_per_s, strict=True)])
        if one.candidates == min(SMALL):
            figures[f"shared_calls_x_{'embedded' if one.model == MODEL else 'torch'}"] = gain.median
        values = {"shared_per_s": Spread.of(one.shared_per_s), "alone_per_s": Spread.of(one.alone_per_s), "x": gain}
        medians = {"shared_p50_ms": one.shared_p50_ms, "alone_p50_ms": one.alone_p50_ms}
        rows.append(Row(f"{one.model}, {one.candidates} candidates", values | _values(medians)))
    return Section(
        title="Small requests that share calls, and with a call for each",
        rows=rows,
        figures=figures,
        notes=(f"requests/s of {CALLERS} callers that never wait, one thread, {ROUNDS} rounds of {SECONDS:g} s each",),
    )


def simulation_section(load: Load, simulated: Sequence[Figures]) -> Section:
    """One row for each number of replicas."""
    rows = []
    for figures in simulated:
        values = asdict(figures)
        rows.append(Row(f"{values.pop('replicas')} replicas", _values(values)))
    return Section(
        title=f"Simulated: {load.rate_per_s:,.0f} requests/s, budget {load.budget_ms:g} ms",
        rows=rows,
        figures={"simulated_adherence_worst": min(figures.adherence for figures in simulated)},
        notes=(
            "shares: adherence of the answers, within budget + 5 ms; useful of the candidates, scored; full and "
            "first_stage of the answers; busy of the replicas' time",
        ),
    )


def _values(numbers: Mapping[str, float]) -> dict[str, Spread]:
    return {name: Spread.of([number]) for name, number in numbers.items()}
