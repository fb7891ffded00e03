// Asks for what is new every two seconds and draws it. Everything that comes is written as text, never as markup.
"use strict";

const KEPT = 200;
const EVERY_MS = 2000;
const SVG = "http://www.w3.org/2000/svg";
const decisions = [];
const opened = new Map(); // number of a decision -> the arms that it considered
let state = null;
let paused = false;
let failures = 0;

const at = (id) => document.getElementById(id);

function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) element[key] = value;
  element.append(...children);
  return element;
}

function draw(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function quantile(values, share) {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : NaN;
}

const used = (one) => (one.spendable_ms > 0 ? one.total_ms / one.spendable_ms : NaN);
const late = (one) => one.spendable_ms > 0 && one.total_ms > one.spendable_ms + Math.max(5, 0.02 * one.spendable_ms);
const percent = (share, digits = 0) => (Number.isFinite(share) ? `${(100 * share).toFixed(digits)} %` : "–");
const ms = (value) => (Number.isFinite(value) ? `${value.toFixed(value < 10 ? 1 : 0)} ms` : "–");
const words = (name) => name.replaceAll("_", " ");
const counted = (values) => {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((one, other) => other[1] - one[1]);
};

function figure(id, value, note, bad = false) {
  at(id).textContent = value;
  at(id).className = bad ? "bad" : "";
  at(`${id}-note`).textContent = note;
}

function showFigures() {
  const shares = decisions.map(used).filter(Number.isFinite);
  const budgeted = decisions.filter((one) => one.spendable_ms > 0);
  const lateOnes = budgeted.filter(late).length;
  figure("kept", budgeted.length ? percent(1 - lateOnes / budgeted.length, lateOnes ? 1 : 0) : "–", `${state.late} late of ${state.answered} since the start`, lateOnes > 0);
  figure("use", percent(quantile(shares, 0.5)), `p95 ${percent(quantile(shares, 0.95))}, most ${percent(Math.max(...shares))}`);
  const times = decisions.map((one) => one.total_ms);
  figure("p95", ms(quantile(times, 0.95)), `median ${ms(quantile(times, 0.5))}`);
  const less = decisions.filter((one) => one.degradation);
  const [worst] = counted(less.map((one) => one.degradation));
  figure("degraded", percent(less.length / decisions.length), worst ? `mostly ${words(worst[0])}` : "every plan was carried out");
  figure("busy", percent(state.utilisation), "the busiest model, or the event loop", state.utilisation > 0.9);
}

function showBudget() {
  const svg = at("budget");
  const top = Math.max(1.2, Math.min(2, Math.max(...decisions.map(used).filter(Number.isFinite), 0) * 1.05));
  const y = (share) => 200 - (Math.min(share, top) / top) * 185;
  const x = (place) => 52 + ((KEPT - decisions.length + place) / KEPT) * 580;
  const marks = [];
  for (let share = 0; share <= top; share += 0.25) {
    marks.push(draw("line", { class: share === 1 ? "limit" : "grid", x1: 46, x2: 636, y1: y(share), y2: y(share) }));
    if (share % 0.5 === 0) marks.push(draw("text", { class: "end", x: 40, y: y(share) + 4 }, percent(share)));
  }
  decisions.forEach((one, place) => {
    if (!Number.isFinite(used(one))) return;
    const dot = draw("circle", { class: `dot ${one.strategy} ${late(one) ? "late" : ""}`, cx: x(place), cy: y(used(one)), r: 3.4 });
    dot.append(draw("title", {}, `${one.arm} at ${one.planned_k}: ${ms(one.total_ms)} of ${ms(one.spendable_ms)}`));
    marks.push(dot);
  });
  svg.replaceChildren(...marks);
  const strategies = counted(decisions.map((one) => one.strategy));
  at("strategies").replaceChildren(...strategies.map(([name]) => make("li", { className: name }, words(name))));
}

function bars(id, rows) {
  const most = Math.max(...rows.map((row) => row.count), 1);
  at(id).replaceChildren(
    ...rows.flatMap((row) => {
      const bar = make("div", { className: `bar ${row.kind ?? ""}` });
      bar.style.width = `${(100 * row.count) / most}%`;
      return [make("span", {}, row.label), make("div", {}, bar), make("span", { className: "count" }, `${row.count}${row.note ?? ""}`)];
    }),
  );
}

function showChoices() {
  bars(
    "arms",
    counted(decisions.map((one) => one.arm)).map(([arm, count]) => {
      const own = decisions.filter((one) => one.arm === arm);
      const ks = own.map((one) => one.planned_k).filter(Boolean);
      const range = ks.length ? `, k ${Math.min(...ks)}${Math.min(...ks) < Math.max(...ks) ? ` to ${Math.max(...ks)}` : ""}` : "";
      return { label: words(arm === "none" ? "first-stage order" : arm), count, kind: own[0].strategy, note: range };
    }),
  );
  const reasons = counted(decisions.map((one) => words(one.reason)));
  bars("reasons", reasons.map(([label, count]) => ({ label, count })));
}

// Complete work of a model for this request alone: what is kept, cut short or fused without a model says nothing.
// What is predicted is all that comes after the decision: queue, model, messages and fusing.
const teaches = (one) => one.score_ms > 0 && one.p50_ms > 0 && one.cache === "miss" && !one.degradation;

function showEstimator() {
  const own = decisions.filter(teaches);
  const points = own.map((one) => ({ ...one, taken: one.total_ms - one.route_ms })).filter((one) => one.taken > 0);
  const values = points.flatMap((one) => [one.taken, one.p50_ms]);
  const low = 10 ** Math.floor(Math.log10(Math.min(...values, 1)));
  const high = 10 ** Math.ceil(Math.log10(Math.max(...values, 10)));
  const scale = (value) => Math.log(value / low) / Math.log(high / low);
  const x = (value) => 60 + scale(value) * 560;
  const y = (value) => 262 - scale(value) * 250;
  const marks = [];
  for (let value = low; value <= high * 1.001; value *= 10) {
    marks.push(draw("line", { class: "grid", x1: x(value), x2: x(value), y1: 12, y2: 262 }));
    marks.push(draw("line", { class: "grid", x1: 60, x2: 620, y1: y(value), y2: y(value) }));
    marks.push(draw("text", { class: "middle", x: x(value), y: 280 }, `${value}`), draw("text", { class: "end", x: 52, y: y(value) + 4 }, `${value}`));
  }
  marks.push(draw("line", { class: "even", x1: x(low), y1: y(low), x2: x(high), y2: y(high) }));
  marks.push(draw("text", { class: "end", x: 620, y: 297 }, "predicted, ms"), draw("text", { x: 60, y: 6 }, "taken, ms"));
  for (const one of points) {
    const dot = draw("circle", { class: `dot ${one.strategy}`, cx: x(one.p50_ms), cy: y(one.taken), r: 4 });
    dot.append(draw("title", {}, `${one.arm} at ${one.planned_k}: predicted ${ms(one.p50_ms)}, taken ${ms(one.taken)}`));
    marks.push(dot);
  }
  at("predictions").replaceChildren(...marks);
  at("estimates").tBodies[0].replaceChildren(
    ...counted(points.map((one) => one.arm)).map(([arm, count]) => {
      const mine = points.filter((one) => one.arm === arm);
      const ratio = quantile(mine.map((one) => one.taken / one.p50_ms), 0.5);
      const within = mine.filter((one) => one.taken <= one.p95_ms).length / mine.length;
      return make("tr", {}, cell(arm), cell(`${count}`, "number"), cell(ratio.toFixed(2), "number"), cell(percent(within), within < 0.8 ? "number bad" : "number"));
    }),
  );
}

// A choice that nobody has made follows the newest decision.
function options(select, values, name, newest) {
  const before = select.dataset.chosen ? select.value : newest;
  if ([...select.options].map((each) => each.value).join("\n") !== values.join("\n")) {
    select.replaceChildren(...values.map((value) => make("option", { value }, name(value))));
  }
  if (values.includes(before)) select.value = before;
}

function showCurves() {
  const newest = decisions.at(-1);
  options(at("corpus"), state.profiles.map((each) => each.corpus), (value) => value, newest?.corpus);
  const profile = state.profiles.find((each) => each.corpus === at("corpus").value) ?? state.profiles[0];
  options(at("signals"), Object.keys(profile.gains), (value) => value.replaceAll("+", " + ") || "none", newest?.signals);
  const curves = Object.entries(profile.gains[at("signals").value] ?? {});
  const strategyOf = (name) => state.arms.find((arm) => arm.name === name)?.strategy ?? "signals";
  const points = curves.flatMap(([, own]) => own);
  const most = Math.max(...points.map((point) => point[1]), 0.02);
  const least = Math.min(...points.map((point) => point[2]), 0);
  const furthest = Math.max(...points.map((point) => point[0]), 100);
  const x = (k) => 56 + (Math.log(k) / Math.log(furthest)) * 440;
  const y = (gain) => 258 - ((gain - least) / (most - least)) * 240;
  const marks = [];
  const step = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2].find((each) => (most - least) / each <= 6) ?? 0.5;
  for (let gain = Math.ceil(least / step) * step; gain <= most + 1e-9; gain += step) {
    marks.push(draw("line", { class: Math.abs(gain) < 1e-9 ? "even" : "grid", x1: 56, x2: 496, y1: y(gain), y2: y(gain) }));
    marks.push(draw("text", { class: "end", x: 48, y: y(gain) + 4 }, gain.toFixed(step < 0.01 ? 3 : 2).replace("-0.00", "0.00")));
  }
  for (const k of [1, 2, 5, 10, 25, 50, 100, 200].filter((each) => each <= furthest)) {
    marks.push(draw("text", { class: "middle", x: x(k), y: 278 }, `${k}`));
  }
  marks.push(draw("text", { class: "end", x: 496, y: 297 }, "candidates scored (k)"));
  const labels = [];
  for (const [name, own] of curves) {
    const path = [[1, 0, 0], ...own];
    const along = (column) => path.map((point) => `${x(point[0])},${y(point[column])}`);
    const kind = strategyOf(name);
    marks.push(draw("polygon", { class: `band ${kind}`, points: [...along(1), ...along(2).reverse()].join(" ") }));
    marks.push(draw("polyline", { class: `curve ${kind}`, points: along(1).join(" ") }));
    labels.push({ name, kind, y: y(path.at(-1)[1]) + 4 });
  }
  labels.sort((one, other) => one.y - other.y);
  labels.forEach((label, place) => {
    if (place > 0) label.y = Math.max(label.y, labels[place - 1].y + 15);
    marks.push(draw("text", { class: `named ${label.kind}`, x: 504, y: label.y }, label.name));
  });
  at("curves").replaceChildren(...marks);
  at("models").replaceChildren(
    ...state.arms.map((arm) => make("li", { className: arm.state }, `${arm.name}: ${words(arm.state)}${arm.detail ? `, ${arm.detail}` : ""}`)),
  );
}

function cell(text, className = "") {
  return make("td", { className }, text);
}

function row(one) {
  const time = new Date(one.at * 1000).toLocaleTimeString("en-GB");
  const share = used(one);
  const arm = make("td", { className: one.strategy }, make("span", { className: "swatch" }), one.arm === "none" ? "first-stage order" : one.arm);
  const scored = one.planned_k ? `${one.cache === "miss" ? "" : `${one.cache}, `}${one.scored_k} of ${one.planned_k}` : "";
  const line = make(
    "tr",
    { className: opened.has(one.number) ? "decision open" : "decision", tabIndex: 0 },
    cell(time, "number"), arm, cell(scored, "number"), cell(words(one.reason)),
    cell(one.spendable_ms.toFixed(0), "number"), cell(one.total_ms.toFixed(1), "number"),
    cell(percent(share), late(one) ? "number bad" : "number"),
    cell(one.p50_ms > 0 ? `${one.p50_ms.toFixed(1)} / ${one.p95_ms.toFixed(1)}` : "", "number"),
    cell(one.gain ? `${one.gain > 0 ? "+" : ""}${one.gain.toFixed(3)}` : "", "number"),
    cell(words(one.degradation)), cell(one.micro_usd ? (one.micro_usd / 1e6).toFixed(6) : "", "number"),
    cell(one.trace_id.slice(0, 8), "code"),
  );
  line.title = one.trace_id ? `trace ${one.trace_id}, corpus ${one.corpus}` : `corpus ${one.corpus}`;
  line.addEventListener("click", () => toggle(one.number));
  line.addEventListener("keydown", (event) => event.key === "Enter" && toggle(one.number));
  return opened.has(one.number) ? [line, considered(opened.get(one.number))] : [line];
}

function considered(arms) {
  const lines = arms.map((arm) =>
    make(
      "tr",
      { className: arm.verdict },
      cell(arm.k ? `${arm.arm} at ${arm.k}` : "first-stage order"), cell(words(arm.verdict)), cell(arm.detail, "faint"),
      cell(arm.p50_ms ? `${arm.p50_ms.toFixed(1)} / ${arm.p95_ms.toFixed(1)} ms` : "", "number"),
    ),
  );
  return make("tr", { className: "considered" }, make("td", { colSpan: 12 }, make("table", {}, make("tbody", {}, ...lines))));
}

function showTable() {
  const body = at("decisions").tBodies[0];
  const focused = [...body.querySelectorAll("tr.decision")].indexOf(document.activeElement);
  body.replaceChildren(...decisions.toReversed().flatMap(row));
  if (focused >= 0) body.querySelectorAll("tr.decision")[focused]?.focus();
}

async function toggle(number) {
  if (opened.has(number)) opened.delete(number);
  else {
    const answer = await fetch(`considered/${number}.json`);
    if (answer.ok) opened.set(number, await answer.json());
  }
  showTable();
}

function show() {
  showCurves();
  if (!decisions.length) return;
  showFigures();
  showBudget();
  showChoices();
  showEstimator();
  showTable();
}

async function look() {
  try {
    const last = decisions.length ? decisions.at(-1).number : 0;
    const answer = await fetch(`state.json?after=${last}`);
    if (!answer.ok) throw new Error(`${answer.status}`);
    const fresh = await answer.json();
    if (fresh.answered < last) decisions.length = 0; // another sidecar, started since
    state = fresh;
    decisions.push(...state.decisions);
    decisions.splice(0, Math.max(0, decisions.length - KEPT));
    for (const number of opened.keys()) if (!decisions.some((one) => one.number === number)) opened.delete(number);
    failures = 0;
    const since = new Date(state.since * 1000).toLocaleString("en-GB");
    at("status").textContent = `mode ${state.mode}${state.draining ? ", draining" : ""} · ${state.answered} answers since ${since}`;
    at("status").className = "";
    show();
  } catch (error) {
    failures += 1;
    at("status").textContent = `no answer from the sidecar (${error.message})`;
    at("status").className = "lost";
  }
}

async function run() {
  if (!paused) await look();
  setTimeout(run, EVERY_MS * Math.min(8, 1 + failures));
}

at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  at("pause").textContent = paused ? "Go on" : "Pause";
});
for (const id of ["corpus", "signals"]) {
  at(id).addEventListener("change", (event) => {
    event.target.dataset.chosen = "yes";
    if (state) showCurves();
  });
}
run();
