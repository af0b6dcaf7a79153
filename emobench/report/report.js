// The conversations: an index of all of them, and compressed chunks that are decoded when read.
// What a model wrote reaches the page as text nodes only; nothing here builds HTML from it.
(() => {
  "use strict";

  const PAGE = 100;
  const KEPT_CHUNKS = 6;
  const GLYPH = {
    solved: "\u2713", failed: "\u2717", agent_error: "!", max_steps: "\u2026",
    context_overflow: "\u2261", user_error: "?", infra_error: "\u2205",
  };
  const CELL = ["assistant", "env", "strategy", "variant", "trial"];
  const LABEL = { env: "Environment", strategy: "Strategy", assistant: "Assistant",
    variant: "Variant", outcome: "Outcome", trial: "Trial" };

  const index = JSON.parse(document.getElementById("index").textContent);
  const chunkNodes = document.querySelectorAll("script.chunk");
  const byId = (id) => document.getElementById(id);
  const form = byId("filters"), list = byId("list"), pane = byId("pane");
  const count = byId("count"), more = byId("more");

  const rows = index.rows.map((row, number) => {
    const cell = index.cells[row[0]];
    const entry = { number, task: row[1], outcome: index.outcomes[row[2]], reward: row[3],
      steps: row[4], messages: row[5], id: row[6], chunk: row[7], place: row[8], preview: row[9] };
    CELL.forEach((key, column) => { entry[key] = String(cell[column]); });
    return entry;
  });
  const distinct = (key) => [...new Set(rows.map((row) => row[key]))];
  const varies = Object.fromEntries(
    ["env", "assistant", "strategy", "variant", "outcome", "trial"].map(
      (key) => [key, distinct(key).length > 1]));

  let matching = rows;
  let shown = 0;
  let current = null;
  let search = 0;
  let opening = 0;

  function element(name, className, text) {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
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

  // Filters

  function control(key, label, node, wide) {
    const wrapper = element("label", wide ? "wide" : "", label);
    node.name = key;
    wrapper.append(node);
    form.append(wrapper);
    return node;
  }

  function buildForm() {
    for (const key of ["variant", "outcome", "env", "assistant", "strategy", "trial"]) {
      const select = element("select");
      select.append(new Option("all", ""));
      for (const value of distinct(key)) {
        select.append(new Option(key === "outcome" ? spaced(value) : value, value));
      }
      control(key, LABEL[key], select);
      if (!varies[key]) select.parentNode.hidden = true;
    }
    const task = element("input");
    task.inputMode = "numeric";
    task.placeholder = "e.g. 12";
    control("task", "Task", task);
    const query = element("input");
    query.type = "search";
    query.placeholder = "what was said, tool calls and results";
    control("q", "Text", query, true);
    const reset = element("button", "", "Clear");
    reset.type = "button";
    reset.addEventListener("click", () => { form.reset(); setHash(""); filter(); });
    form.append(reset);
    form.addEventListener("submit", (event) => event.preventDefault());
    let timer = 0;
    form.addEventListener("input", (event) => {
      clearTimeout(timer);
      timer = setTimeout(filter, event.target.name === "q" ? 250 : 0);
    });
  }

  async function filter() {
    const mine = ++search;
    const wanted = Object.fromEntries(new FormData(form));
    const query = wanted.q.trim().toLowerCase();
    const task = wanted.task.trim();
    const found = rows.filter((row) =>
      Object.keys(LABEL).every((key) => !wanted[key] || row[key] === wanted[key]) &&
      (!task || String(row.task) === task));
    if (!query) {
      show(found);
      return;
    }
    const hits = [];
    const chunks = new Map();
    for (const row of found) {
      if (!chunks.has(row.chunk)) chunks.set(row.chunk, []);
      chunks.get(row.chunk).push(row);
    }
    let done = 0;
    for (const [number, members] of chunks) {
      const bodies = await chunk(number);
      if (mine !== search) return;
      for (const row of members) {
        if (contains(bodies[row.place], query)) hits.push(row);
      }
      done += 1;
      count.textContent = `Searching: ${Math.round((100 * done) / chunks.size)}%`;
    }
    show(hits.sort((a, b) => a.number - b.number));
  }

  function contains(body, query) {
    return body.messages.some((message) =>
      (message.t && message.t.toLowerCase().includes(query)) ||
      (message.c && message.c.some((call) => call.join(" ").toLowerCase().includes(query)))) ||
      body.error.toLowerCase().includes(query);
  }

  // List

  function show(found) {
    matching = found;
    shown = 0;
    list.replaceChildren();
    count.textContent = rows.length
      ? `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} conversations`
      : "No conversation yet.";
    showMore();
    mark();
  }

  function showMore() {
    const next = matching.slice(shown, shown + PAGE);
    list.append(...next.map(item));
    shown += next.length;
    more.hidden = shown >= matching.length;
    more.textContent = `Show more (${(matching.length - shown).toLocaleString("en")} left)`;
  }

  function item(row) {
    const node = element("li");
    node.setAttribute("role", "option");
    node.id = `row-${row.number}`;
    node.dataset.row = row.number;
    const head = element("div", "row-head");
    head.append(element("span", "where", `${place(row)} \u00b7 ${row.variant}`), badge(row));
    const extra = ["assistant", "strategy"].filter((key) => varies[key]).map((key) => row[key]);
    if (varies.trial) extra.push(`trial ${row.trial}`);
    extra.push(`${row.messages} messages`);
    node.append(head, element("div", "row-sub", `${extra.join(", ")}. ${row.preview}`));
    return node;
  }

  function place(row) {
    return varies.env ? `${row.env} ${row.task}` : `task ${row.task}`;
  }

  function spaced(text) {
    return text.replaceAll("_", " ");
  }

  function badge(row) {
    return element("span", `badge ${row.outcome}`, `${GLYPH[row.outcome]} ${spaced(row.outcome)}`);
  }

  function mark() {
    for (const node of list.querySelectorAll('[aria-selected="true"]')) {
      node.setAttribute("aria-selected", "false");
    }
    const node = current && byId(`row-${current.number}`);
    if (!node) {
      list.removeAttribute("aria-activedescendant");
      return;
    }
    node.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", node.id);
    const shelf = list.parentNode;
    const above = node.offsetTop - shelf.scrollTop;
    if (above < 0) shelf.scrollTop = node.offsetTop;
    else if (above + node.offsetHeight > shelf.clientHeight) {
      shelf.scrollTop = node.offsetTop + node.offsetHeight - shelf.clientHeight;
    }
  }

  function move(step) {
    if (!matching.length) return;
    const at = matching.indexOf(current);
    const next = at < 0 ? 0 : Math.min(Math.max(at + step, 0), matching.length - 1);
    while (shown <= next) showMore();
    open(matching[next], true);
  }

  // Reading pane

  async function open(row, chosen) {
    const mine = ++opening;
    current = row;
    mark();
    if (chosen) {
      byId("conversations").classList.add("chosen");
      setHash(`episode=${encodeURIComponent(row.id)}`);
    }
    try {
      const body = (await chunk(row.chunk))[row.place];
      if (mine === opening) pane.replaceChildren(...conversation(row, body));
    } catch (error) {
      if (mine === opening) {
        pane.replaceChildren(element("p", "trouble", `Cannot show it: ${error.message}`));
      }
    }
  }

  function conversation(row, body) {
    const title = element("h3", "", `${row.env} task ${row.task}, ${row.variant}, trial ${row.trial}`);
    const ended = element("p", "meta");
    ended.append(badge(row), ` \u00b7 reward ${row.reward === null ? "missing" : row.reward}`);
    const numbers = [`${row.steps} agent steps`, `${body.messages.length} messages`,
      `${body.calls} model calls`, `${body.tokens.toLocaleString("en")} tokens`, `${body.wall} s`];
    if (body.attempt > 1) numbers.push(`attempt ${body.attempt}`);
    ended.append(` \u00b7 ${numbers.join(" \u00b7 ")}`);
    const meta = element("p", "meta", [row.assistant, row.strategy, `seed ${body.seed}`,
      body.started].filter(Boolean).join(" \u00b7 ") + " \u00b7 ");
    const link = element("a", "", "link to this conversation");
    link.href = `#episode=${encodeURIComponent(row.id)}`;
    meta.append(link);
    const parts = [title, ended, meta];
    if (body.error) parts.push(element("p", "trouble", body.error));
    parts.push(siblings(row));
    if (body.instruction) parts.push(fold("Task as the simulated user has it", body.instruction));
    if (!body.messages.length) parts.push(element("p", "meta", "No message was exchanged."));
    const query = form.elements.q.value.trim();
    for (const message of body.messages) parts.push(rendered(message, row, query));
    if (body.info) parts.push(fold("Benchmark's record of the task and reward", body.info));
    return parts;
  }

  function siblings(row) {
    const nav = element("p", "siblings", "Same task and trial: ");
    for (const other of rows) {
      if (other.task !== row.task || other.trial !== row.trial || other.env !== row.env ||
          other.assistant !== row.assistant || other.strategy !== row.strategy) continue;
      const link = element("a", "", `${GLYPH[other.outcome]} ${other.variant}`);
      link.href = `#episode=${encodeURIComponent(other.id)}`;
      link.title = spaced(other.outcome);
      if (other === row) link.setAttribute("aria-current", "true");
      nav.append(link);
    }
    return nav;
  }

  function rendered(message, row, query) {
    if (message.r === "system") return fold("System prompt of the assistant", index.systems[message.s]);
    if (message.r === "tool") return result(message.n, message.t, query);
    // act and react agents read a tool's answer as a user message of this form.
    const answer = "API output: ";
    if (message.r === "user" && row.strategy.endsWith("act") && message.t.startsWith(answer)) {
      return result("", message.t.slice(answer.length), query);
    }
    const known = message.r === "user" || message.r === "assistant";
    const node = element("div", `message ${known ? message.r : "other"}`);
    if (message.t || !message.c) {
      node.append(element("p", "who", message.r === "user" ? "User (simulated)" :
        message.r === "assistant" ? "Assistant" : message.r));
    }
    if (message.t) node.append(highlighted(element("p", "said"), message.t, query));
    for (const [name, argument] of message.c || []) {
      node.append(fold("Tool call ", pretty(argument), `${name}(${short(argument)})`, query));
    }
    if (!message.t && !message.c) node.append(element("p", "said muted", "(empty message)"));
    return node;
  }

  function result(name, text, query) {
    return fold("Tool result ", pretty(text), `${name ? `${name}: ` : ""}${short(text)}`, query);
  }

  function fold(label, text, code, query) {
    const node = element("details", "fold");
    const summary = element("summary", "", label);
    if (code) summary.append(element("code", "", code));
    const body = element("pre");
    if (query && text.toLowerCase().includes(query.toLowerCase())) node.open = true;
    node.append(summary, highlighted(body, text, query));
    return node;
  }

  function highlighted(node, text, query) {
    const lower = text.toLowerCase();
    const wanted = (query || "").toLowerCase();
    // Lower-casing can change a text's length (e.g. U+0130); then the places would not fit.
    if (!wanted || lower.length !== text.length) {
      node.textContent = text;
      return node;
    }
    let from = 0;
    for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
      node.append(text.slice(from, at), element("mark", "", text.slice(at, at + wanted.length)));
      from = at + wanted.length;
    }
    node.append(text.slice(from));
    return node;
  }

  // Indented where that changes nothing else: JavaScript would round a long number.
  function pretty(text) {
    try {
      const value = JSON.parse(text);
      const same = JSON.stringify(value).replace(/\s/g, "") === text.replace(/\s/g, "");
      return same && typeof value === "object" ? JSON.stringify(value, null, 2) : text;
    } catch {
      return text;
    }
  }

  function short(text) {
    return text.length > 64 ? `${text.slice(0, 63)}\u2026` : text;
  }

  // Address: #episode=ID opens a conversation, #variant=..&outcome=.. filters; others are sections.

  function setHash(text) {
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }

  function follow() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    const id = wanted.get("episode");
    if (id) {
      const row = rows.find((each) => each.id === id) ||
        (id.length >= 6 && rows.find((each) => each.id.startsWith(id)));
      if (!row) {
        pane.replaceChildren(element("p", "trouble", `No conversation ${id} in this report.`));
      } else {
        const at = matching.indexOf(row);
        while (at >= shown) showMore();
        open(row, false);
        byId("conversations").classList.add("chosen");
      }
      byId("conversations").scrollIntoView();
      return true;
    }
    const keys = [...wanted.keys()].filter((key) => form.elements[key] && wanted.get(key));
    if (keys.length) {
      form.reset();
      for (const key of keys) form.elements[key].value = wanted.get(key);
      filter().then(() => matching.length && open(matching[0], false));
      byId("conversations").scrollIntoView();
    }
    return keys.length > 0;
  }

  list.addEventListener("click", (event) => {
    const node = event.target.closest("li");
    if (node) open(rows[Number(node.dataset.row)], true);
  });
  more.addEventListener("click", showMore);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea")) return;
    const inList = event.target === list;
    const step = event.key === "j" || (inList && event.key === "ArrowDown") ? 1
      : event.key === "k" || (inList && event.key === "ArrowUp") ? -1
      : inList && event.key === "Home" ? -matching.length
      : inList && event.key === "End" ? matching.length : 0;
    if (!step) return;
    event.preventDefault();
    move(step);
  });
  addEventListener("hashchange", follow);

  buildForm();
  show(rows);
  if (!follow() && rows.length) open(rows[0], false);
  if (!rows.length) {
    form.hidden = list.parentNode.hidden = true;
    pane.append(element("p", "meta", "They appear here as they end, when the report is made anew."));
  }
})();
