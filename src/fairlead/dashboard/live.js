/* What is true now? The listener's events, and calls to its API, with the token where there is one.

   Rule 1: fetch, not EventSource: that one cannot show a token.
   Rule 2: what cannot be heard is said: silence for SILENT seconds counts as a broken line.
   Rule 3: a page that nobody sees listens to nothing; it asks for everything again when it is seen. */

const SILENT = 5000;
const PAUSES = [500, 1000, 2000, 4000]; // before trying again
const KEY = "fairlead-admin-token";

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

const headers = () => (token.get() ? { Authorization: `Bearer ${token.get()}` } : {});

/** [status, answer]; status 0: no connection. */
export async function call(method, path, body) {
  const wanted = { method, headers: headers(), cache: "no-store" };
  if (body !== undefined) {
    wanted.headers["Content-Type"] = "application/json";
    wanted.body = JSON.stringify(body);
  }
  try {
    const answer = await fetch(path, wanted);
    return [answer.status, await answer.json().catch(() => ({}))];
  } catch {
    return [0, { error: { message: "no connection to Fairlead" } }];
  }
}

async function* events(stream, heard) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const line = part.split("\n").find((each) => each.startsWith("data: "));
      if (line) yield JSON.parse(line.slice(6));
    }
  }
}

/** Calls told(state) for each event and changed(word, status) when the line begins or ends; returns again(). */
export function listen(told, changed) {
  let control = new AbortController(), failures = 0, timer = 0, watch = 0;
  const heard = () => {
    clearTimeout(watch);
    watch = setTimeout(() => control.abort(), SILENT);
  };
  const start = async () => {
    const mine = (control = new AbortController());
    let status = 0;
    try {
      heard();
      const answer = await fetch("api/live", { headers: headers(), signal: mine.signal, cache: "no-store" });
      status = answer.status;
      if (status === 200) {
        for await (const state of events(answer.body, heard)) {
          if (mine !== control) return;
          failures = 0;
          changed("live", 200);
          told(state);
        }
      }
    } catch (problem) {
      if (problem.name !== "AbortError" && problem.name !== "TypeError") console.error(problem); // our own fault
    }
    clearTimeout(watch);
    if (mine !== control) return;
    changed(status === 401 ? "locked" : "lost", status);
    if (status !== 401 && !document.hidden) timer = setTimeout(start, PAUSES[Math.min(failures++, PAUSES.length - 1)]);
  };
  const again = () => {
    clearTimeout(timer);
    clearTimeout(watch);
    const old = control;
    start();
    old.abort();
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return again();
    clearTimeout(timer);
    control.abort();
  });
  start();
  return again;
}
