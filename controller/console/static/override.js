// The way to take over: say what, look at what would follow, impose it. The preview is the API's own.

import { html, useEffect, useRef, useState } from "./ui.js";
import { call } from "./api.js";
import { mw, usd, words, DASH } from "./format.js";

const KINDS = [
  ["cap", "Cap: draw at most"],
  ["floor", "Floor: draw at least"],
  ["hold", "Hold: keep what it does"],
  ["force_hash", "Force hashing"],
  ["force_hpc", "Force HPC"],
  ["lockout", "Lockout: stay down, people work on it"],
  ["emergency_stop", "Emergency stop: down at once, firm work too"],
];
const AT_ONCE = new Set(["emergency_stop", "lockout"]);
const VALUED = new Set(["cap", "floor"]);

export function OverrideDialog({ site, onClose, onDone }) {
  const box = useRef(null);
  const [form, setForm] = useState({ kind: "cap", scope: "site", value: "", minutes: "15", reason: "", ticket: "" });
  const [seen, setSeen] = useState(null);
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    box.current.showModal();
  }, []);
  const change = (name) => (event) => {
    setSeen(null);
    setForm({ ...form, [name]: event.currentTarget.value });
  };
  const attempt = async (work) => {
    setBusy(true);
    setError("");
    try {
      await work();
    } catch (failure) {
      setError(failure.message);
      setSeen(null);
    }
    setBusy(false);
  };
  const preview = (event) => {
    event.preventDefault();
    attempt(async () => setSeen((await call("POST", "/v1/overrides:preview", ask(site.site, form))).told));
  };
  const impose = () =>
    box.current.querySelector("form").reportValidity() && attempt(async () => {
      const key = randomKey();
      const body = { ...ask(site.site, form), ...(seen ? { confirm_token: seen.confirm_token } : {}) };
      onDone((await call("POST", "/v1/overrides", body, { "Idempotency-Key": key })).told);
    });
  const feeders = site.feeders.filter((feeder) => feeder.parent);
  // Every second counts for these, so that they wait for no preview; all others are seen first.
  const ready = seen || AT_ONCE.has(form.kind);
  const workloads = [...new Set(site.banks.map((bank) => bank.workload))].sort();
  return html`<dialog ref=${box} class="dialog" aria-labelledby="override-title" onClose=${onClose}>
    <form onSubmit=${preview}>
      <h2 id="override-title">Override ${site.site}</h2>
      <label>What
        <select name="kind" value=${form.kind} onChange=${change("kind")}>
          ${KINDS.map(([kind, text]) => html`<option key=${kind} value=${kind}>${text}</option>`)}
        </select></label>
      <label>Of
        <select name="scope" value=${form.scope} onChange=${change("scope")}>
          <option value="site">the whole site</option>
          ${feeders.map((feeder) => html`<option key=${feeder.feeder} value=${`feeder:${feeder.feeder}`}>feeder ${feeder.feeder}</option>`)}
          ${workloads.map((name) => html`<option key=${name} value=${`workload:${name}`}>all banks for ${name}</option>`)}
          ${site.banks.map((bank) => html`<option key=${bank.bank} value=${`bank:${bank.bank}`}>bank ${bank.bank}</option>`)}
        </select></label>
      ${VALUED.has(form.kind) &&
      html`<label>Megawatts
        <input name="value" inputmode="decimal" required value=${form.value} onInput=${change("value")} /></label>`}
      <label>For minutes ${form.kind === "lockout" ? "(empty: until it is lifted)" : ""}
        <input name="minutes" inputmode="numeric" required=${form.kind !== "lockout"} value=${form.minutes} onInput=${change("minutes")} /></label>
      <label>Reason
        <input name="reason" required maxlength="400" value=${form.reason} onInput=${change("reason")} /></label>
      <label>Ticket (optional)
        <input name="ticket" maxlength="400" value=${form.ticket} onInput=${change("ticket")} /></label>
      ${error && html`<p class="problem" role="alert">✕ ${error}</p>`}
      ${seen && html`<${Preview} seen=${seen} />`}
      <div class="actions">
        <button type="button" class="quiet" onClick=${() => box.current.close()}>Cancel</button>
        <button type="submit" disabled=${busy} class=${ready ? "quiet" : "main"}>Preview</button>
        ${ready && html`<button type="button" class="main" disabled=${busy} onClick=${impose}>Impose on ${site.site}</button>`}
      </div>
    </form>
  </dialog>`;
}

// crypto.randomUUID is there on secure pages alone, and a console over plain HTTP on site is none.
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function Preview({ seen }) {
  const money = seen.usd_per_h, price = seen.price_usd_per_mwh;
  const open = seen.permissives.filter((each) => each.ok === false);
  return html`<div class="preview" role="status">
    <dl>
      <dt>Power</dt><dd>${mw(seen.before_w)} → ${mw(seen.after_w)}${seen.change_mw == null ? "" : ` (${seen.change_mw > 0 ? "+" : ""}${mw(seen.change_mw * 1e6)})`}</dd>
      <dt>Money</dt><dd>${money ? `${usd(money.expected)} an hour${price ? ` (${usd(money.low)} to ${usd(money.high)})` : ""}` : DASH}</dd>
      ${price && html`<dt>Price</dt><dd title=${price.basis}>${usd(price.expected)} a MWh expected, eight times in ten ${usd(price.low)} to ${usd(price.high)}</dd>`}
      <dt>Jobs</dt><dd>${seen.jobs.length ? `${seen.jobs.length} stop: ${seen.jobs.slice(0, 6).join(", ")}` : "none affected"}</dd>
    </dl>
    <p>${seen.sentence}</p>
    ${seen.conflicts.map((each) => html`<p key=${each.override} class="note">⚠ ${words(each.kind)} ${each.override}: ${each.why}</p>`)}
    ${open.map((each) => html`<p key=${each.name} class="note">⚠ ${each.detail}</p>`)}
  </div>`;
}

function ask(site, form) {
  const [scope, name] = form.scope.split(":");
  const body = { target: { site, ...(name ? { [scope]: name } : {}) }, kind: form.kind, reason: form.reason };
  if (form.ticket) body.ticket = form.ticket;
  if (VALUED.has(form.kind)) body.value_w = Math.round(Number(form.value.replace(",", ".")) * 1e6);
  if (form.minutes.trim()) body.duration_s = Math.round(Number(form.minutes) * 60);
  return body;
}
