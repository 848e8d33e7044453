/* Charts for Fairlead's pages (the simulator's report, the dashboard): what do these numbers look like?

   Rule 1: one ES module, no build step, no network, no dependency. Inlined into a page or loaded by it.
   Rule 2: a chart is drawn from a plain description (a spec) and can be drawn again from a newer one.
   Rule 3: nobody is left out: a text says what is shown, a table holds the numbers, arrow keys move the cursor,
           series differ by dashes and not by colour alone, and text keeps its size on a phone.
   Rule 4: whatever comes from a spec becomes text, never markup; styles are classes, so a strict CSP holds.

   draw(place, spec) -> {update(spec), remove()}. Every spec has: kind, title, text (a sentence or two for everyone).
     line  {at: [x], x: {label, unit, min?, max?}, y: {label, unit, max?}, series: [{name, y: [number|null], colour?}], points?}
     area  the same, stacked; null counts as 0
     cdf   {shares: [0..1], x: {label, unit}, marks: [{at, label}], series: [{name, values: [x], of?, colour?}]}
           values[i] is what the share shares[i] of them stays below; `of`: the share of all that has a value at all
     bar   {unit, bars: [{name, value, spread?, colour?, group?}]}
   Units: "s", "share" (0..1), "factor", "/s", "count". `colour` is a place in the palette; -1 is for the rest. */

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 8;
const DASHES = ["", "8 3", "3 2", "10 3 3 3"];
const LETTER = 7; // pixels, at 12 px text: for margins and to keep labels apart
const ROWS = 40; // in a table of numbers: thinned to this
const TOLD = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1];
let charts = 0;

export function write(value, unit) {
  if (value === null || value === undefined) return "-";
  if (unit === "share") return `${tidy(value * 100, value > 0.995 && value < 1 ? 2 : 1)}%`;
  if (unit === "factor") return `${value.toFixed(2)}x`;
  if (unit !== "s") return Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : tidy(value, 2);
  if (value && Math.abs(value) < 0.01) return `${tidy(value * 1e3, 1)} ms`;
  if (Math.abs(value) < 0.9995) return `${Math.round(value * 1e3)} ms`;
  return `${tidy(value, Math.abs(value) < 10 ? 2 : 1)} s`;
}

const tidy = (value, digits) => String(Number(value.toFixed(digits)));

function moment(seconds) { // a time on an axis, or before now on a live one
  const size = Math.abs(seconds), sign = seconds < 0 ? "-" : "";
  if (size < 60) return `${sign}${tidy(size, 1)} s`;
  const h = Math.floor(size / 3600), m = Math.floor(size / 60) % 60, s = Math.round(size % 60);
  if (h) return `${sign}${h} h${m ? ` ${m} min` : ""}`;
  return s ? `${sign}${m}:${String(s).padStart(2, "0")} min` : `${sign}${m} min`;
}

const onAxis = (axis) => (value) => (axis.unit === "time" ? moment(value) : write(value, axis.unit));

// --- scales and ticks --------------------------------------------------------------------------------------

const linear = (low, high, from, to) => ({
  at: (v) => from + ((v - low) / (high - low || 1)) * (to - from),
  back: (p) => low + ((p - from) / (to - from)) * (high - low),
});

const logarithmic = (low, high, from, to) => {
  const inner = linear(Math.log(low), Math.log(high), from, to);
  return { at: (v) => inner.at(Math.log(Math.max(v, low))), back: (p) => Math.exp(inner.back(p)) };
};

function steps(low, high, most, sizes) {
  const size = sizes.find((s) => (high - low) / s <= most) ?? sizes.at(-1);
  const ticks = [];
  for (let n = Math.ceil(low / size - 1e-9); n * size <= high + size * 1e-9; n += 1) ticks.push(n * size);
  return ticks;
}

function ticksOf(low, high, most, unit) {
  if (unit === "time") return steps(low, high, most, [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400]);
  const power = 10 ** Math.floor(Math.log10((high - low) / most || 1));
  return steps(low, high, most, [1, 2, 5, 10, 20].map((n) => n * power).filter((s) => unit !== "count" || s >= 1));
}

function decades(low, high, most) {
  const all = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const n of [1, 2, 5]) all.push([n, n * 10 ** power]);
  }
  const inside = all.filter(([, v]) => v >= low * 0.999 && v <= high * 1.001);
  const some = inside.length <= most ? inside : inside.filter(([n]) => n === 1);
  return (some.length ? some : inside).map(([, v]) => Number(v.toPrecision(3)));
}

// --- elements ----------------------------------------------------------------------------------------------

function put(parent, name, attributes = {}, text) {
  const element = parent.namespaceURI === SVG || name === "svg"
    ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.appendChild(element);
  return element;
}

const paint = (index) => `fl-c${index < 0 ? "x" : index % COLOURS}`;
const dash = (index) => (index < 0 ? "" : DASHES[(index + Math.floor(index / COLOURS)) % DASHES.length]);
const px = (value) => value.toFixed(1);
const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${px(x)} ${px(y)}`).join("");

function size(svg, width, height) {
  for (const [key, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) svg.setAttribute(key, value);
}

function swatch(parent, kind, colour) {
  const icon = put(parent, "svg", { width: 24, height: 12, "aria-hidden": "true" });
  if (kind === "area") put(icon, "rect", { x: 6, width: 12, height: 12, class: `fl-fill ${paint(colour)}` });
  else put(icon, "path", { d: "M0 6H24", class: `fl-line ${paint(colour)}`, "stroke-dasharray": dash(colour) });
}

// --- what the kinds have of their own ------------------------------------------------------------------------

function sharesBelow(series, shares, x) { // how many of all are below x?
  const { values, of = 1 } = series;
  if (!values.length || x < values[0]) return 0;
  const i = values.findIndex((v) => v > x);
  if (i < 0) return of;
  return of * (shares[i - 1] + ((x - values[i - 1]) / (values[i] - values[i - 1])) * (shares[i] - shares[i - 1]));
}

const KINDS = {
  line: {
    range: (spec, series) => [0, Math.max(...series.flatMap((s) => s.y.map((v) => v ?? 0)), 0)],
    shapes(spec, series, sx, sy, group) {
      for (const s of series) {
        const parts = [[]];
        s.y.forEach((v, i) => (v === null ? parts.push([]) : parts.at(-1).push([sx.at(spec.at[i]), sy.at(v)])));
        const d = parts.filter((part) => part.length).map(path).join("");
        put(group, "path", { d, class: `fl-line ${paint(s.colour)}`, "stroke-dasharray": dash(s.colour), "data-name": s.name });
        if (spec.points) parts.flat().forEach(([x, y]) => put(group, "circle", { cx: px(x), cy: px(y), r: 3.5, class: `fl-fill ${paint(s.colour)}` }));
      }
    },
  },
  area: {
    range: (spec, series) => [0, Math.max(...spec.at.map((_, i) => series.reduce((sum, s) => sum + (s.y[i] ?? 0), 0)), 0)],
    shapes(spec, series, sx, sy, group) {
      let below = spec.at.map(() => 0);
      for (const s of series) {
        const top = below.map((v, i) => v + (s.y[i] ?? 0));
        const edge = (line) => line.map((v, i) => [sx.at(spec.at[i]), sy.at(v)]);
        const outline = path([...edge(top), ...edge(below).reverse()]);
        put(group, "path", { d: outline && `${outline}Z`, class: `fl-fill fl-band ${paint(s.colour)}`, "data-name": s.name });
        below = top;
      }
    },
  },
  cdf: {
    range: () => [0, 1],
    shapes(spec, series, sx, sy, group, [, right]) {
      for (const s of series) {
        const points = s.values.map((v, i) => [sx.at(v), sy.at(spec.shares[i] * (s.of ?? 1))]);
        if (points.length) points.push([right, points.at(-1)[1]]); // it stays there
        put(group, "path", { d: path(points), class: `fl-line ${paint(s.colour)}`, "stroke-dasharray": dash(s.colour), "data-name": s.name });
      }
    },
  },
};

function told(spec, series, x) { // what the cursor shows: a heading, and a value for each series
  if (spec.kind === "cdf") return [`within ${write(x, spec.x.unit)}`, series.map((s) => write(sharesBelow(s, spec.shares, x), "share"))];
  const i = spec.at.indexOf(x);
  const title = spec.x.unit === "time" ? onAxis(spec.x)(x) : `${write(x, spec.x.unit)} ${spec.x.label}`;
  return [title, series.map((s) => write(s.y[i], spec.y.unit))];
}

// --- the frame: axes, cursor -----------------------------------------------------------------------------------

function span(spec, series) {
  if (spec.kind !== "cdf") return [spec.x.min ?? spec.at[0] ?? 0, spec.x.max ?? spec.at.at(-1) ?? 1];
  const all = series.flatMap((s) => (s.values.length ? [Math.max(s.values[0], 1e-4), s.values.at(-1)] : []));
  all.push(...spec.marks.map((m) => m.at));
  const low = all.length ? Math.min(...all) : 0.1, high = Math.max(...all, low * 10);
  return [low / 1.1, high * 1.1];
}

function plot(spec, series, width, svg) {
  const kind = KINDS[spec.kind], isCdf = spec.kind === "cdf";
  const y = isCdf ? { label: "requests", unit: "share" } : spec.y;
  const height = Math.round(Math.min(Math.max(width * 0.5, 190), 300)), top = 22, bottom = height - 36;
  let [low, high] = kind.range(spec, series);
  high = y.max ?? (high > low ? high * (isCdf ? 1 : 1.05) : low + 1);
  const yTicks = ticksOf(low, high, 5, y.unit), left = Math.max(...yTicks.map((v) => onAxis(y)(v).length)) * LETTER + 12;
  const right = width - 10, sy = linear(low, high, bottom, top), ends = span(spec, series);
  const sx = (isCdf ? logarithmic : linear)(...ends, left, right);
  size(svg, width, height);
  for (const v of yTicks) {
    put(svg, "path", { d: `M${px(left)} ${px(sy.at(v))}H${right}`, class: "fl-grid" });
    put(svg, "text", { x: px(left - 6), y: px(sy.at(v) + 4), class: "fl-end" }, onAxis(y)(v));
  }
  put(svg, "text", { x: 2, y: 12, class: "fl-axis" }, y.label);
  const most = Math.max((right - left) / 70, 2);
  let free = -Infinity;
  for (const v of isCdf ? decades(...ends, most) : ticksOf(...ends, most, spec.x.unit)) {
    const label = onAxis(spec.x)(v), half = (label.length * LETTER) / 2, x = sx.at(v);
    put(svg, "path", { d: `M${px(x)} ${bottom}v5`, class: "fl-tick" });
    const middle = Math.min(Math.max(x, half), width - half); // not clipped at the edges
    if (middle - half < free) continue;
    put(svg, "text", { x: px(middle), y: bottom + 17, class: "fl-middle" }, label);
    free = middle + half + 6;
  }
  put(svg, "path", { d: `M${px(left)} ${bottom}H${right}`, class: "fl-tick" });
  put(svg, "text", { x: right, y: height - 3, class: "fl-end fl-axis" }, spec.x.label);
  kind.shapes(spec, series, sx, sy, put(svg, "g"), [left, right]);
  for (const mark of spec.marks ?? []) {
    const x = sx.at(mark.at), late = x > (left + right) / 2;
    put(svg, "path", { d: `M${px(x)} ${top}V${bottom}`, class: "fl-mark" });
    put(svg, "text", { x: px(x + (late ? -4 : 4)), y: top - 6, class: late ? "fl-end" : "" }, mark.label);
  }
  return { sx, left, right, top, bottom };
}

/** Follows the pointer and the arrow keys; `now()` gives what is drawn at the moment. */
function cursor(svg, holder, says, now) {
  const box = put(holder, "div", { class: "fl-tip", hidden: "" });
  let here = null, line = null; // the x that is told; null: none
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const near = (place) => {
    const { spec, sx, left, right } = now(), x = sx.back(clamp(place, left, right));
    return spec.kind === "cdf" ? x : spec.at.reduce((best, v) => (Math.abs(v - x) < Math.abs(best - x) ? v : best), spec.at[0]);
  };
  const hide = () => {
    here = null;
    line?.remove();
    box.hidden = true;
  };
  const show = (x) => {
    if (x === undefined) return hide(); // an empty chart
    const { spec, series, sx, left, right, top, bottom } = now(), place = sx.at(x);
    here = x;
    line?.remove();
    line = put(svg, "path", { d: `M${px(place)} ${top}V${bottom}`, class: "fl-cursor" });
    const [title, values] = told(spec, series, x);
    box.replaceChildren();
    put(box, "strong", {}, title);
    const rows = put(put(box, "table"), "tbody"), order = series.map((_, i) => i);
    for (const i of spec.kind === "area" ? order.reverse() : order) { // as they lie on each other
      const row = put(rows, "tr");
      swatch(put(row, "td"), spec.kind, series[i].colour);
      put(row, "td", {}, series[i].name);
      put(row, "td", { class: "fl-number" }, values[i]);
    }
    box.hidden = false;
    const beside = place > (left + right) / 2 ? place - box.offsetWidth - 12 : place + 12;
    box.style.left = `${clamp(beside, 0, Math.max(holder.clientWidth - box.offsetWidth, 0))}px`;
    box.style.top = `${top}px`;
  };
  const step = (way) => {
    const { spec, series, sx, left, right } = now();
    if (here === null) show(near(left));
    else if (spec.kind === "cdf") show(near(sx.at(here) + (way * (right - left)) / 40));
    else show(spec.at[clamp(spec.at.indexOf(here) + way, 0, spec.at.length - 1)]);
    if (here === null) return;
    const [title, values] = told(spec, series, here);
    says.textContent = `${title}: ${series.map((s, i) => `${s.name} ${values[i]}`).join(", ")}`;
  };
  const follow = (event) => show(near(event.clientX - svg.getBoundingClientRect().left));
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    step(way);
  });
  return () => here !== null && show(near(now().sx.at(here))); // after a redraw
}

function bars(spec, width, svg) {
  const longest = Math.max(...spec.bars.map((b) => b.name.length), 0) * LETTER;
  const above = longest > width * 0.4; // a phone: names stand over their bars
  const written = spec.bars.map((b) => write(b.value, spec.unit) + (b.spread ? ` ±${write(b.spread, spec.unit)}` : ""));
  const left = above ? 2 : longest + 10, right = width - Math.max(...written.map((t) => t.length), 0) * LETTER - 14;
  const top = Math.max(...spec.bars.map((b) => (b.value ?? 0) + (b.spread ?? 0)), 1e-9), scale = linear(0, top, left, right);
  const row = above ? 38 : 26, groups = new Set(spec.bars.map((b) => b.group).filter(Boolean)).size;
  const height = spec.bars.length * row + groups * 26 + 6;
  size(svg, width, height);
  let y = 4, group;
  spec.bars.forEach((bar, i) => {
    if (bar.group && bar.group !== group) {
      put(svg, "text", { x: 2, y: y + 16, class: "fl-group" }, bar.group);
      y += 26;
    }
    group = bar.group;
    if (above) put(svg, "text", { x: 2, y: y + 12 }, bar.name);
    else put(svg, "text", { x: left - 8, y: y + 16, class: "fl-end" }, bar.name);
    const at = above ? y + 17 : y + 3, end = scale.at(bar.value ?? 0), far = scale.at((bar.value ?? 0) + (bar.spread ?? 0));
    put(svg, "rect", { x: px(left), y: at, width: px(Math.max(end - left, 0)), height: 17, rx: 2, class: `fl-fill ${paint(bar.colour)}` });
    if (bar.spread) put(svg, "path", { d: `M${px(Math.max(scale.at(bar.value - bar.spread), left))} ${at + 8.5}H${px(far)}m0 -4v8`, class: "fl-spread" });
    put(svg, "text", { x: px(far + 6), y: at + 13 }, written[i]);
    y += row;
  });
}

// --- the table behind a chart ----------------------------------------------------------------------------------

function numbers(spec) {
  if (spec.kind === "bar") {
    const spread = spec.bars.some((b) => b.spread), grouped = spec.bars.some((b) => b.group);
    const one = (b) => [grouped ? `${b.group}: ${b.name}` : b.name, write(b.value, spec.unit), ...(spread ? [write(b.spread, spec.unit)] : [])];
    return [["", "value", ...(spread ? ["spread (±)"] : [])], spec.bars.map(one)];
  }
  const head = (first) => [first, ...spec.series.map((s) => s.name)];
  if (spec.kind === "cdf") {
    const kept = spec.shares.flatMap((share, i) => (TOLD.includes(share) ? [i] : []));
    const below = (s, i) => write(s.values[i], spec.x.unit);
    const rows = kept.map((i) => [`${tidy(spec.shares[i] * 100, 1)}% of the answered`, ...spec.series.map((s) => below(s, i))]);
    return [head(spec.x.label), [...rows, ["answered", ...spec.series.map((s) => write(s.of ?? 1, "share"))]]];
  }
  const each = Math.ceil(spec.at.length / ROWS);
  const rows = spec.at.flatMap((x, i) => (i % each ? [] : [[onAxis(spec.x)(x), ...spec.series.map((s) => write(s.y[i], spec.y.unit))]]));
  return [head(spec.x.label), rows];
}

function fill(table, spec) {
  const [head, rows] = numbers(spec);
  table.replaceChildren();
  put(table, "caption", { class: "fl-unseen" }, spec.title);
  const first = put(put(table, "thead"), "tr"), body = put(table, "tbody");
  head.forEach((text) => put(first, "th", { scope: "col" }, text));
  for (const row of rows) {
    const line = put(body, "tr");
    row.forEach((text, i) => put(line, i ? "td" : "th", i ? { class: "fl-number" } : { scope: "row" }, text));
  }
}

// --- a chart -----------------------------------------------------------------------------------------------------

function legend(list, spec, hidden, redraw) {
  const names = JSON.stringify((spec.series ?? []).map((s) => [s.name, s.colour]));
  if (list.dataset.names === names) return; // a newer spec of the same series: keep the buttons, and their focus
  list.dataset.names = names;
  list.replaceChildren();
  for (const s of spec.series ?? []) {
    const button = put(put(list, "li"), "button", { type: "button", "aria-pressed": String(!hidden.has(s.name)) });
    swatch(button, spec.kind, s.colour);
    put(button, "span", {}, s.name);
    button.addEventListener("click", () => {
      if (!hidden.delete(s.name)) hidden.add(s.name);
      button.setAttribute("aria-pressed", String(!hidden.has(s.name)));
      redraw();
    });
  }
}

const coloured = (list, otherwise) => list?.map((each, i) => ({ ...each, colour: each.colour ?? otherwise(i) }));

export function draw(place, first) {
  charts += 1;
  const id = `fl-chart-${charts}`, hidden = new Set();
  place.classList.add("fl-chart");
  place.replaceChildren();
  const title = put(place, "h3", { id: `${id}-title` }), text = put(place, "p", { id: `${id}-text` });
  const list = put(place, "ul", { class: "fl-legend" }), holder = put(place, "div", { class: "fl-plot" });
  const svg = put(holder, "svg", { role: "img", "aria-labelledby": title.id, "aria-describedby": text.id });
  const says = put(place, "p", { class: "fl-unseen", "aria-live": "polite" }), details = put(place, "details");
  put(details, "summary", {}, "Numbers");
  const table = put(put(details, "div", { class: "fl-scroll", tabindex: 0 }), "table");
  let spec, drawn, again, width = 0;
  const redraw = () => {
    width = Math.floor(holder.clientWidth);
    if (!width) return; // in a closed <details>: the observer calls again
    svg.replaceChildren();
    if (spec.kind === "bar") return bars(spec, width, svg);
    const series = spec.series.filter((s) => !hidden.has(s.name));
    drawn = { spec, series, ...plot(spec, series, width, svg) };
    again ??= cursor(svg, holder, says, () => drawn);
    again();
  };
  const update = (next) => {
    spec = { marks: [], ...next, series: coloured(next.series, (i) => i), bars: coloured(next.bars, () => 0) };
    title.textContent = spec.title;
    text.textContent = spec.text;
    if (spec.kind !== "bar") svg.setAttribute("tabindex", 0);
    legend(list, spec, hidden, redraw);
    redraw();
    if (details.open) fill(table, spec);
  };
  details.addEventListener("toggle", () => details.open && fill(table, spec));
  const observer = new ResizeObserver(() => Math.floor(holder.clientWidth) !== width && redraw());
  observer.observe(holder);
  update(first);
  return { update, remove() { observer.disconnect(); place.replaceChildren(); } };
}

/** Draws every element with data-chart="KEY" from the page's <script type="application/json" id="ID">. */
export function drawEmbedded(id) {
  const specs = JSON.parse(document.getElementById(id).textContent);
  for (const place of document.querySelectorAll("[data-chart]")) draw(place, specs[place.dataset.chart]);
}
