/* The dashboard: what comes from the listener goes to the parts of the page that show it.

   Rule: the order of work is the order of need. Once a second the status, the tiles and the table; the courses with every
   fourth sample, which moves a line by some pixels; and of tables and charts only those in sight. */

import { access, change, panels } from "./actions.js";
import { charts, Courses } from "./courses.js";
import { decisions } from "./decisions.js";
import { byId, clock, mark, say } from "./dom.js";
import { fleet } from "./fleet.js";
import { listen } from "./live.js";
import { about, configuration, status, tiles } from "./panels.js";

const courses = new Courses(), drawCharts = charts(courses), figures = tiles(), list = decisions(), config = configuration();
const EACH = 4; // samples from one drawing to the next
let state = null, heardAt = 0, policy = "";

const table = fleet((id) => change(id, () => state.backends.find((b) => b.id === id)));
const actions = panels(config);
const who = access(() => again());

function refresh(next) {
  state = next;
  heardAt = Date.now();
  const may = who.may();
  status(state);
  figures.set(state);
  table.set(state.backends, may);
  list.set(state.decisions);
  config.set(state, may);
  about(state);
  if (policy !== state.policy.name) actions.choose((policy = state.policy.name));
  const isNew = courses.add(state.sample);
  if (state.history) courses.take(state.history);
  if (!state.history && (!isNew || courses.number % EACH)) return;
  table.courses(courses);
  figures.courses(courses);
  drawCharts();
}

async function connection(word, code) {
  const link = byId("link");
  const before = link.dataset.state;
  mark(link, "state", word);
  mark(document.body, "link", word);
  if (word === "live") return say(link, "live");
  if (word === "lost") {
    const since = heardAt ? `, what stands here is of ${clock(heardAt / 1000)}` : "";
    return say(link, code === 503 ? "too many look at it already" : `no connection${since}`);
  }
  say(link, "wants its admin token");
  if (before === word) return;
  say(byId("headline"), "Sign in to see how it goes");
  await who.look();
  who.ask();
}

await who.look();
const again = listen(refresh, connection);
