// Figures as an operator reads them. What is unknown is a dash, never a zero.

export const DASH = "–";

export function mw(watts, digits) {
  if (watts == null) return DASH;
  const size = Math.abs(watts);
  if (size < 1e6 && digits == null) return `${(watts / 1e3).toFixed(size < 1e5 ? 1 : 0)} kW`;
  return `${(watts / 1e6).toFixed(digits ?? 2)} MW`;
}

export function usd(value, digits = 0) {
  if (value == null) return DASH;
  const text = Math.abs(value).toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return `${value < 0 ? "−" : ""}$${text}`;
}

export function age(ms) {
  if (ms == null) return DASH;
  return span(ms) + " old";
}

export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.floor(s / 60)} min ${s % 60 ? `${s % 60} s` : ""}`.trim();
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

// The zone in which this page tells all times: the browser's.
export function zone() {
  return new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" }).formatToParts().find((part) => part.type === "timeZoneName").value;
}

export function words(code) {
  return (code ?? "").replaceAll("_", " ");
}
