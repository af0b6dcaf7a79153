// What the page holds: an index of all conversations, and compressed chunks of their text that are
// decoded when they are read.

const SOLVED = "solved", MISSING = "infra_error";
const KEPT_CHUNKS = 6;

const byId = (id) => document.getElementById(id);
const index = JSON.parse(byId("index").textContent);
const chunkNodes = document.querySelectorAll("script.chunk");

const cells = index.cells.map(([assistant, env, strategy, variant, trial]) => ({
  assistant, env, strategy, variant, trial: String(trial), byTask: new Map(),
  variants: null, setting: null,
}));
const rows = readRows();

function readRows() {
  const settings = new Map(), trials = new Map();
  const own = cells.map((cell, number) => {
    const key = JSON.stringify([cell.env, cell.assistant, cell.strategy]);
    cell.setting = entry(settings, key, () => []);
    cell.setting.push(cell);
    cell.variants = entry(trials, JSON.stringify([key, cell.trial]), () => new Map());
    cell.variants.set(cell.variant, cell);
    return index.tasks[number].map((task, place) => {
      const row = { cell, task, outcome: index.outcomes[index.ended[number][place]],
        id: `${number}-${task}`, at: -1, chunk: -1, place: -1, reward: null, steps: 0,
        messages: 0, preview: "" };
      cell.byTask.set(task, row);
      return row;
    });
  });
  for (const [number, at, reward, steps, messages, id, chunk, place, preview] of index.texts) {
    Object.assign(own[number][at], { reward, steps, messages, id, chunk, place, preview });
  }
  return [...settings.values()].flatMap(inReadingOrder);
}

// One task's conversations stand together, so that variants are read side by side.
function inReadingOrder(setting) {
  const tasks = new Set(setting.flatMap((cell) => [...cell.byTask.keys()]));
  const byTrial = [...setting].sort((a, b) => a.trial - b.trial);
  return [...tasks].sort((a, b) => a - b).flatMap((task) =>
    byTrial.map((cell) => cell.byTask.get(task)).filter(Boolean));
}

function entry(map, key, make) {
  if (!map.has(key)) map.set(key, make());
  return map.get(key);
}

const fieldOf = (row, key) => (key === "outcome" ? row.outcome : row.cell[key]);

function distinct(key) {
  if (key === "outcome") {
    const found = new Set(rows.map((row) => row.outcome));
    return index.outcomes.filter((outcome) => found.has(outcome));
  }
  return [...new Set(cells.filter((cell) => cell.byTask.size).map((cell) => cell[key]))];
}

const varies = Object.fromEntries(
  ["env", "assistant", "strategy", "variant", "outcome", "trial"].map(
    (key) => [key, distinct(key).length > 1]));

const hasText = (row) => row.chunk >= 0;
const someWithoutText = rows.some((row) => !hasText(row));

// The same task and trial in the same setting with another variant.
function counterpart(row, variant) {
  const cell = row.cell.variants.get(variant);
  return (cell && cell.byTask.get(row.task)) || null;
}

// "lost": control solved it and this did not; "won": the other way round; "": neither.
function againstControl(row) {
  const control = counterpart(row, index.control);
  if (!control || control === row || row.outcome === MISSING || control.outcome === MISSING) return "";
  const solved = row.outcome === SOLVED;
  if (solved === (control.outcome === SOLVED)) return "";
  return solved ? "won" : "lost";
}

// An id of a link may be longer than what the page keeps, or a shorter beginning of it.
function rowOf(id) {
  return rows.find((row) => row.id === id) || (id.length >= 6 && rows.find((row) =>
    row.id.startsWith(id) || (row.id.length >= 16 && id.startsWith(row.id)))) || null;
}

const cache = new Map();
function chunk(number) {
  let promise = cache.get(number);
  cache.delete(number);
  if (!promise) promise = decode(chunkNodes[number].textContent);
  cache.set(number, promise);
  if (cache.size > KEPT_CHUNKS) cache.delete(cache.keys().next().value);
  return promise;
}

async function bodyOf(row) {
  return hasText(row) ? (await chunk(row.chunk))[row.place] : null;
}

async function decode(text) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser cannot decompress the conversations; use a newer one");
  }
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at += 1) bytes[at] = packed.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}
