/* How does something get onto the page? Small helpers for elements and for numbers in words.

   Rule 1: whatever comes from outside becomes text, never markup; nothing in these files writes HTML.
   Rule 2: what has not changed is not touched, so that the browser has nothing to do and readers hear nothing twice. */

import { write } from "./charts.js";

export const byId = (id) => document.getElementById(id);

/** An element with attributes, text and children; functions among the attributes are listeners. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function shape(name, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function mark(element, key, value) {
  if (element.dataset[key] !== value) element.dataset[key] = value;
}

export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

/** Is it in sight, or nearly? */
export function sight(element) {
  let seen = false;
  new IntersectionObserver(([entry]) => (seen = entry.isIntersecting), { rootMargin: "100px" }).observe(element);
  return () => seen;
}

/** A bar whose length is a share of its place. */
export function bar(kind = "") {
  const fill = make("span", { class: "fill" });
  const element = make("span", { class: `bar ${kind}`, "aria-hidden": "true" }, fill);
  let now = -1;
  return {
    element,
    set(share) {
      const next = Math.round(Math.min(Math.max(share ?? 0, 0), 1) * 200) / 2;
      if (next !== now) fill.style.width = `${now = next}%`;
    },
  };
}

// --- numbers in words ------------------------------------------------------------------------------------------

export const UNKNOWN = "–";

export const seconds = (value) => (value === null || value === undefined ? UNKNOWN : write(value, "s"));

export function percent(value) {
  if (value === null || value === undefined) return UNKNOWN;
  const hundred = value * 100;
  if (hundred > 0 && hundred < 0.1) return "<0.1%";
  return `${hundred < 10 && hundred % 1 ? hundred.toFixed(1) : Math.round(hundred)}%`;
}

export function count(value) {
  if (value === null || value === undefined) return UNKNOWN;
  const size = Math.abs(value);
  if (size >= 999_950) return `${(value / 1e6).toFixed(size < 1e7 ? 1 : 0)}M`;
  if (size >= 10_000) return `${(value / 1e3).toFixed(size < 99_950 ? 1 : 0)}k`;
  if (size >= 100) return Math.round(value).toLocaleString("en");
  return String(Number(value.toFixed(size < 10 ? 2 : 1)));
}

/** A rate keeps its places, so that it does not dance. */
export function rate(value) {
  if (value === null || value === undefined) return UNKNOWN;
  return value < 100 ? value.toFixed(1) : count(value);
}

export const factor = (value) => (value === null || value === undefined ? UNKNOWN : `${value.toFixed(2)}×`);

export const clock = (unix) => new Date(unix * 1000).toLocaleTimeString([], { hour12: false });

export function ago(unix, now) {
  const passed = Math.max(Math.round(now - unix), 0);
  if (passed < 90) return `${passed} s`;
  if (passed < 5400) return `${Math.round(passed / 60)} min`;
  return passed < 129_600 ? `${Math.round(passed / 3600)} h` : `${Math.round(passed / 86_400)} days`;
}

export const plural = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
