/* What was it like in the last 15 minutes? The history as the listener keeps it, and what the page draws of it. */

import { draw } from "./charts.js";
import { byId, make, shape } from "./dom.js";

const KEPT = 181;

const bytes = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0)).buffer;
const known = (value) => (Number.isNaN(value) ? null : value);
const floats = (text) => Array.from(new Float32Array(bytes(text)), known);

export class Courses {
  constructor() {
    this.number = 0;
    this.at = [];
    this.states = [];
    this.backends = new Map();
    this.whole = {};
  }

  take(history) {
    const unpack = (course) => Object.fromEntries(Object.entries(course).map(([name, text]) => [name, floats(text)]));
    this.number = history.number;
    this.states = history.states;
    this.at = Array.from(new Float64Array(bytes(history.at)));
    this.whole = unpack(history.whole);
    this.backends = new Map(Object.entries(history.backends).map(([id, course]) => [id, unpack(course)]));
  }

  /** One more sample; false when it is known. */
  add(sample) {
    if (!sample || sample.number <= this.number) return false;
    this.number = sample.number;
    const before = this.at.length;
    const push = (course, values) => {
      for (const [name, value] of Object.entries(values)) {
        course[name] ??= Array(before).fill(null);
        course[name].push(value);
        if (course[name].length > KEPT) course[name].shift();
      }
      return course;
    };
    push(this.whole, sample.whole);
    const kept = Object.entries(sample.backends).map(([id, values]) => [id, push(this.backends.get(id) ?? {}, values)]);
    this.backends = new Map(kept);
    this.at.push(sample.at);
    if (this.at.length > KEPT) this.at.shift();
    return true;
  }
}

// --- charts ------------------------------------------------------------------------------------------------------

const CHARTS = [
  { title: "Requests", text: "Requests sent per second, by backend.", kind: "area", series: "requests_per_second", y: { label: "requests/s", unit: "/s" } },
  { title: "Time to first token", text: "Of all answers of the minute before each point.", kind: "line", whole: { p50: "ttft_p50", p99: "ttft_p99" }, y: { label: "TTFT", unit: "s" } },
  { title: "Output tokens", text: "Tokens of finished answers per second, by backend.", kind: "area", series: "tokens_per_second", y: { label: "tokens/s", unit: "/s" } },
  { title: "In flight", text: "Requests under way, by backend.", kind: "area", series: "inflight", y: { label: "requests", unit: "count" } },
  { title: "Waiting in the engines", text: "Requests in each engine's own queue.", kind: "line", series: "engine_waiting", y: { label: "requests", unit: "count" } },
  { title: "KV cache use", text: "Share of each engine's KV cache that is taken.", kind: "line", series: "kv_usage", y: { label: "share", unit: "share", max: 1 } },
  { title: "Prefix cache hits", text: "Prompt tokens that each engine found in its cache, as it says itself.", kind: "line", series: "prefix_hit_ratio", y: { label: "share", unit: "share", max: 1 } },
  { title: "Errors", text: "Share of requests that a backend failed, in the minute before each point.", kind: "line", series: "error_rate", y: { label: "share", unit: "share" } },
];

function specOf(chart, courses) {
  const last = courses.at.at(-1) ?? 0, at = courses.at.map((each) => Math.round(each - last));
  const series = chart.whole
    ? Object.entries(chart.whole).map(([name, key]) => ({ name, y: courses.whole[key] ?? [] }))
    : [...courses.backends].map(([name, course]) => ({ name, y: course[chart.series] ?? [] }));
  return { ...chart, at, series, x: { label: "before now", unit: "time", min: -900, max: 0 } };
}

/** Draws the charts that are in sight, and returns what draws them again. */
export function charts(courses) {
  const all = CHARTS.map((chart) => {
    const place = byId("charts").appendChild(make("div", { class: "course" }));
    return { chart, place, drawn: null, seen: false, number: -1 };
  });
  const refresh = (each) => {
    if (!each.seen || each.number === courses.number) return;
    each.number = courses.number;
    const spec = specOf(each.chart, courses);
    if (each.drawn) each.drawn.update(spec);
    else each.drawn = draw(each.place, spec);
  };
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const each = all.find(({ place }) => place === entry.target);
      each.seen = entry.isIntersecting;
      refresh(each);
    }
  }, { rootMargin: "200px" });
  all.forEach(({ place }) => observer.observe(place));
  return () => all.forEach(refresh);
}

// --- small ones --------------------------------------------------------------------------------------------------

/** A line without axes: the course of a tile. */
export function spark() {
  const line = shape("path", { class: "line" });
  const element = shape("svg", { class: "spark", viewBox: "0 0 180 24", preserveAspectRatio: "none", "aria-hidden": "true" });
  element.append(line);
  return {
    element,
    set(values) {
      const high = Math.max(...values.map((v) => v ?? 0), 1e-9), from = KEPT - values.length;
      let path = "", pen = "M";
      values.forEach((value, i) => {
        if (value === null) return void (pen = "M");
        path += `${pen}${from + i} ${(22 - (value / high) * 20).toFixed(1)}`;
        pen = "L";
      });
      line.setAttribute("d", path);
    },
  };
}

/** The states of 15 minutes as one strip, with words for those who do not see it. */
export function strip() {
  const words = make("span", { class: "fl-unseen" });
  const picture = shape("svg", { class: "strip", viewBox: "0 0 181 6", preserveAspectRatio: "none", "aria-hidden": "true" });
  const element = make("span", { class: "strip-place", title: "the last 15 minutes" }, picture, words);
  return {
    element,
    set(values, states) {
      picture.replaceChildren();
      const from = KEPT - values.length, ups = values.filter((value) => value === 0).length;
      for (let i = 0; i < values.length;) {
        let end = i;
        while (end < values.length && values[end] === values[i]) end += 1;
        if (values[i] !== null) picture.append(shape("rect", { x: from + i, width: end - i, height: 6, class: `is-${states[values[i]]}` }));
        i = end;
      }
      const told = values.filter((value) => value !== null).length;
      words.textContent = told ? `, up for ${Math.round((100 * ups) / told)}% of the last ${Math.max(Math.round(told / 12), 1)} min` : "";
    },
  };
}
