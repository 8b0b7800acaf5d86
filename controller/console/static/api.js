// The API as the page uses it. The token lives in this tab alone; a link may bring it behind the #, which is never sent.

const KEY = "wattshift-token";

export class ApiError extends Error {
  constructor(status, problem) {
    super([problem.detail || problem.title || `HTTP ${status}`, problem.fix].filter(Boolean).join(". "));
    this.status = status;
    this.problem = problem;
  }
}

export function token() {
  const brought = new URLSearchParams(location.hash.slice(1)).get("token");
  if (brought) {
    sessionStorage.setItem(KEY, brought);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY) || "";
}

export function keep(value) {
  sessionStorage.setItem(KEY, value.trim());
}

export function forget() {
  sessionStorage.removeItem(KEY);
}

export async function call(method, path, body, headers = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: {
        Authorization: `Bearer ${token()}`,
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(10_000),
    });
  } catch {
    throw new ApiError(0, { detail: "The controller does not answer" });
  }
  const text = await answer.text();
  let told = {};
  try {
    told = text ? JSON.parse(text) : {};
  } catch {
    told = { detail: text.slice(0, 200) };
  }
  if (!answer.ok) throw new ApiError(answer.status, told);
  return { told, etag: answer.headers.get("ETag") };
}

export async function read(path) {
  return (await call("GET", path)).told;
}

// Calls `heard` for every event of the stream, and again after every break, until `signal` is aborted.
export async function follow(path, heard, signal) {
  let last = "";
  let wait = 500;
  while (!signal.aborted) {
    try {
      const answer = await fetch(path, {
        headers: { Authorization: `Bearer ${token()}`, ...(last ? { "Last-Event-ID": last } : {}) },
        signal,
      });
      if (!answer.ok || !answer.body) throw new Error(`HTTP ${answer.status}`);
      wait = 500;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        rest += value;
        const blocks = rest.split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) last = tell(block, heard) || last;
      }
    } catch {
      if (signal.aborted) return;
    }
    await new Promise((done) => setTimeout(done, wait * (0.5 + Math.random())));
    wait = Math.min(wait * 2, 15_000);
  }
}

function tell(block, heard) {
  let id = "";
  let kind = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("id:")) id = line.slice(3).trim();
    else if (line.startsWith("event:")) kind = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trim());
  }
  if (data.length) {
    try {
      heard(kind, JSON.parse(data.join("\n")));
    } catch {
      // a line of a newer version: what it says is read from the API anyway
    }
  }
  return id;
}
