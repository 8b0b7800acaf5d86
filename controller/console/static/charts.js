// The time axis: two hours back, four ahead, a line at now. Power stacked by workload against the cap; price below.

import { html, useEffect, useRef, useState } from "./ui.js";
import { clock, mw, usd, DASH } from "./format.js";

const BACK_S = 7200;
const AHEAD_S = 14400;

export function TimeAxis({ past, ahead, now, stale }) {
  const [table, setTable] = useState(false);
  return html`<section class=${`axis ${stale ? "stale" : ""}`} aria-label="Power and price over time">
    <div class="head">
      <h2>Power and price</h2>
      <span class="keys"><i class="k-hpc"></i>HPC <i class="k-hash"></i>hashing <i class="k-rest"></i>cooling and base
        <i class="k-cap"></i>cap <i class="k-plan"></i>plan <i class="k-price"></i>price <i class="k-even"></i>break-even</span>
      <button class="quiet" aria-pressed=${table} onClick=${() => setTable(!table)}>${table ? "Chart" : "Table"}</button>
    </div>
    ${stale && html`<p class="stalenote">No fresh data: what is shown is what was last known.</p>`}
    ${ahead.why && html`<p class="hint">No plan ahead (${ahead.why}): the dashed line holds what is decided now.</p>`}
    ${table
      ? html`<${AheadTable} ahead=${ahead} /><${PastTable} past=${past} />`
      : html`<${Power} past=${past} ahead=${ahead} now=${now} /><${Price} past=${past} ahead=${ahead} now=${now} />
          <${Lanes} ahead=${ahead} now=${now} />`}
  </section>`;
}

function Power({ past, ahead, now }) {
  const { at, hash, hpc, metered } = past;
  const known = at.map((_, k) => metered[k] ?? sum(hash[k], hpc[k]));
  const xs = at.map((ms) => ms / 1000).concat(ahead.at.map((ms) => ms / 1000));
  const pad = ahead.at.map(() => null);
  const [unit, size] = Math.max(...known, ...ahead.cap, 0) < 1e6 ? ["kW", 1e3] : ["MW", 1e6];
  const top = (list) => list.map((v) => (v == null ? null : v / size));
  const lowHpc = top(hpc);
  const midHash = at.map((_, k) => (hpc[k] == null && hash[k] == null ? null : sum(hpc[k], hash[k]) / size));
  const all = top(known);
  const cap = top(past.cap).concat(top(ahead.cap));
  const plan = top(past.planned).concat(top(ahead.plan));
  const gone = at.map(() => null);
  const stack = ahead.flat ? pad : top(ahead.at.map((_, k) => sum(ahead.hpc[k], ahead.hash[k])));
  const data = [xs, all.concat(pad), midHash.concat(pad), lowHpc.concat(pad),
    gone.concat(ahead.flat ? pad : top(ahead.plan)), gone.concat(stack), gone.concat(top(ahead.hpc)), cap, plan];
  const stepped = uPlot.paths.stepped({ align: 1 });
  const drawn = ahead.plan.filter((watts) => watts != null);
  const range = drawn.length ? `; planned ahead from ${mw(Math.min(...drawn))} to ${mw(Math.max(...drawn))}` : "";
  return html`<${Plot} data=${data} now=${now} height=${210} label=${unit} told=${range}
    make=${(css) => [
      { label: "meter", stroke: css("--rest"), fill: css("--rest"), width: 0 },
      { label: "hashing", stroke: css("--hash"), fill: css("--hash"), width: 0 },
      { label: "HPC", stroke: css("--hpc"), fill: css("--hpc"), width: 0 },
      { label: "planned ahead", fill: faint(css, "--rest"), width: 0, paths: stepped },
      { label: "hashing ahead", fill: faint(css, "--hash"), width: 0, paths: stepped },
      { label: "HPC ahead", fill: faint(css, "--hpc"), width: 0, paths: stepped },
      { label: "cap", stroke: css("--ink"), width: 1.5, paths: uPlot.paths.stepped({ align: 1 }) },
      { label: "plan", stroke: css("--ink"), width: 1.5, dash: [6, 5], paths: uPlot.paths.stepped({ align: 1 }) },
    ]} />`;
}

// What is only planned is paler; opaque, for one area lies over the other.
function faint(css, name) {
  return `color-mix(in srgb, ${css(name)} 45%, ${css("--card")})`;
}

function Price({ past, ahead, now }) {
  const xs = past.at.concat(ahead.at).map((ms) => ms / 1000);
  const even = (value) => xs.map(() => value ?? null);
  const data = [xs, past.price.concat(ahead.price), even(ahead.best), even(ahead.worst)];
  return html`<${Plot} data=${data} now=${now} height=${130} label="USD/MWh"
    make=${(css) => [
      { label: "price", stroke: css("--price"), width: 1.6, paths: uPlot.paths.stepped({ align: 1 }) },
      { label: "break-even, best bank", stroke: css("--soft"), width: 1.2, dash: [3, 4] },
      { label: "break-even, worst bank", stroke: css("--soft"), width: 1.2, dash: [1, 4] },
    ]} />`;
}

// One uPlot canvas that follows its box, its data and the colour scheme.
function Plot({ data, now, height, label, make, told = "" }) {
  const box = useRef(null);
  const plot = useRef(null);
  const scheme = useScheme();
  useEffect(() => {
    const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false } };
    const node = box.current;
    if (!node) return undefined;
    const made = new uPlot(
      {
        width: node.clientWidth,
        height,
        cursor: { y: false, points: { show: false } },
        legend: { show: false },
        scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(high ?? 1, 0.001) * 1.08] } },
        axes: [
          { ...axis, size: 26, space: 80, values: (_, ticks) => ticks.map((s) => clock(s * 1000).slice(0, 5)) },
          { ...axis, size: 58, label, labelSize: 14, labelFont: "11px system-ui" },
        ],
        series: [{}, ...make(css).map((each) => ({ points: { show: false }, ...each }))],
        hooks: { draw: [(u) => drawNow(u, css("--ink"))] },
      },
      data,
      node,
    );
    plot.current = made;
    const watch = new ResizeObserver(() => made.setSize({ width: node.clientWidth, height }));
    watch.observe(node);
    return () => {
      watch.disconnect();
      made.destroy();
    };
  }, [scheme, height, label]);
  useEffect(() => {
    const u = plot.current;
    if (!u) return;
    u.nowS = now / 1000;
    u.setData(data, false);
    u.setScale("x", { min: now / 1000 - BACK_S, max: now / 1000 + AHEAD_S });
  }, [data, now]);
  return html`<div class="plot" ref=${box} role="img" aria-label=${`${label} from two hours back to four hours ahead${told}; the button Table shows the figures`}></div>`;
}

function drawNow(u, colour) {
  if (!u.nowS) return;
  const x = u.valToPos(u.nowS, "x", true);
  const { ctx, bbox } = u;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.setLineDash([2, 3]);
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
}

// Overrides and obligations as bars under the axis.
function Lanes({ ahead, now }) {
  const from = now - BACK_S * 1000;
  const to = now + AHEAD_S * 1000;
  const share = (ms) => Math.min(1, Math.max(0, (ms - from) / (to - from)));
  return html`<ul class="lanes" aria-label="Overrides and curtailments on the time axis">
    ${ahead.lanes.map((lane) => {
      const left = share(lane.from);
      const right = share(lane.to ?? to);
      return html`<li key=${lane.id}><span class=${`bar ${lane.kind}`} style=${{ left: `${left * 100}%`, width: `${Math.max(0.4, (right - left) * 100)}%` }}></span>
        <span class="lanename" style=${{ left: `${Math.min(right - left < 0.2 ? right : left, 0.75) * 100}%` }}>${lane.name}</span></li>`;
    })}
  </ul>`;
}

// The rows in which something changes.
function AheadTable({ ahead }) {
  const shown = ["plan", "hash", "hpc", "cap", "price"];
  const rows = ahead.at.map((_, k) => k).filter((k) => k === 0 || shown.some((name) => ahead[name][k] !== ahead[name][k - 1]));
  return html`<div class="scroll"><table class="ahead"><caption>The next four hours, as ${ahead.flat ? "decided now" : "planned"}: each row holds until the next</caption>
    <thead><tr><th>From</th><th>Plan</th><th>Hashing</th><th>HPC</th><th>Cap</th><th>Price</th></tr></thead>
    <tbody>${rows.map((k) => html`<tr key=${ahead.at[k]}><td>${clock(ahead.at[k])}</td><td>${mw(ahead.plan[k])}</td>
      <td>${mw(ahead.hash[k])}</td><td>${mw(ahead.hpc[k])}</td><td>${mw(ahead.cap[k])}</td>
      <td>${ahead.price[k] == null ? DASH : usd(ahead.price[k], 2)}</td></tr>`)}</tbody></table></div>`;
}

function PastTable({ past }) {
  const rows = [];
  for (let k = past.at.length - 1; k >= 0 && rows.length < 40; k -= 6) rows.push(k);
  return html`<div class="scroll"><table class="past"><caption>The last two hours, every three minutes</caption>
    <thead><tr><th>Time</th><th>Metered</th><th>Hashing</th><th>HPC</th><th>Cap</th><th>Plan</th><th>Price</th></tr></thead>
    <tbody>${rows.map((k) => html`<tr key=${past.at[k]}><td>${clock(past.at[k])}</td><td>${mw(past.metered[k])}</td>
      <td>${mw(past.hash[k])}</td><td>${mw(past.hpc[k])}</td><td>${mw(past.cap[k])}</td><td>${mw(past.planned[k])}</td>
      <td>${past.price[k] == null ? DASH : usd(past.price[k], 2)}</td></tr>`)}</tbody></table></div>`;
}

function useScheme() {
  const query = matchMedia("(prefers-color-scheme: dark)");
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const changed = () => setDark(query.matches);
    query.addEventListener("change", changed);
    return () => query.removeEventListener("change", changed);
  }, []);
  return dark;
}

function sum(a, b) {
  return (a ?? 0) + (b ?? 0);
}
