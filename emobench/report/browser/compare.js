// Two transcripts beside each other. Events are lists: [u, text], [a, text, aside],
// [t, tool, arguments, result, flags, aside, step], [o, role, text]; see transcripts.py.

// Aligned by the user's messages: its n-th one begins a row in both. What followed it until the
// next stands below: tool calls beside tool calls and what was said beside what was said, each by
// position. A row is [left, right]; null where one side has no more.
function aligned(left, right) {
  return paired(exchanges(left), exchanges(right)).flatMap(
    ([one, other]) => alignedRuns(runs(one || []), runs(other || [])));
}

function alignedRuns(left, right) {
  const rowsFound = [];
  while (left.length || right.length) {
    const alike = left.length && right.length && isCall(left[0][0]) === isCall(right[0][0]);
    // Tool calls that only one side made push down what the other one said.
    const first = alike || !right.length || (left.length && isCall(left[0][0]));
    const second = alike || !first;
    rowsFound.push(...paired(first ? left.shift() : [], second ? right.shift() : []));
  }
  return rowsFound;
}

const isCall = (event) => event[0] === "t";

// Tool calls in a row, and messages in a row.
function runs(events) {
  const found = [];
  events.forEach((event, at) => {
    if (!at || isCall(event) !== isCall(events[at - 1])) found.push([]);
    found[found.length - 1].push(event);
  });
  return found;
}

function exchanges(events) {
  const parts = [];
  for (const event of events) {
    if (!parts.length || event[0] === "u") parts.push([]);
    parts[parts.length - 1].push(event);
  }
  return parts;
}

function paired(left, right) {
  const length = Math.max(left.length, right.length);
  return Array.from({ length }, (_, at) => [left[at] ?? null, right[at] ?? null]);
}

// The first events, and the first tool calls, that differ or that one side lacks: pairs, or null.
function firstDifferences(left, right) {
  const calls = [left, right].map((events) => events.filter(isCall));
  return {
    event: paired(left, right).find((pair) => differ(...pair.map((e) => e && eventKey(e)))) || null,
    call: paired(...calls).find((pair) => differ(...pair.map((e) => e && callKey(e)))) || null,
  };
}

const differ = (one, other) => one !== other;

function eventKey(event) {
  if (isCall(event)) return JSON.stringify([callKey(event), event[3]]);
  return JSON.stringify(event.slice(0, event[0] === "a" ? 2 : 3));
}

// Equal for calls of one tool with the same arguments, in whatever order they stand.
function callKey(event) {
  const value = parsed(event[2]);
  return JSON.stringify([event[1], value === undefined ? event[2] : sorted(value)]);
}

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.keys(value).sort().map((key) => [key, sorted(value[key])]);
}

// The value of JSON that JavaScript holds exactly, or undefined: it would round a long number.
function parsed(text) {
  try {
    const value = JSON.parse(text);
    return JSON.stringify(value).replace(/\s/g, "") === text.replace(/\s/g, "") ? value : undefined;
  } catch {
    return undefined;
  }
}
