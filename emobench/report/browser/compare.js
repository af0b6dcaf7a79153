// Two transcripts beside each other. Events are lists: [u, text], [a, text, aside],
// [t, tool, arguments, result, flags, aside, step], [o, role, text]; see transcripts.py.

// Aligned by the user's messages: its n-th one begins a row in both, and what followed it until
// the next stands below, step beside step. Each row is [left, right]; null where one has no more.
function aligned(left, right) {
  const sides = [exchanges(left), exchanges(right)];
  return paired(...sides).flatMap(([one, other]) => paired(one || [], other || []));
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
  const calls = [left, right].map((events) => events.filter((event) => event[0] === "t"));
  return {
    event: paired(left, right).find((pair) => differ(...pair.map((e) => e && eventKey(e)))) || null,
    call: paired(...calls).find((pair) => differ(...pair.map((e) => e && callKey(e)))) || null,
  };
}

const differ = (one, other) => one !== other;

function eventKey(event) {
  if (event[0] === "t") return JSON.stringify([callKey(event), event[3]]);
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
