// One screen: what every megawatt of a site does, why, and what needs a look. Grey until something is abnormal.

import { html, render, useCallback, useEffect, useMemo, useRef, useState } from "./ui.js";
import { ApiError, call, follow, forget, keep, read, token } from "./api.js";
import { age, clock, mw, span, usd, words, zone, DASH } from "./format.js";
import { TimeAxis } from "./charts.js";
import { OverrideDialog } from "./override.js";

const EVERY_MS = 2000;
const STALE_MS = 30_000;
const HOUR = 3_600_000;
const TOLD_MS = 8000;
const LOG_ROWS = 12;
const OTHERS = 8;
const BAD = new Set(["drifted", "unreachable", "refused", "partial"]);

function App() {
  const [who, setWho] = useState(token() ? "" : null);
  const [problem, setProblem] = useState("");
  const enter = useCallback(async (given) => {
    if (given) keep(given);
    try {
      setWho((await read("/v1/whoami")).name);
      setProblem("");
    } catch (failure) {
      setProblem(failure.message);
      if (failure instanceof ApiError && failure.status === 401) {
        forget();
        setWho(null);
      }
    }
  }, []);
  useEffect(() => {
    if (who === "") enter("");
  }, []);
  if (who === null) return html`<${Door} problem=${problem} onEnter=${enter} />`;
  if (who === "") return html`<p class="lonely">${problem || "Asking the controller …"}</p>`;
  return html`<${Screen} who=${who} onLeave=${() => { forget(); setWho(null); }} />`;
}

function Door({ problem, onEnter }) {
  const [value, setValue] = useState("");
  return html`<main class="door"><h1>Wattshift</h1>
    <form onSubmit=${(event) => { event.preventDefault(); onEnter(value); }}>
      <label>Token <input type="password" autocomplete="current-password" value=${value} onInput=${(e) => setValue(e.currentTarget.value)} autofocus /></label>
      ${problem && html`<p class="problem" role="alert">✕ ${problem}</p>`}
      <button class="main">Enter</button>
      <p class="hint">The controller's token file has it; the demo prints it. It stays in this tab.</p>
    </form></main>`;
}

function Screen({ who, onLeave }) {
  const [sites, setSites] = useState([]);
  const [chosen, setChosen] = useState(sessionStorage.getItem("wattshift-site") || "");
  const [site, setSite] = useState(null);
  const [past, setPast] = useState(EMPTY_PAST);
  const [log, setLog] = useState([]);
  const [lost, setLost] = useState("");
  const [asking, setAsking] = useState(false);
  const [told, setTold] = useState("");
  const [plan, setPlan] = useState(null);
  const planRef = useRef(null);
  const pastRef = useRef(EMPTY_PAST);
  const current = chosen || sites[0]?.site || "";

  const refresh = useCallback(async () => {
    try {
      const all = (await read("/v1/sites")).sites;
      setSites(all);
      const name = all.some((each) => each.site === chosen) ? chosen : all[0]?.site;
      if (name) {
        const [found, samples] = await Promise.all([
          read(`/v1/sites/${name}`),
          read(`/v1/sites/${name}/history?since_ms=${pastRef.current.site === name ? pastRef.current.last : 0}`),
        ]);
        pastRef.current = grown(pastRef.current, name, samples);
        setPast(pastRef.current);
        setSite({ ...found, now_ms: samples.now_ms, ahead_at_ms: samples.ahead_at_ms, ahead_usd: samples.ahead_usd_per_mwh });
        // A plan changes with its decision alone, so it is read once for each.
        if (planRef.current?.site !== name || planRef.current.decision_id !== found.decision_id) {
          planRef.current = await read(`/v1/sites/${name}/plan`);
          setPlan(planRef.current);
        }
      }
      setLost("");
    } catch (failure) {
      setLost(failure.message);
      if (failure instanceof ApiError && failure.status === 401) onLeave();
    }
  }, [chosen]);

  useEffect(() => {
    refresh();
    const timer = setInterval(() => document.hidden || refresh(), EVERY_MS);
    return () => clearInterval(timer);
  }, [refresh]);

  useEffect(() => {
    if (!current) return undefined;
    const stop = new AbortController();
    setLog([]);
    // What happened before the page was opened, as far as the controller still has it in memory, then what happens.
    follow(`/v1/events?recent=true&site=${current}`, (kind, data) => setLog((now) => logged(now, kind, data)), stop.signal);
    read(`/v1/decisions?site=${current}&limit=${LOG_ROWS}`).then(
      ({ decisions }) => setLog((now) => merged(now, decisions)),
      () => {},
    );
    return () => stop.abort();
  }, [current]);

  useEffect(() => {
    if (!told) return undefined;
    const timer = setTimeout(() => setTold(""), TOLD_MS);
    return () => clearTimeout(timer);
  }, [told]);

  const now = site?.now_ms ?? Date.now();
  const alarms = useMemo(() => (site ? exceptions(site) : []), [site]);
  const [quiet, setQuiet] = useState(() => new Set(JSON.parse(sessionStorage.getItem("wattshift-seen") || "[]")));
  const see = (key) => {
    const next = key === null ? new Set() : new Set(quiet).add(key);
    sessionStorage.setItem("wattshift-seen", JSON.stringify([...next].slice(-200)));
    setQuiet(next);
  };
  const fresh = alarms.filter((each) => !quiet.has(each.key));
  const stale = !!lost || (site?.report_age_ms ?? Infinity) > STALE_MS;
  const go = (name) => {
    sessionStorage.setItem("wattshift-site", name);
    setChosen(name);
  };
  if (!site) return html`<p class="lonely">${lost || "No site has reported yet."}</p>`;
  const ahead = future(site, plan?.site === site.site ? plan : null, now);
  const main = mainLimit(site);
  const capped = { ...past, cap: past.cap.map((watts) => (watts == null ? main : Math.min(watts, main ?? watts))) };
  return html`<main>
    <h1 class="hidden">Wattshift: ${site.site}</h1>
    <header class=${stale ? "strip stale" : "strip"}>
      <label class="site"><span class="hidden">Site</span>
        <select value=${site.site} onChange=${(event) => go(event.currentTarget.value)}>${sites.map((each) => html`<option key=${each.site} value=${each.site}>${each.site}${trouble(each) ? ` (${trouble(each)})` : ""}</option>`)}</select></label>
      <${Mode} site=${site} />
      <${Fact} name="Time" value=${`${clock(now).slice(0, 5)} ${zone()}`} />
      <${Fact} name="Data" value=${age(site.report_age_ms)} bad=${stale} />
      <${Headroom} site=${site} />
      <${Fact} name="Price" value=${site.price_usd_per_mwh == null ? DASH : `${usd(site.price_usd_per_mwh, 2)}/MWh`} />
      <${Fact} name="Margin" value=${site.margin_usd_per_h == null ? DASH : `${usd(site.margin_usd_per_h, Math.abs(site.margin_usd_per_h) < 100 ? 2 : 0)}/h`} />
      <${Fact} name="Unacknowledged alarms" value=${fresh.length} bad=${fresh.length > 0} />
      <button class="main" onClick=${() => setAsking(true)}>New override</button>
      <span class="who"><a href="/runbooks" target="_blank" rel="noopener">Runbooks</a> ${who} <button class="quiet" onClick=${onLeave}>Leave</button></span>
    </header>
    ${lost && html`<p class="problem" role="alert">✕ ${lost}. Figures below are the last that were read.</p>`}
    <p class="sentence" aria-live="polite">${site.sentence}</p>
    <div class="middle">
      <div class="wide">
        <${TimeAxis} past=${capped} ahead=${ahead} now=${now} stale=${stale} />
        <${Banks} site=${site} />
      </div>
      <${Exceptions} alarms=${alarms} fresh=${fresh} onSeen=${see} onShow=${() => see(null)}
        others=${sites.filter((each) => each.site !== site.site && trouble(each))} onGo=${go} />
    </div>
    <${Overrides} site=${site} now=${now} onChanged=${refresh} onTold=${setTold} />
    <${Log} log=${log} />
    <p class="told" role="status">${told}</p>
    ${asking && html`<${OverrideDialog} site=${site} onClose=${() => setAsking(false)}
      onDone=${(done) => { setAsking(false); setTold(`Imposed ${words(done.override.kind)}; waiting for the meter.`); refresh(); }} />`}
  </main>`;
}

// Why a site that is not looked at needs a look, in few words; empty where it does not.
function trouble(each) {
  if (!each.online) return "offline";
  if ((each.report_age_ms ?? Infinity) > STALE_MS) return "no fresh report";
  if (each.mode === "fail_safe") return "fail-safe";
  if (each.mode === "local") return "local control";
  return each.faults.length ? words(each.faults[0]) : "";
}

function mainLimit(site) {
  return site.feeders.find((feeder) => !feeder.parent)?.limit_w ?? null;
}

function Mode({ site }) {
  const imposed = site.overrides.some((each) => each.state === "active");
  const mode = !site.online ? "offline" : site.mode === "local" ? "local" : site.mode === "fail_safe" ? "fail-safe" : imposed ? "manual" : "auto";
  const bad = mode === "offline" || mode === "fail-safe";
  return html`<span class=${`mode ${bad ? "bad" : mode === "auto" ? "" : "set"}`}>${bad ? "✕ " : mode === "auto" ? "" : "◆ "}${mode.toUpperCase()}</span>`;
}

function Fact({ name, value, bad }) {
  return html`<span class=${bad ? "fact bad" : "fact"}><small>${name}</small><b>${bad ? "⚠ " : ""}${value}</b></span>`;
}

function Headroom({ site }) {
  const limit = site.cap_w ?? mainLimit(site);
  const share = limit ? (site.metered_w ?? 0) / limit : 0;
  const over = share > 1.01;
  const left = limit != null && site.metered_w != null ? limit - site.metered_w : null;
  return html`<span class=${over ? "fact power bad" : "fact power"}><small>Power${site.obligation ? ", curtailed" : ""}</small>
    <b>${over ? "⚠ " : ""}${mw(site.metered_w)} of ${mw(limit)}</b>
    <meter min="0" max="1" value=${Math.min(1, share)} aria-label="share of the cap in use"></meter>
    <small>${left == null ? "" : left >= 0 ? `${mw(left)} free` : `${mw(-left)} over`}</small></span>`;
}

function Exceptions({ alarms, fresh, onSeen, onShow, others, onGo }) {
  const seen = alarms.length - fresh.length;
  return html`<aside class="exceptions" aria-label="Exceptions"><h2>Needs a look</h2>
    ${alarms.length === 0 && html`<p class="calm">Nothing here. Everything does what it was told.</p>`}
    <ul>${fresh.map((each) => html`<li key=${each.key} class=${each.grave ? "grave" : ""}>
      <span>${each.grave ? "✕" : "⚠"} ${each.text}${each.book && html` <a href=${`/runbooks/Wattshift${each.book}`} target="_blank" rel="noopener" aria-label=${`what to do: ${each.text}`}>What to do</a>`}</span><button class="quiet" onClick=${() => onSeen(each.key)} aria-label=${`acknowledge: ${each.text}`}>Seen</button></li>`)}</ul>
    ${seen > 0 && html`<p class="hint">${seen} acknowledged, still so. <button class="quiet" onClick=${onShow}>Show</button></p>`}
    ${others.length > 0 && html`<h3>Other sites</h3><ul>${others.slice(0, OTHERS).map((each) => html`<li key=${each.site} class=${each.online ? "" : "grave"}>
      <span>⚠ ${each.site}: ${trouble(each)}</span><button class="quiet" onClick=${() => onGo(each.site)} aria-label=${`show ${each.site}`}>Show</button></li>`)}</ul>
      ${others.length > OTHERS && html`<p class="hint">and ${others.length - OTHERS} more</p>`}`}
  </aside>`;
}

function Banks({ site }) {
  return html`<section class="banks" aria-label="Banks"><h2>Every bank, and why</h2><div class="scroll"><table>
    <thead><tr><th>Bank</th><th>Does</th><th class="n">Draws</th><th class="n">Target</th><th>Because</th><th class="n">Worth</th><th>At the meter</th></tr></thead>
    <tbody>${site.banks.map((bank) => html`<tr key=${bank.bank} class=${BAD.has(bank.receipt) || bank.interlocks.length ? "bad" : ""}>
      <td>${bank.bank}</td><td><i class=${`k-${bank.workload}`}></i>${bank.target_w ? bank.workload : "idle"}</td>
      <td class="n">${mw(bank.power_w)}</td><td class="n">${mw(bank.target_w)}</td>
      <td>${words(bank.reason)}${bank.cause ? html` <span class="soft">${bank.cause}</span>` : ""}</td>
      <td class="n">${bank.value_usd_per_mwh == null ? DASH : `${usd(bank.value_usd_per_mwh)}/MWh`}</td>
      <td>${bank.interlocks.length ? `✕ ${bank.interlocks.map(words).join(", ")}` : proof(bank)}</td></tr>`)}</tbody></table></div></section>`;
}

function proof(bank) {
  const mark = bank.receipt === "confirmed" ? "✓" : BAD.has(bank.receipt) ? "⚠" : "…";
  return bank.receipt ? `${mark} ${words(bank.receipt)}` : DASH;
}

function Overrides({ site, now, onChanged, onTold }) {
  const act = (work, text) => async () => {
    try {
      await work();
      onTold(text);
    } catch (failure) {
      onTold(failure.message);
    }
    onChanged();
  };
  // A reason is asked for each time: it is what the next one reads, and what keeps a slip of the hand from lifting anything.
  const asked = (question, work, text) => () => {
    const reason = window.prompt(question)?.trim();
    if (reason) act(() => work(reason), text)();
  };
  const extend = (each) => asked(`Half an hour more of ${words(each.kind)} (${each.reason}). Why?`, async (reason) => {
    const { etag } = await call("GET", `/v1/overrides/${each.id}`);
    const ends_at = new Date(Math.max(now, Date.parse(each.ends_at)) + HOUR / 2).toISOString();
    await call("PATCH", `/v1/overrides/${each.id}`, { ends_at, reason }, { "If-Match": etag });
  }, `Extended ${each.id} by half an hour.`);
  const revoke = (each) => asked(
    `Revoke ${words(each.kind)} (${each.reason}). Why?`,
    (reason) => call("DELETE", `/v1/overrides/${each.id}?reason=${encodeURIComponent(reason)}`),
    `Revoked ${each.id}.`,
  );
  const left = (each) => (each.state === "scheduled" ? `begins in ${span(Date.parse(each.starts_at) - now)}` : each.ends_at ? span(Date.parse(each.ends_at) - now) : "until lifted");
  return html`<section class="overrides" aria-label="Overrides"><h2>Overrides</h2>
    ${site.overrides.length === 0 ? html`<p class="calm">None. Wattshift decides.</p>` : html`<div class="scroll"><table>
      <thead><tr><th>What</th><th>Of</th><th class="n">Left</th><th>State</th><th>At the meter</th><th>Reason</th><th><span class="hidden">Actions</span></th></tr></thead>
      <tbody>${site.overrides.map((each) => html`<tr key=${each.id}>
        <td>${words(each.kind)}${each.value_w == null ? "" : ` ${mw(each.value_w)}`}</td>
        <td>${each.target.bank ?? each.target.feeder ?? each.target.workload ?? "site"}</td><td class="n">${left(each)}</td>
        <td>${words(each.state)}${each.superseded_by ? ` by ${each.superseded_by}` : ""}${each.note ? html` <span class="soft">${each.note}</span>` : ""}</td>
        <td>${each.state === "active" ? `${each.effect.failed ? "⚠" : each.effect.confirmed === each.effect.targets ? "✓" : "…"} ${each.effect.confirmed} of ${each.effect.targets} confirmed${failing(each.effect)}` : DASH}</td>
        <td>${each.reason} <span class="soft">${each.created_by}</span></td>
        <td class="buttons">${each.ends_at && html`<button class="quiet" onClick=${extend(each)}>+30 min</button>`}
          <button class="quiet" onClick=${revoke(each)}>Revoke</button></td></tr>`)}</tbody></table></div>`}
  </section>`;
}

// Who does not do it, by what they answered: "; a, b drifted: no power change".
function failing(effect) {
  const banks = Object.entries(effect.failing);
  const answers = [...new Set(banks.map(([, answer]) => answer))];
  return answers.map((each) => `; ${banks.filter(([, answer]) => answer === each).map(([bank]) => bank).join(", ")} ${each}`).join("");
}

function Log({ log }) {
  return html`<section class="log" aria-label="Orders"><h2>Decided, ordered, proven</h2>
    ${log.length === 0 ? html`<p class="calm">Nothing yet.</p>` : html`<div class="scroll"><table>
      <thead><tr><th>Time</th><th>By</th><th>What</th><th>Order</th></tr></thead>
      <tbody>${log.slice(0, LOG_ROWS).map((row) => html`<tr key=${`${row.at} ${row.text}`}><td class="n">${clock(row.at)}</td><td>${words(row.trigger)}</td><td>${row.text}</td><td>${row.state}</td></tr>`)}</tbody></table></div>`}
  </section>`;
}

// --- from what the API gives to what is shown -------------------------------------------------------------------------

const EMPTY_PAST = { site: "", last: 0, at: [], hash: [], hpc: [], metered: [], cap: [], planned: [], price: [] };

function grown(before, site, samples) {
  const base = before.site === site ? before : EMPTY_PAST;
  const cut = Math.max(0, base.at.length + samples.at_ms.length - 260);
  const joined = (old, more) => old.concat(more).slice(cut);
  return {
    site,
    last: samples.at_ms.at(-1) ?? base.last,
    at: joined(base.at, samples.at_ms),
    hash: joined(base.hash, samples.hash_w),
    hpc: joined(base.hpc, samples.hpc_w),
    metered: joined(base.metered, samples.metered_w),
    cap: joined(base.cap, samples.cap_w),
    planned: joined(base.planned, samples.planned_w),
    price: joined(base.price, samples.price_usd_per_mwh),
  };
}

// What is known of the next four hours: caps and curtailments with their windows, the plan by step and workload, the price planned
// with. Where there is no plan the line is `flat`: the present power, held; `why` says so.
function future(site, plan, now) {
  const windows = site.obligations.map((each) => ({ id: each.id, from: each.starts_at_ms, to: each.ends_at_ms, cap: each.award_w == null ? each.target_w : null, kind: "duty", name: each.award_w == null ? `curtail to ${mw(each.target_w)}` : `reserve of ${mw(each.award_w)} to be kept running` }));
  for (const each of site.overrides) {
    if (each.state === "expired" || each.state === "revoked") continue;
    const cap = each.kind === "cap" && !each.target.bank && !each.target.feeder && !each.target.workload ? each.value_w : null;
    windows.push({ id: each.id, from: Date.parse(each.starts_at), to: each.ends_at ? Date.parse(each.ends_at) : null, cap, kind: "override", name: [words(each.kind), each.value_w == null ? "" : mw(each.value_w), each.target.bank ?? each.target.feeder ?? each.target.workload ?? ""].filter(Boolean).join(" ") });
  }
  const main = mainLimit(site);
  const ends = new Set([now, now + 4 * HOUR]);
  for (const each of windows) for (const at of [each.from, each.to]) if (at > now && at < now + 4 * HOUR) ends.add(at);
  for (const ms of site.ahead_at_ms) if (ms > now) ends.add(ms);
  const flat = !plan || !!plan.absent;
  const steps = flat ? [] : plan.at_ms;
  for (const ms of steps) if (ms > now && ms < now + 4 * HOUR) ends.add(ms);
  const at = [...ends].sort((a, b) => a - b);
  const planned = (series) => at.map((ms) => plan[series][Math.max(0, steps.findLastIndex((begin) => begin <= ms))]);
  const priced = (ms) => site.ahead_usd[site.ahead_at_ms.findLastIndex((begin) => begin <= ms)] ?? null;
  const caps = at.map((ms) => Math.min(main ?? Infinity, ...windows.filter((w) => w.cap != null && w.from <= ms && (w.to ?? Infinity) > ms).map((w) => w.cap)));
  const worth = site.banks.filter((bank) => bank.workload === "hash" && bank.value_usd_per_mwh != null).map((bank) => bank.value_usd_per_mwh);
  return {
    at,
    cap: caps.map((watts) => (watts === Infinity ? null : watts)),
    flat,
    why: words(plan?.absent),
    plan: flat ? at.map((_, k) => (site.planned_w == null ? null : Math.min(site.planned_w, caps[k]))) : planned("power_w"),
    hash: flat ? at.map(() => null) : planned("hash_w"),
    hpc: flat ? at.map(() => null) : planned("hpc_w"),
    price: at.map(priced),
    best: worth.length ? Math.max(...worth) : null,
    worst: worth.length ? Math.min(...worth) : null,
    lanes: windows,
  };
}

function exceptions(site) {
  const out = [];
  const add = (key, text, grave = false, book = "") => out.push({ key: `${site.site}:${key}`, text, grave, book });
  if (!site.online) add("offline", "The agent is offline; the site goes to its fail-safe when its lease ends", true, "SiteStale");
  else if ((site.report_age_ms ?? 0) > STALE_MS) add("stale", `No report for ${span(site.report_age_ms)}`, true, "SiteStale");
  if (site.mode === "fail_safe") add("failsafe", "The agent has no valid lease and holds its fail-safe", true, "FailSafe");
  if (site.mode === "local") add("local", "Local control: a person on site refuses orders", false, "LocalControl");
  if (site.two_agents) add("twins", "Two agents speak for this site", true, "TwoAgents");
  if (site.fenced) add("fenced", "The agent obeys another controller", true, "SiteFenced");
  if (site.price_usd_per_mwh == null) add("price", "No fresh energy price is known", false, "PriceStale");
  const late = new Map(site.shortfalls.filter((short) => short.kind === "deadline").map((short) => [short.id, short]));
  for (const job of late.values()) add(`late:${job.id}`, `Job ${job.id} (${mw(job.short_w)}) will be late: ${job.detail}`);
  for (const short of site.shortfalls) if (short.kind !== "deadline") add(`short:${short.kind}:${short.id}`, `${words(short.kind)} ${short.id}: short by ${mw(short.short_w)}`, true, short.kind === "obligation" ? "ObligationShort" : "CapBreach");
  for (const feeder of site.feeders) {
    if (feeder.power_w != null && feeder.power_w > feeder.limit_w) add(`feeder:${feeder.feeder}`, `Feeder ${feeder.feeder} draws ${mw(feeder.power_w)} of ${mw(feeder.limit_w)}`, true, "FeederDerated");
  }
  for (const bank of site.banks) {
    for (const kind of bank.interlocks) add(`trip:${bank.bank}:${kind}`, `${bank.bank} tripped: ${words(kind)}`, true, kind === "over_temperature" ? "ThermalTrip" : "Interlock");
    if (BAD.has(bank.receipt)) add(`receipt:${bank.bank}:${bank.receipt}`, `${bank.bank} is ${words(bank.receipt)}: ${words(bank.receipt_reason)}`, false, "BankNotFollowing");
  }
  for (const code of site.faults) add(`fault:${code}`, words(code));
  return out;
}

// Decisions from the journal under those that were told; one that only says the same again is left out.
function merged(now, decisions) {
  const have = new Set(now.map((row) => row.id));
  const older = decisions.filter((d) => !have.has(d.id)).map((d) => ({ id: d.id, at: d.at_ms, trigger: d.trigger, text: d.sentence, state: "" }));
  const rows = [...now, ...older].sort((a, b) => b.at - a.at);
  return rows.filter((row, k) => row.state || (row.text !== rows[k + 1]?.text && row.text !== rows[k - 1]?.text));
}

// The log grows by what happens: a decision, its order, and the receipts that prove it.
function logged(now, kind, data) {
  if (kind === "decision") {
    if (now.some((row) => row.id === data.id)) return now;
    // What only says the same again is one row: its order proves the same.
    if (now[0]?.text === data.sentence) return [{ ...now[0], id: data.id }, ...now.slice(1)];
    return [{ id: data.id, at: data.at_ms, trigger: data.trigger, text: data.sentence, state: "" }, ...now].slice(0, 60);
  }
  if (kind === "order") {
    return now.map((row) => {
      if (row.id === data.decision_id) return { ...row, seq: data.seq, state: /^[✓…⚠]/.test(row.state) ? row.state : data.published ? `sent ${clock(data.at_ms)}` : "not sent: no link" };
      // An order that was not yet proven when the next one went out never will be.
      return /^(sent|…)/.test(row.state) ? { ...row, seq: null, state: `replaced${row.state.startsWith("…") ? `, ${row.state.slice(2)} by then` : ""}` } : row;
    });
  }
  if (kind === "receipt") {
    const banks = data.banks ?? [];
    const confirmed = banks.filter((bank) => bank.state === "confirmed").length;
    const bad = banks.filter((bank) => BAD.has(bank.state)).length;
    return now.map((row) => {
      if (row.seq !== data.order_seq) return row;
      if (!data.accepted) return { ...row, state: `✕ refused: ${words(data.reason)}` };
      if (confirmed === banks.length) return { ...row, state: row.state.startsWith("✓") ? row.state : `✓ confirmed at the meter${slowest(banks)}` };
      return { ...row, state: `${bad ? "⚠" : "…"} ${confirmed} of ${banks.length} confirmed` };
    });
  }
  return now;
}

function slowest(banks) {
  const after = Math.max(0, ...banks.map((bank) => bank.after_ms ?? 0));
  return after ? ` after ${span(after)}` : "";
}

render(html`<${App} />`, document.getElementById("app"));
