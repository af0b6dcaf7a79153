// The conversation that is read, alone or beside another one.

const pane = byId("pane");
const MARKS = { event: "First difference", call: "First different tool call" };

let opening = 0;
let unfolded = false;

async function read(row) {
  const mine = ++opening;
  const other = besideOf(row);
  try {
    const bodies = await Promise.all([row, other].filter(Boolean).map(bodyOf));
    if (mine !== opening) return;
    const sides = [row, other].filter(Boolean).map((each, at) => ({ row: each, body: bodies[at] }));
    // Control stands on the left, whichever was chosen.
    if (other && other.cell.variant === index.control) sides.reverse();
    pane.replaceChildren(...(bodies[0] ? conversation(row, other, sides) : absent(row)));
  } catch (error) {
    if (mine === opening) trouble(`Cannot show it: ${error.message}`);
  }
}

function trouble(text) {
  pane.replaceChildren(element("p", "trouble", text));
}

function heading(row) {
  const { env, variant, trial } = row.cell;
  const node = element("h3", "", `${env} task ${row.task}, ${variant}, trial ${trial}`);
  node.id = "reading";
  return node;
}

function absent(row) {
  const { env, assistant, strategy, variant, trial } = row.cell;
  const ended = element("p", "meta");
  ended.append(badge(row));
  const command = `emobench conversations RUN_DIR --env ${env} --task ${row.task} ` +
    `--variant ${variant} --trial ${trial} --assistant ${assistant} --strategy ${strategy}`;
  return [heading(row), ended, element("p", "", "Its text is not in this page. Read it with"),
    element("pre", "", command), related(row)];
}

function conversation(row, other, sides) {
  const query = form.elements.q.value.trim();
  const events = sides.map(({ body }) => body.events.filter((event) => event[0] !== "s"));
  const differences = other ? firstDifferences(...events) : {};
  const bar = element("div", "bar");
  bar.append(besideChoice(row, other), foldButton());
  const parts = [heading(row), bar, related(row)];
  if (other) parts.push(differenceLine(sides, differences));
  parts.push(...shared(sides));
  if (other) parts.push(tabs(sides, row));
  const grid = element("div", other ? "grid two" : "grid");
  grid.dataset.tab = sides[0].row === row ? "left" : "right";
  grid.append(...framed(sides, head, "heads"), ...framed(sides, meta, ""));
  const pairs = other ? aligned(...events) : events[0].map((event) => [event]);
  for (const pair of pairs) grid.append(...pairRow(pair, sides, differences, query));
  if (!pairs.length) grid.append(element("p", "meta", "No message was exchanged."));
  grid.append(...framed(sides, record, ""));
  parts.push(grid);
  return parts;
}

// One row of the grid: a cell for each side.
function framed(sides, make, className) {
  const row = element("div", `pair ${className}`.trim());
  sides.forEach((side, at) => {
    const cell = row.appendChild(element("div", `side ${at ? "right" : "left"}`));
    cell.append(...make(side));
  });
  return [row];
}

function head({ row }) {
  const node = element("p", "side-head");
  node.append(element("b", "", sideName(row)), " ", badge(row));
  return [node];
}

function sideName(row) {
  const extra = ["assistant", "strategy"].filter((key) => varies[key]).map((key) => row.cell[key]);
  if (varies.trial) extra.push(`trial ${row.cell.trial}`);
  return [row.cell.variant, ...extra].join(", ");
}

function meta({ row, body }) {
  const numbers = [`reward ${row.reward === null ? "missing" : row.reward}`,
    `${row.steps} agent steps`, `${row.messages} messages`, `${body.calls} model calls`,
    `${body.tokens.toLocaleString("en")} tokens`, `${body.wall} s`];
  if (body.attempt > 1) numbers.push(`attempt ${body.attempt}`);
  if (body.seed !== null) numbers.push(`seed ${body.seed}`);
  if (body.started) numbers.push(body.started);
  const node = element("p", "meta", `${numbers.join(" \u00b7 ")} \u00b7 `);
  const link = element("a", "", "link");
  link.href = `#episode=${encodeURIComponent(row.id)}`;
  link.setAttribute("aria-label", `Link to this conversation, ${sideName(row)}`);
  node.append(link);
  return body.error ? [node, written(element("p", "trouble"), body.error)] : [node];
}

function record({ body }) {
  return body.info ? [fold("Benchmark's record of the task and reward", body.info)] : [];
}

// What both sides have in common stands once, above them.
function shared(sides) {
  const parts = [];
  const add = (label, text) => {
    if (text && !parts.some((part) => part.label === label && part.text === text)) {
      parts.push({ label, text });
    }
  };
  for (const { body } of sides) {
    add("Task as the simulated user has it", body.instruction);
    for (const event of body.events) {
      if (event[0] === "s") add("System prompt of the assistant", index.systems[event[1]]);
    }
  }
  return parts.map(({ label, text }) => fold(label, text));
}

function pairRow(pair, sides, differences, query) {
  const nodes = Object.keys(MARKS).filter((name) => differences[name] && marks(differences[name], pair))
    .map((name) => {
      const node = element("p", "difference", MARKS[name]);
      node.tabIndex = -1;
      return node;
    });
  const kind = pair.every((event) => !event || event[0] === "t") ? "calls" : "";
  nodes.push(...framed(sides.map((side, at) => ({ ...side, event: pair[at] })),
    ({ row, event }) => (event ? [eventNode(event, row, pair.length > 1, query)] : []), kind));
  return nodes;
}

// Two tool calls that are compared can stand in different rows: the mark goes to the first.
const marks = (difference, pair) =>
  (difference[0] ? pair[0] === difference[0] : pair[1] === difference[1]);

function eventNode(event, row, compared, query) {
  const [kind, text] = event;
  if (kind === "t") return callNode(event, query);
  const known = { u: ["user", "User (simulated)"], a: ["assistant", "Assistant"] }[kind];
  const node = element("div", `message ${known ? known[0] : "other"}`);
  const who = element("p", "who");
  visible(who, known ? known[1] : short(text));
  if (compared) who.append(element("span", "spoken", `, ${row.cell.variant}`));
  node.append(who);
  if (kind === "a" && event[2]) node.append(aside(event[2], query));
  const said = kind === "o" ? event[2] : text;
  node.append(said ? written(element("p", "said"), said, query)
    : element("p", "said muted", "(empty message)"));
  return node;
}

// A thought, or text beside a tool call: the user does not hear it.
function aside(text, query) {
  const node = element("p", "aside");
  node.append(element("span", "who", "unheard "));
  return written(node, text, query);
}

function callNode([, tool, given, result, flags, thought], query) {
  const failed = flags.includes("e"), writes = flags.includes("w");
  const node = element("details", `call${failed ? " error" : ""}${writes ? " writes" : ""}`);
  const summary = element("summary");
  const line = summary.appendChild(element("span", "line"));
  line.append(element("span", "kind-of", writes ? "write" : "call"), " ");
  const name = line.appendChild(element("code"));
  visible(name, short(`${tool || "(no name)"}(${shortArguments(given)})`, 120));
  line.append(" ");
  if (failed) line.append(element("span", "failed", "\u2717\u00a0error"), " ");
  const answer = result === null ? "(the transcript ends here)" : result;
  visible(line.appendChild(element("span", "answer")), `\u2192 ${short(answer, 120)}`);
  node.append(summary);
  if (thought) node.append(aside(thought, query));
  if (given) node.append(part("Arguments", pretty(given), query));
  if (result !== null) node.append(part("Result", pretty(result), query));
  node.open = unfolded || [tool, given, result || "", thought].some((each) => holds(each, query));
  return node;
}

function part(label, text, query) {
  const node = element("div", "part");
  node.append(element("p", "who", label), written(element("pre"), text, query));
  return node;
}

// The values of the arguments; as they were written where they are no object.
function shortArguments(given) {
  if (given.length > LONG) return given;
  const value = parsed(given);
  if (value === null || typeof value !== "object" || Array.isArray(value)) return given;
  return Object.values(value).map((each) => JSON.stringify(each)).join(", ");
}

function differenceLine(sides, { event, call }) {
  const node = element("p", "differences");
  if (!event && !call) {
    node.textContent = "No difference: both say and do the same.";
    return node;
  }
  const named = (pair) => pair.map((each, at) => `${sideName(sides[at].row)}: ${eventName(each)}`);
  const calls = call ? `${MARKS.call}: ${named(call).join("; ")}` : "The same tool calls in both";
  visible(node, event ? `${calls}. ` : calls);
  node.append(button("Go to the first difference", nextMark));
  return node;
}

function eventName(event) {
  if (!event) return "nothing more";
  return event[0] === "t" ? `step ${event[6]}, ${short(event[1])}` : short(event[1]);
}

function nextMark() {
  const found = [...pane.querySelectorAll(".difference")];
  if (!found.length) return;
  const node = found[(found.indexOf(document.activeElement) + 1) % found.length];
  node.scrollIntoView({ block: "center" });
  node.focus({ preventScroll: true });
}

function foldButton() {
  const node = button("Unfold all", unfold, "unfold");
  node.setAttribute("aria-pressed", String(unfolded));
  return node;
}

function unfold() {
  unfolded = !unfolded;
  for (const node of pane.querySelectorAll(".call")) node.open = unfolded;
  for (const node of pane.querySelectorAll(".unfold")) {
    node.setAttribute("aria-pressed", String(unfolded));
  }
}

// Where two columns have no room, one side is shown at a time.
function tabs(sides, row) {
  const node = element("div", "tabs");
  node.setAttribute("role", "group");
  node.setAttribute("aria-label", "Which conversation is shown");
  sides.forEach((side, at) => {
    const name = at ? "right" : "left";
    const choice = button(sideName(side.row), () => {
      pane.querySelector(".grid").dataset.tab = name;
      for (const each of node.children) each.setAttribute("aria-pressed", String(each === choice));
    });
    choice.setAttribute("aria-pressed", String(side.row === row));
    node.append(choice);
  });
  return node;
}
