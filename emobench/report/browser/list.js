// The list of what matches. Only the rows in sight are in the page, however many match.

const ROW_REM = 4.7;
const MARGIN_ROWS = 6;
// More would be higher than browsers can lay out; nobody scrolls so far.
const MOST_LISTED = 200_000;
const list = byId("list"), shelf = list.parentNode;

const painted = new Map();
let current = null;

const rowHeight = () => ROW_REM * parseFloat(getComputedStyle(document.documentElement).fontSize);
const listed = () => Math.min(matching.length, MOST_LISTED);

function show(found) {
  for (const row of matching) row.at = -1;
  matching = found;
  matching.forEach((row, at) => { row.at = at; });
  painted.clear();
  shelf.hidden = !found.length;
  shelf.scrollTop = 0;
  count.textContent = countText(found.length);
  paint();
  reveal();
}

function paint() {
  const height = rowHeight();
  list.style.height = `${listed() * height}px`;
  const from = Math.max(0, Math.floor(shelf.scrollTop / height) - MARGIN_ROWS);
  const to = Math.min(listed(),
    Math.ceil((shelf.scrollTop + shelf.clientHeight) / height) + MARGIN_ROWS);
  const wanted = new Set();
  for (let at = from; at < to; at += 1) wanted.add(at);
  // What is selected stays in the page: assistive technology is told of it by its id.
  if (current && current.at >= 0 && current.at < listed()) wanted.add(current.at);
  for (const at of painted.keys()) if (!wanted.has(at)) painted.delete(at);
  for (const at of wanted) {
    const node = entry(painted, at, () => item(matching[at]));
    node.style.top = `${at * height}px`;
    node.setAttribute("aria-selected", String(matching[at] === current));
  }
  list.replaceChildren(...[...wanted].sort((a, b) => a - b).map((at) => painted.get(at)));
  if (current && wanted.has(current.at)) {
    list.setAttribute("aria-activedescendant", painted.get(current.at).id);
  } else {
    list.removeAttribute("aria-activedescendant");
  }
}

function item(row) {
  const node = element("li", hasText(row) ? "" : "absent");
  node.setAttribute("role", "option");
  node.setAttribute("aria-posinset", row.at + 1);
  node.setAttribute("aria-setsize", matching.length);
  node.id = `row-${row.at}`;
  node.dataset.at = row.at;
  const head = element("div", "row-head");
  head.append(element("span", "where", `${place(row)} \u00b7 ${row.cell.variant}`), badge(row));
  const extra = ["assistant", "strategy"].filter((key) => varies[key]).map((key) => row.cell[key]);
  if (varies.trial) extra.push(`trial ${row.cell.trial}`);
  if (hasText(row)) extra.push(`${row.messages} messages`);
  const sub = element("div", "row-sub", `${extra.join(", ")}. `);
  visible(sub, hasText(row) ? row.preview : "Text not in this page.");
  node.append(head, sub);
  return node;
}

const place = (row) => (varies.env ? `${row.cell.env} ${row.task}` : `task ${row.task}`);

// Selects a row, and scrolls the list to it.
function select(row) {
  current = row;
  paint();
  reveal();
}

function reveal() {
  if (!current || current.at < 0) return;
  const top = current.at * rowHeight();
  const bottom = top + rowHeight();
  if (top < shelf.scrollTop) shelf.scrollTop = top;
  else if (bottom > shelf.scrollTop + shelf.clientHeight) {
    shelf.scrollTop = bottom - shelf.clientHeight;
  }
}

const PAGE_KEYS = { PageDown: 1, PageUp: -1 };

// Where a key in the list leads to, from the current row; null for other keys.
function target(key) {
  const page = Math.max(1, Math.floor(shelf.clientHeight / rowHeight()) - 1);
  const at = current ? current.at : -1;
  const last = listed() - 1;
  const to = key === "ArrowDown" ? at + 1
    : key === "ArrowUp" ? at - 1
    : key === "Home" ? 0
    : key === "End" ? last
    : key in PAGE_KEYS ? at + PAGE_KEYS[key] * page : null;
  if (to === null || last < 0) return null;
  return matching[at < 0 && key !== "End" ? 0 : Math.min(Math.max(to, 0), last)];
}
