/* What may be done from here? Nothing without the token; with it, what the admin API offers.

   Rule 1: the listener decides: this only hides what it would refuse.
   Rule 2: what came of an action is told in words, and the page waits for the listener to show it. */

import { byId, make, say, show } from "./dom.js";
import { call, token } from "./live.js";

const POLICIES = ["expected_completion", "prefix_cache", "latency", "least_pending_tokens", "least_waiting", "least_connections",
  "power_of_two", "prefix_hash", "session", "round_robin", "random"];

const outcome = () => make("p", { class: "outcome", role: "status" });

async function attempt(place, method, path, body, done) {
  place.className = "outcome";
  say(place, "asking …");
  const [status, answer] = await call(method, path, body);
  const well = status >= 200 && status < 300;
  const problems = (answer.error?.problems ?? []).map((p) => `${p.path ? `${p.path}: ` : ""}${p.message}${p.hint ? ` (${p.hint})` : ""}`);
  place.className = `outcome ${well ? "done" : "refused"}`;
  say(place, well ? done(answer) : [answer.error?.message ?? `it answered ${status}`, ...problems].join("; "));
  return well;
}

function open(title, ...content) {
  const dialog = byId("dialog");
  const close = make("button", { type: "button", click: () => dialog.close() }, "Close");
  dialog.replaceChildren(make("div", { class: "heading" }, make("h2", { id: "dialog-title" }, title), close), ...content);
  if (!dialog.open) dialog.showModal();
  return dialog;
}

/** Drain, enable and weigh one backend; `now` gives its row. */
export function change(id, now) {
  const said = outcome(), path = `api/backends/${encodeURIComponent(id)}`;
  const ask = (body, done) => attempt(said, "PATCH", path, body, (answer) => `${done}; ${answer.lasts}`);
  const b = now(), weight = make("input", { id: "weight", inputmode: "decimal", autocomplete: "off", value: b.weight ?? "" });
  const weigh = make("form", {
    submit: (event) => {
      event.preventDefault();
      const text = weight.value.trim(), number = Number(text);
      ask({ weight: text === "" ? null : Number.isNaN(number) ? text : number }, text === "" ? "no weight: its speed is learned" : `its weight is ${text}`);
    },
  }, make("label", { for: "weight" }, "Weight, empty: learn its speed"), weight, make("button", {}, "Set"));
  open(id, make("p", {}, b.reason ? `${b.state}: ${b.reason}` : b.state), make("div", { class: "row" },
    make("button", { type: "button", click: () => ask({ drain: true }, "it takes no new requests, running ones finish") }, "Drain"),
    make("button", { type: "button", click: () => ask({ drain: false, enable: true }, "it takes requests again") }, "Enable"),
    make("button", { type: "button", click: () => ask({ enable: false }, "it is marked as down") }, "Disable")), weigh, said);
}

/** The form that switches the policy, and the button that reloads. */
export function panels({ policy, loaded }) {
  const said = outcome(), told = outcome();
  const choice = make("select", { id: "policy-choice" }, ...POLICIES.map((name) => make("option", { value: name }, name)));
  policy.append(make("form", {
    submit: (event) => {
      event.preventDefault();
      attempt(said, "POST", "api/policy", { policy: choice.value }, (answer) => answer.warming ?? `${answer.new.policy.name} is in force`);
    },
  }, make("label", { for: "policy-choice" }, "Switch to"), choice, make("button", {}, "Switch")), said);
  loaded.append(make("button", {
    type: "button",
    click: () => attempt(told, "POST", "api/reload", {}, (answer) => `version ${answer.version} is in force${answer.needs_restart.length ? `; waits for a restart: ${answer.needs_restart.join(", ")}` : ""}`),
  }, "Reload the file"), told);
  return { choose: (name) => { choice.value = name; } };
}

/** Who looks? Signs in and out; `changed()` after it. */
export function access(changed) {
  const button = byId("sign");
  let now = { token_set: false, token_valid: false, may_read: true };
  const look = async () => {
    const [status, answer] = await call("GET", "api/access");
    if (status === 200) now = answer;
    show(button, now.token_set);
    say(button, now.token_valid ? "Sign out" : "Sign in");
    return now;
  };
  const ask = () => {
    const said = outcome(), field = make("input", { id: "token", type: "password", autocomplete: "current-password", required: true });
    const dialog = open("Sign in", make("p", {}, "The admin token of this Fairlead. This tab keeps it until it is closed."), make("form", {
      submit: async (event) => {
        event.preventDefault();
        token.set(field.value.trim());
        if ((await look()).token_valid) return void (dialog.close(), changed());
        token.set("");
        said.className = "outcome refused";
        say(said, "this is not the admin token");
      },
    }, make("input", { autocomplete: "username", value: "fairlead", hidden: true }), make("label", { for: "token" }, "Token"), field, make("button", {}, "Sign in")), said);
    field.focus();
  };
  button.addEventListener("click", async () => {
    if (!now.token_valid) return ask();
    token.set("");
    await look();
    changed();
  });
  return { look, ask, may: () => now.token_set && now.token_valid };
}
