/* How is each backend? A row each, changed in place: a value that stays is not touched, and rows keep their order. */

import { bar, byId, count, factor, make, mark, percent, rate, say, seconds, show, sight } from "./dom.js";
import { strip } from "./courses.js";

const HOT = 0.9; // of the KV cache
const OFTEN = 0.05; // errors

/* Each column: its name, what stands in it, the share that its bar shows, and when it is worth a look. */
const NUMBERS = [
  { name: "Requests", hint: "share of the requests of the last minute", text: (b) => percent(b.share), part: (b) => b.share },
  { name: "Tokens", hint: "share of the prompt and output tokens of the last minute", text: (b) => percent(b.last_minute.token_share), part: (b) => b.last_minute.token_share },
  { name: "In flight", hint: "requests under way", text: (b) => count(b.inflight) },
  { name: "Pending", hint: "tokens still to do, as Fairlead estimates", text: (b) => count(b.pending_tokens) },
  { name: "Queue", hint: "requests waiting in the engine", text: (b) => count(b.engine_waiting), warns: (b) => b.engine_waiting > 0 },
  { name: "KV use", hint: "share of the KV cache in use", text: (b) => percent(b.kv_usage), part: (b) => b.kv_usage, warns: (b) => b.kv_usage >= HOT },
  { name: "Hits", hint: "prompt tokens found in the prefix cache", text: (b) => percent(b.prefix_hit_ratio) },
  { name: "TTFT p50", hint: "median time to the first token, last minute", text: (b) => seconds(b.last_minute.ttft_p50) },
  { name: "p99", hint: "99 of 100 had their first token within, last minute", text: (b) => seconds(b.last_minute.ttft_p99) },
  { name: "Tokens/s", hint: "output tokens per second, last minute", text: (b) => rate(b.last_minute.tokens_per_second) },
  { name: "Errors", hint: "share of requests that it failed, last minute", text: (b) => percent(b.last_minute.error_rate), warns: (b) => b.last_minute.error_rate > 0, alarms: (b) => b.last_minute.error_rate >= OFTEN },
  { name: "Speed", hint: "learned speed, the fleet's mean is 1; or the weight that was set", text: (b) => (b.weight === null ? factor(b.capacity) : `weight ${b.weight}`) },
];

function aboutOf(b) {
  const engine = [b.engine, b.version].filter(Boolean).join(" ");
  const models = b.models === null ? "" : b.models.includes("*") ? "any model" : b.models.join(", ");
  return [engine, models, b.backup ? "backup" : ""].filter(Boolean).join(" · ");
}

function makeRow(id, change) {
  const about = make("small"), state = make("span", { class: "state" }), reason = make("small", { class: "reason" });
  const course = strip();
  const head = make("th", { scope: "row", role: "rowheader" }, make("span", { class: "name" }, id), about);
  const row = make("tr", { role: "row", "data-id": id }, head,
    make("td", { role: "cell", class: "is" }, state, course.element, reason));
  const cells = NUMBERS.map((column) => {
    const text = make("span"), filled = column.part ? bar() : null;
    const label = make("span", { class: "label", "aria-hidden": "true" }, column.name);
    const cell = make("td", { role: "cell", class: "fl-number" }, label, text, filled?.element);
    row.append(cell);
    return { column, cell, text, filled };
  });
  const button = make("button", { type: "button", click: () => change(id) }, "Change", make("span", { class: "fl-unseen" }, ` ${id}`));
  const last = make("td", { role: "cell", class: "act" }, button);
  row.append(last);
  return {
    row,
    set(b, may) {
      say(about, aboutOf(b));
      say(state, b.state);
      mark(row, "state", b.state);
      say(reason, b.reason || b.metrics_problem || "");
      for (const { column, cell, text, filled } of cells) {
        say(text, column.text(b));
        filled?.set(column.part(b));
        mark(cell, "level", column.alarms?.(b) ? "bad" : column.warns?.(b) ? "warn" : "");
      }
      show(last, may);
    },
    course: (values, states) => course.set(values, states),
  };
}

/** The table; `change(id)` is asked for by a row's button. */
export function fleet(change) {
  const rows = new Map(), body = byId("rows"), seen = sight(byId("fleet")), act = make("th", { scope: "col", role: "columnheader" }, "Actions");
  byId("columns").append(...["Backend", "State"].map((name) => make("th", { scope: "col", role: "columnheader" }, name)),
    ...NUMBERS.map(({ name, hint }) => make("th", { scope: "col", role: "columnheader", class: "fl-number", title: hint }, name)), act);
  return {
    set(backends, may) {
      show(act, may);
      const ids = new Set(backends.map((b) => b.id));
      for (const [id, each] of rows) {
        if (ids.has(id)) continue;
        each.row.remove();
        rows.delete(id);
      }
      backends.forEach((b, place) => {
        let each = rows.get(b.id);
        const isNew = !each;
        if (isNew) rows.set(b.id, (each = makeRow(b.id, change)));
        if (body.children[place] !== each.row) body.insertBefore(each.row, body.children[place] ?? null);
        if (isNew || seen() || each.row.dataset.state !== b.state) each.set(b, may);
      });
    },
    courses(courses) {
      for (const [id, each] of rows) each.course(courses.backends.get(id)?.state ?? [], courses.states);
    },
  };
}
