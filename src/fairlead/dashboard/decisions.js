/* Why did it go there? The last requests, and the whole story of one of them.

   Rule: rows do not move under somebody's hand: the list stands still while it is pointed at, holds the focus or is
   paused. */

import { bar, byId, clock, count, make, mark, plural, say, seconds, show, sight, UNKNOWN } from "./dom.js";
import { call } from "./live.js";

const COLUMNS = ["Time", "Request", "Model", "Backend", "Status", "TTFT", "Took", "Tokens", "Reason"];
const NUMERIC = new Set(["Status", "TTFT", "Took", "Tokens"]);

const head = (name) => make("th", { scope: "col", role: "columnheader", class: NUMERIC.has(name) ? "fl-number" : null }, name);

function tokens(d) {
  if (d.prompt_tokens === null && d.output_tokens === null) return UNKNOWN;
  return `${count(d.prompt_tokens)} → ${count(d.output_tokens)}`;
}

function reasonOf(d) {
  const words = d.error ?? (d.outcome === "ok" ? d.reason ?? "" : d.outcome);
  const again = d.tries > 1 ? `, ${plural(d.tries, "try").replace("trys", "tries")}` : "";
  return `${words}${again}${d.hedged ? ", hedged" : ""}`;
}

function makeRow(explain) {
  const cells = COLUMNS.map((name) => make("td", { role: "cell", class: NUMERIC.has(name) ? "fl-number" : `of-${name.toLowerCase()}` }));
  const button = make("button", { type: "button", class: "plain", click: () => explain(row.dataset.id) });
  cells[1].append(button);
  const row = make("tr", { role: "row" }, ...cells);
  return {
    row,
    set(d) {
      mark(row, "id", d.id);
      mark(row, "level", d.status >= 500 || d.outcome === "broken" ? "bad" : d.status >= 400 || d.tries > 1 ? "warn" : "");
      const texts = [clock(d.time), null, d.model ?? UNKNOWN, d.backend || UNKNOWN, String(d.status || UNKNOWN), seconds(d.ttft),
        seconds(d.duration), tokens(d), reasonOf(d)];
      texts.forEach((text, i) => text !== null && say(cells[i], text));
      say(button, d.id);
    },
  };
}

/** The list; set(decisions) takes the newest. */
export function decisions() {
  const body = byId("decision-rows"), pause = byId("pause"), section = byId("decisions");
  const rows = [], seen = sight(section);
  let paused = false, pointed = false;
  byId("decision-columns").append(...COLUMNS.map(head));
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    say(pause, paused ? "Go on" : "Pause");
  });
  body.addEventListener("pointerenter", () => (pointed = true));
  body.addEventListener("pointerleave", () => (pointed = false));
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    const id = byId("wanted").value.trim();
    if (id) explain(id);
  });
  return {
    set(list) {
      const isFull = rows.length && rows.length >= list.length;
      if (isFull && (paused || pointed || !seen() || body.contains(document.activeElement))) return;
      list.forEach((d, i) => {
        if (!rows[i]) body.append((rows[i] = makeRow(explain)).row);
        rows[i].set(d);
      });
      while (rows.length > list.length) rows.pop().row.remove();
      show(section.querySelector("table"), list.length > 0);
    },
  };
}

// --- one of them -------------------------------------------------------------------------------------------------

async function explain(id) {
  const [status, answer] = await call("GET", `api/explain/${encodeURIComponent(id)}`);
  const place = byId("why");
  const title = make("h3", { id: "why-title" }, `Why did ${id} go there?`);
  const close = make("button", { type: "button", click: () => { place.hidden = true; byId("decisions-title").scrollIntoView({ block: "nearest" }); } }, "Close");
  const top = make("div", { class: "heading" }, title, close);
  if (status !== 200) place.replaceChildren(top, make("p", { class: "refused" }, answer.error?.message ?? `it answered ${status}`));
  else place.replaceChildren(top, ...story(answer));
  place.hidden = false;
  place.focus({ preventScroll: true });
  place.scrollIntoView({ block: "nearest" });
}

function story({ request: r, decision: d, after, explanation }) {
  const parts = [make("p", { class: "told" }, explanation)];
  const facts = [
    ["Request", [r.method, r.path, r.model].filter(Boolean).join(" ")],
    ["Answer", `${r.status}, ${r.outcome}${r.error ? ` (${r.error})` : ""}`],
    ["Took", seconds(r.duration)],
  ];
  if (d) {
    const { estimate: e, shadow: s } = d;
    facts.push(["Prompt", `${count(e.prompt_tokens_expected)} tokens expected, ${r.prompt_tokens === null ? "not told" : `${count(r.prompt_tokens)} counted`}`]);
    if (s) facts.push(["Shadow", s.agrees ? `${s.policy} would have chosen the same` : `${s.policy} would have chosen ${s.backend}`]);
  }
  parts.push(make("dl", { class: "facts" }, ...facts.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)])));
  if (after?.words?.length) parts.push(make("h4", {}, "What came of it"), items(after.words));
  if (d) parts.push(...candidates(d));
  if (d?.not_considered.length) {
    const out = d.not_considered.map((b) => `${b.backend}, ${(b.state ?? b.state_now).replaceAll("_", " ")}: ${b.reason || "not usable then"}; now ${b.state_now}`);
    parts.push(make("h4", {}, "Not considered"), items(out));
  }
  return parts;
}

const items = (texts) => make("ul", {}, ...texts.map((text) => make("li", {}, text)));

/** How old was what was known of it? */
function ages(signals) {
  const known = Object.entries(signals ?? {}).filter(([, age]) => age !== null);
  return known.map(([name, age]) => `${name.replace(/_age$/, "").replaceAll("_", " ")} ${seconds(age)} old`).join(", ");
}

/** What the policy looked at: a row for each candidate, a column for each term, bars within a column. */
function candidates(d) {
  const names = Object.keys(d.candidates[0]?.terms ?? {});
  const ofScore = (row) => row.score, ofTerm = (name) => (row) => row.terms[name] ?? null;
  const columns = [["Score", ofScore, "score"], ...names.map((name) => [name, ofTerm(name), name.endsWith(", s") ? "s" : "count"])];
  const highest = columns.map(([, of]) => Math.max(...d.candidates.map((row) => Math.abs(of(row) ?? 0)), 0));
  const rows = d.candidates.map((row) => {
    const cells = columns.map(([, of, unit], i) => {
      const value = of(row), filled = bar(row.chosen ? "chosen" : "");
      filled.set(highest[i] ? Math.abs(value ?? 0) / highest[i] : 0);
      return make("td", { role: "cell", class: "fl-number" }, unit === "s" ? seconds(value) : scored(value, unit), filled.element);
    });
    const name = make("th", { scope: "row", role: "rowheader" }, row.backend, make("small", {}, row.chosen ? "chosen" : ""), make("small", {}, ages(row.signals)));
    return make("tr", { role: "row", class: row.chosen ? "chosen" : null }, name, ...cells);
  });
  const heads = columns.map(([name]) => make("th", { scope: "col", role: "columnheader", class: "fl-number" }, name.replace(/, s$/, "")));
  const table = make("table", { role: "table" },
    make("caption", { class: "fl-unseen" }, "Candidates and what the policy looked at"),
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, make("th", { scope: "col", role: "columnheader" }, "Candidate"), ...heads)),
    make("tbody", { role: "rowgroup" }, ...rows));
  const title = make("h4", {}, `Candidates of ${d.policy}: the lowest score wins${d.score_means ? ` (${d.score_means})` : ""}`);
  const told = d.candidates.filter((row) => row.words?.length).map((row) => `${row.backend}: ${[row.words].flat().join("; ")}`);
  return [title, make("div", { class: "fl-scroll", role: "region", "aria-label": "Candidates", tabindex: 0 }, table), ...(told.length ? [make("details", {}, make("summary", {}, "In words"), items(told))] : [])];
}

const scored = (value, unit) => (value === null ? UNKNOWN : unit === "score" ? String(Number(value.toPrecision(4))) : count(value));
