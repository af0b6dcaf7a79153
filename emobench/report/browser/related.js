// Other conversations on the same task: links to them, and what stands beside the one that is read.

// What stands beside: a variant's conversation on the same task and trial, a certain one, or none.
const CONTROL_BESIDE = { variant: index.control, row: null, of: null };
const NOTHING_BESIDE = { variant: null, row: null, of: null };
let beside = CONTROL_BESIDE;

function besideOf(row) {
  const other = beside.of === row ? beside.row : counterpart(row, beside.variant);
  return other && other !== row && hasText(other) && hasText(row) ? other : null;
}

const sameSetting = (row, test) => row.cell.setting.filter(test)
  .map((cell) => cell.byTask.get(row.task)).filter(Boolean);

function relations(row) {
  const { variant, trial } = row.cell;
  const elsewhere = cells.filter((cell) => cell.setting !== row.cell.setting &&
    cell.env === row.cell.env && cell.variant === variant && cell.trial === trial)
    .map((cell) => cell.byTask.get(row.task)).filter(Boolean);
  return [
    ["Same task and trial", sameSetting(row, (cell) => cell.trial === trial),
      (each) => each.cell.variant],
    [`Other trials of ${variant}`, sameSetting(row, (cell) => cell.variant === variant),
      (each) => `trial ${each.cell.trial}`],
    ["Other assistants and strategies", [row, ...elsewhere],
      (each) => `${each.cell.assistant}, ${each.cell.strategy}`],
  ].filter(([, found]) => found.length > 1);
}

function related(row) {
  const node = element("div", "related");
  for (const [label, found, name] of relations(row)) {
    const line = node.appendChild(element("p", "siblings", `${label}: `));
    for (const each of found) {
      const link = line.appendChild(element("a", "", `${GLYPH[each.outcome]}\u00a0${name(each)}`));
      link.href = `#episode=${encodeURIComponent(each.id)}`;
      link.title = spaced(each.outcome);
      link.setAttribute("aria-label", `${name(each)}, ${spaced(each.outcome)}`);
      if (each === row) link.setAttribute("aria-current", "true");
    }
  }
  return node;
}

function besideChoice(row, other) {
  const select = element("select");
  select.id = "beside";
  select.append(new Option("nothing", "", false, !other));
  const offered = [];
  for (const [label, found, name] of relations(row)) {
    const group = select.appendChild(element("optgroup"));
    group.label = label;
    for (const each of found) {
      if (each === row) continue;
      const option = new Option(`${name(each)}, ${spaced(each.outcome)}`, offered.length);
      option.disabled = !hasText(each);
      option.selected = each === other;
      offered.push(each);
      group.append(option);
    }
  }
  select.addEventListener("change", () => {
    setBeside(row, select.value === "" ? null : offered[Number(select.value)]);
    updateHash();
    read(row).then(() => byId("beside").focus());
  });
  const label = element("label", "", "Beside ");
  label.append(select);
  return label;
}

// A variant on the same task and trial stays chosen for the conversations that follow; any other
// conversation is chosen for this one only.
function setBeside(row, other) {
  if (!other) beside = NOTHING_BESIDE;
  else if (counterpart(row, other.cell.variant) === other) {
    beside = { variant: other.cell.variant, row: null, of: null };
  } else beside = { variant: index.control, row: other, of: row };
}
