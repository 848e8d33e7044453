/* What does an operator want to know first? One sentence on how it goes, what is wrong, and the figures of the minute;
   then the policy and the configuration in force. */

import { ago, byId, clock, count, make, mark, percent, plural, rate, say, seconds, show, sight, UNKNOWN } from "./dom.js";
import { spark } from "./courses.js";
import { call } from "./live.js";

// --- status ------------------------------------------------------------------------------------------------------

function problemsOf(state) {
  const found = [];
  for (const b of state.backends) {
    if (b.state === "down" || b.state === "ejected") found.push(["bad", `${b.id} is ${b.state}: ${b.reason || "no reason is known"}`]);
    else if (b.metrics_problem) found.push(["warn", `${b.id}: its metrics cannot be read: ${b.metrics_problem}`]);
  }
  for (const alert of state.alerts) found.push([alert.severity === "critical" ? "bad" : "warn", `${alert.message} (since ${clock(alert.since)})`]);
  const refused = state.loaded.last_error;
  if (refused) found.push(["warn", `the last reload was refused at ${clock(refused.at)}: ${refused.message}`]);
  if (state.loaded.needs_restart.length) found.push(["info", `waits for a restart: ${state.loaded.needs_restart.join(", ")}`]);
  return found;
}

function headlineOf(state) {
  const all = state.backends.length, can = state.backends.filter((b) => b.state === "up").length;
  const resting = state.backends.filter((b) => b.state === "draining" || b.state === "disabled").length;
  if (state.status !== "ready") return ["bad", `Not serving: ${state.status}`];
  const aside = resting ? `, ${resting} set aside` : "";
  if (can + resting < all) return ["bad", `${can} of ${plural(all, "backend")} can take requests${aside}`];
  const well = can === 1 && all === 1 ? "The backend is well" : resting ? `${can} of ${all} backends are at work${aside}` : `All ${all} backends are well`;
  return [state.alerts.length || state.loaded.last_error ? "warn" : "good", well];
}

export function status(state) {
  const [level, headline] = headlineOf(state), place = byId("problems");
  mark(byId("status"), "level", level);
  say(byId("headline"), headline);
  const title = `${{ good: "", warn: "! ", bad: "✗ " }[level]}Fairlead: ${headline}`;
  if (document.title !== title) document.title = title;
  const wanted = problemsOf(state);
  wanted.forEach(([kind, text], i) => {
    const item = place.children[i] ?? place.appendChild(make("li"));
    mark(item, "level", kind);
    say(item, text);
  });
  while (place.children.length > wanted.length) place.lastChild.remove();
}

// --- tiles -------------------------------------------------------------------------------------------------------

const sum = (rows, of) => rows.reduce((all, row) => all + (of(row) ?? 0), 0);

const TILES = [
  { name: "Requests/s", text: (s) => rate(s.last_minute.requests_per_second), series: "requests_per_second" },
  { name: "Output tokens/s", text: (s) => rate(s.last_minute.tokens_per_second), series: "tokens_per_second" },
  { name: "In flight", text: (s) => count(sum(s.backends, (b) => b.inflight)), series: "inflight" },
  { name: "Waiting in engines", text: (s) => count(sum(s.backends, (b) => b.engine_waiting)), series: "engine_waiting" },
  { name: "TTFT p50", text: (s) => seconds(s.last_minute.ttft_p50), series: "ttft_p50" },
  { name: "TTFT p99", text: (s) => seconds(s.last_minute.ttft_p99), series: "ttft_p99" },
  { name: "Errors", text: (s) => percent(s.last_minute.error_rate), series: "error_rate", level: (s) => (s.last_minute.error_rate > 0 ? "bad" : "") },
];

export function tiles() {
  const made = TILES.map((tile) => {
    const value = make("dd", { class: "value" }), line = spark();
    const element = make("div", { class: "tile card" }, make("dt", {}, tile.name), value, make("dd", { class: "course-of", "aria-hidden": "true" }, line.element));
    byId("tiles").append(element);
    return { ...tile, element, value, line };
  });
  const seen = sight(byId("tiles"));
  return {
    set(state) {
      if (!seen() && made[0].value.textContent) return;
      for (const tile of made) {
        say(tile.value, tile.text(state));
        mark(tile.element, "level", tile.level?.(state) ?? "");
      }
    },
    courses: (courses) => made.forEach((tile) => tile.line.set(courses.whole[tile.series] ?? [])),
  };
}

// --- policy and configuration ------------------------------------------------------------------------------------

const facts = (rows) => make("dl", { class: "facts" }, ...rows.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));

const optionsOf = ({ options }) => Object.entries(options).map(([name, value]) => `${name} ${value ?? "none"}`).join(", ");
const named = (policy) => `${policy.name}${optionsOf(policy) ? ` (${optionsOf(policy)})` : ""}`;

function filler(id, title) {
  const place = byId(id), content = make("div"), actions = make("div", { class: "actions", hidden: true });
  place.append(make("h3", {}, title), content, actions);
  let before = "";
  return {
    actions,
    set(rows, ...more) {
      const now = JSON.stringify([rows, more]);
      if (now === before) return;
      before = now;
      content.replaceChildren(facts(rows), ...more.map((list) => make("ul", {}, ...list.map((text) => make("li", {}, text)))));
    },
  };
}

export function configuration() {
  const policy = filler("policy", "Policy"), loaded = filler("loaded", "Configuration"), details = byId("config");
  let version = 0;
  const fetchAll = async () => {
    const [code, answer] = await call("GET", "api/config");
    say(details.querySelector("pre"), code === 200 ? JSON.stringify(answer, null, 2) : answer.error?.message ?? `it answered ${code}`);
  };
  details.addEventListener("toggle", () => details.open && fetchAll());
  return {
    policy: policy.actions,
    loaded: loaded.actions,
    set(state, may) {
      const now = state.loaded;
      policy.set([["In force", named(state.policy)], ["Shadow", state.shadow ? named(state.shadow) : "none"]]);
      const problems = (now.last_error?.problems ?? []).map((p) => `${p.line ? `line ${p.line}: ` : ""}${p.path ? `${p.path}: ` : ""}${p.message}${p.hint ? ` (${p.hint})` : ""}`);
      loaded.set([
        ["Version", `${now.version}, for ${ago(now.applied_at, state.time)}`],
        ["From", now.file ?? "the command line"],
        ["Changed since", now.changes.length ? now.changes.join("; ") : "nothing"],
        ["Last reload", now.last_error ? `refused at ${clock(now.last_error.at)}: ${now.last_error.message}` : "no problem"],
      ], ...(problems.length ? [problems] : []));
      show(policy.actions, may);
      show(loaded.actions, may);
      if (details.open && version !== now.version) fetchAll();
      version = now.version;
    },
  };
}

export const about = (state) => say(byId("about"), `${state.version} · ${state.policy?.name ?? UNKNOWN}${state.shadow ? `, shadow ${state.shadow.name}` : ""}`);
