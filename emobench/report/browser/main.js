// The address and the keys.
//
// #episode=ID&beside=ID opens a conversation, #variant=anger&outcome=failed filters; both may stand
// together. Anything else in the address is a section of the page.

const section = byId("conversations");
const anywhere = byId("keys-anywhere");

function hashText() {
  const parts = new URLSearchParams(wantedFilters());
  if (current && section.classList.contains("chosen")) {
    parts.set("episode", current.id);
    const other = besideOf(current);
    const usual = counterpart(current, index.control);
    if (beside === NOTHING_BESIDE) parts.set("beside", "none");
    else if (other && other !== usual) parts.set("beside", other.id);
  }
  return parts.toString();
}

function updateHash() {
  const text = hashText();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function changed() {
  updateHash();
  return filter();
}

function open(row, chosen) {
  select(row);
  if (chosen) {
    section.classList.add("chosen");
    updateHash();
  }
  const above = pane.getBoundingClientRect().top < 0;
  return read(row).then(() => {
    // A new conversation begins at its beginning.
    if (chosen && above) pane.scrollIntoView();
  });
}

function move(step) {
  if (!matching.length) return;
  const at = current ? current.at : -1;
  open(matching[at < 0 ? 0 : Math.min(Math.max(at + step, 0), matching.length - 1)], true);
}

function nextVariant() {
  if (!current) return;
  const same = sameSetting(current, (cell) => cell.trial === current.cell.trial);
  open(same[(same.indexOf(current) + 1) % same.length], true);
}

function toggleBeside() {
  if (!current) return;
  beside = beside === NOTHING_BESIDE ? CONTROL_BESIDE : NOTHING_BESIDE;
  updateHash();
  read(current);
}

async function follow() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const keys = [...wanted.keys()].filter((key) => form.elements[key] && wanted.get(key));
  const id = wanted.get("episode");
  if (!keys.length && !id) return false;
  section.scrollIntoView();
  if (keys.length) {
    form.reset();
    for (const key of keys) form.elements[key].value = wanted.get(key);
    await filter();
  }
  if (id) {
    const row = rowOf(id);
    section.classList.add("chosen");
    if (!row) {
      trouble(`No conversation ${id} in this report.`);
      return true;
    }
    const other = wanted.get("beside");
    if (other === "none") setBeside(row, null);
    else if (other && rowOf(other)) setBeside(row, rowOf(other));
    await open(row, false);
  } else if (matching.length) {
    await open(matching[0], false);
  } else {
    pane.replaceChildren(element("p", "meta", "No conversation matches these filters."));
  }
  return true;
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  v: nextVariant,
  b: toggleBeside,
  d: nextMark,
  u: unfold,
  "/": () => form.elements.q.focus(),
  "?": () => {
    byId("keys").open = true;
    byId("keys").querySelector("summary").focus();
  },
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const inList = event.target === list;
  if (event.key === "Escape" && section.contains(event.target)) {
    list.focus();
    return;
  }
  if (event.target.closest("input, select, textarea")) return;
  if (inList && event.key === "Enter") {
    event.preventDefault();
    pane.focus({ preventScroll: true });
    return;
  }
  const row = inList ? target(event.key) : null;
  const act = row ? () => open(row, true) : Object.hasOwn(KEYS, event.key) ? KEYS[event.key] : null;
  if (!act || (!row && !anywhere.checked && !section.contains(event.target))) return;
  event.preventDefault();
  act();
}

list.addEventListener("click", (event) => {
  const node = event.target.closest("li");
  if (node) open(matching[Number(node.dataset.at)], true);
});
shelf.addEventListener("scroll", paint, { passive: true });
addEventListener("resize", paint);
document.addEventListener("keydown", pressed);
addEventListener("hashchange", follow);

buildForm();
show(rows);
follow().then((followed) => {
  if (!followed && rows.length) open(rows[0], false);
});
if (!rows.length) {
  form.hidden = shelf.hidden = byId("keys").hidden = true;
  pane.append(element("p", "meta", "They appear here as they end, when the report is made anew."));
}
