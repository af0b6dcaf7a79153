// What a model wrote reaches the page as text nodes only; nothing here builds HTML from it.

const LONG = 20_000;
// Characters that show nothing, or that turn the order of others around.
const CONTROLS = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]+/g;
const MOST_NAMED = 1_000;
const GLYPH = {
  solved: "\u2713", failed: "\u2717", agent_error: "!", max_steps: "\u2026",
  context_overflow: "\u2261", user_error: "?", infra_error: "\u2205",
};

function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function button(text, act, className) {
  const node = element("button", className, text);
  node.type = "button";
  node.addEventListener("click", act);
  return node;
}

const spaced = (text) => text.replaceAll("_", " ");

function badge(row) {
  const text = `${GLYPH[row.outcome]}\u00a0${spaced(row.outcome)}`;
  return element("span", `badge ${row.outcome}`, text);
}

const short = (text, most = 64) => (text.length > most ? `${text.slice(0, most - 1)}\u2026` : text);

// `text` within `node`, with the hits of a search marked; a very long one is cut until asked for.
function written(node, text, query) {
  if (text.length <= LONG) {
    append(node, text, query);
    return node;
  }
  append(node, text.slice(0, LONG), query);
  const all = `\u2026 show all ${text.length.toLocaleString("en")} characters`;
  node.append(button(all, () => {
    node.replaceChildren();
    append(node, text, query);
  }, "whole"));
  return node;
}

function append(node, text, query) {
  const lower = text.toLowerCase();
  const wanted = (query || "").toLowerCase();
  // Lower-casing can change a text's length (e.g. U+0130); then the places would not fit.
  if (!wanted || lower.length !== text.length) {
    visible(node, text);
    return;
  }
  let from = 0;
  for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
    visible(node, text.slice(from, at));
    visible(node.appendChild(element("mark")), text.slice(at, at + wanted.length));
    from = at + wanted.length;
  }
  visible(node, text.slice(from));
}

function visible(node, text) {
  let from = 0, named = 0;
  for (const found of text.matchAll(CONTROLS)) {
    named += 1;
    if (named > MOST_NAMED) break;
    node.append(text.slice(from, found.index), element("span", "unseen", codes(found[0])));
    from = found.index + found[0].length;
  }
  node.append(text.slice(from).replace(CONTROLS, "\ufffd"));
}

// "U+202E U+0000", of a long run the first few.
function codes(run) {
  const names = [...run.slice(0, 8)].map((each) =>
    `U+${each.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
  return names.join(" ") + (run.length > 8 ? ` and ${(run.length - 8).toLocaleString("en")} more` : "");
}

// Indented where that changes nothing else.
function pretty(text) {
  const value = parsed(text);
  return value !== null && typeof value === "object" ? JSON.stringify(value, null, 2) : text;
}

function fold(label, text, query) {
  const node = element("details", "fold");
  if (holds(text, query)) node.open = true;
  node.append(element("summary", "", label), written(element("pre"), text, query));
  return node;
}

const holds = (text, query) => Boolean(query) && text.toLowerCase().includes(query.toLowerCase());
