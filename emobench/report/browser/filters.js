// Which conversations are listed.

const LABEL = { variant: "Variant", outcome: "Outcome", env: "Environment",
  assistant: "Assistant", strategy: "Strategy", trial: "Trial" };
const PAIRS = { "": "all", lost: "control solved, variant not",
  won: "variant solved, control not", differs: "either of these" };
const form = byId("filters"), count = byId("count"), progress = byId("progress");

let matching = rows;
let search = 0;

function control(key, label, node, wide) {
  const wrapper = element("label", wide ? "wide" : "", label);
  node.name = key;
  wrapper.append(node);
  form.append(wrapper);
  return wrapper;
}

function choices(pairs) {
  const select = element("select");
  select.append(...pairs.map(([value, text]) => new Option(text, value)));
  return select;
}

function buildForm() {
  for (const key of Object.keys(LABEL)) {
    const named = distinct(key).map((value) => [value, key === "outcome" ? spaced(value) : value]);
    control(key, LABEL[key], choices([["", "all"], ...named])).hidden = !varies[key];
  }
  const compared = varies.variant && cells.some((cell) => cell.variant === index.control);
  control("pair", "Against control", choices(Object.entries(PAIRS))).hidden = !compared;
  control("text", "Text", choices([["", "all"], ["here", "in this page"]])).hidden =
    !someWithoutText;
  const task = element("input");
  task.placeholder = "e.g. 12 or 3-7";
  control("task", "Task", task);
  const query = element("input");
  query.type = "search";
  query.placeholder = "what was said, tool calls and results";
  control("q", "Search", query, true);
  form.append(button("Clear", () => { form.reset(); changed(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  let timer = 0;
  form.addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(changed, event.target.name === "q" ? 250 : 0);
  });
}

const wantedFilters = () => Object.fromEntries(
  [...new FormData(form)].map(([key, value]) => [key, value.trim()]).filter(([, value]) => value));

// "3, 7-9" as a test of a number; null where it is none, which no task passes.
function taskTest(text) {
  const ranges = text.split(",").map((part) => part.trim().match(/^(\d+)(?:\s*-\s*(\d+))?$/));
  if (ranges.includes(null)) return () => false;
  return (task) => ranges.some(([, from, to]) => task >= Number(from) && task <= Number(to ?? from));
}

async function filter() {
  const mine = ++search;
  const wanted = wantedFilters();
  const keys = Object.keys(LABEL).filter((key) => wanted[key]);
  const isTask = wanted.task ? taskTest(wanted.task) : null;
  const found = rows.filter((row) => keys.every((key) => fieldOf(row, key) === wanted[key]) &&
    (!isTask || isTask(row.task)) &&
    (!wanted.text || hasText(row)) &&
    (!wanted.pair || fits(wanted.pair, againstControl(row))));
  if (wanted.q) {
    await searchText(found.filter(hasText), wanted.q.toLowerCase(), mine);
  } else {
    progress.textContent = "";
    show(found);
  }
}

const fits = (wanted, found) => (wanted === "differs" ? found !== "" : found === wanted);

async function searchText(found, query, mine) {
  const chunks = new Map();
  for (const row of found) entry(chunks, row.chunk, () => []).push(row);
  const hits = new Set();
  let done = 0;
  for (const [number, members] of chunks) {
    const bodies = await chunk(number);
    if (mine !== search) return;
    for (const row of members) {
      if (contains(bodies[row.place], query)) hits.add(row);
    }
    done += 1;
    progress.textContent = `Searching: ${Math.round((100 * done) / chunks.size)}%`;
  }
  progress.textContent = "";
  show(found.filter((row) => hits.has(row)));
}

function contains(body, query) {
  return body.error.toLowerCase().includes(query) || body.events.some((event) =>
    event[0] !== "s" && event.some((part, at) =>
      at > 0 && typeof part === "string" && part.toLowerCase().includes(query)));
}

function countText(found) {
  if (!rows.length) return "No conversation yet.";
  const text = `${found.toLocaleString("en")} of ${rows.length.toLocaleString("en")} conversations`;
  return form.elements.q.value.trim() && someWithoutText
    ? `${text}; only those with their text in this page were searched` : text;
}
