// What the pointer is nearest to: its numbers, a rule where it stands, and the other norms at the same place.

const tip = document.getElementById("tip");

/** The marks of a drawn chart that have something to tell, and where they are in its box. */
function marksOf({view, spec}) {
  const found = [], [left, top] = view.origin();
  (function visit(item, x, y) {
    if (item.items) {
      const isMark = item.marktype !== undefined;  // else a group, which has a place
      for (const one of item.items) visit(one, x + (isMark ? 0 : item.x ?? 0), y + (isMark ? 0 : item.y ?? 0));
    } else if (item.mark.marktype !== "rule" && tipsOf(spec, item).length) {
      found.push({item, x: x + item.x + (item.width ?? 0) / 2, y: y + item.y + (item.height ?? 0) / 2});
    }
  })(view.scenegraph().root, left, top);
  return found;
}

/** The lines that a mark's layer tells: field and title. */
const tipsOf = (spec, item) => spec.usermeta.tips[/^layer_(\d+)/.exec(item.mark.name ?? "")?.[1]] ?? [];

/** A value with four significant digits, as far as it is no count or name. */
const written = (value) => typeof value === "number" && !Number.isInteger(value) ? String(+value.toPrecision(4)) : value ?? "—";

function hover(chart, event) {
  if (!chart.view || event.buttons) return unhover();
  const svg = chart.box.querySelector("svg"), at = svg.getBoundingClientRect();
  const scale = at.width / svg.viewBox.baseVal.width || 1;
  const [x, y] = [(event.clientX - at.left) / scale, (event.clientY - at.top) / scale];
  const marks = marksOf(chart), {along} = chart.spec.usermeta;
  // Along an axis the place counts first: the rule goes through all norms there.
  const far = (mark) => along ? Math.abs(mark.x - x) * 1000 + Math.abs(mark.y - y) : Math.hypot(mark.x - x, mark.y - y);
  const nearest = marks.reduce((best, mark) => far(mark) < far(best) ? mark : best, marks[0]);
  if (!nearest || (!along && far(nearest) > 40)) return unhover();
  const {datum} = nearest.item;
  const others = along ? marks.filter(({item}) => item.datum[along] === datum[along] && item.datum.norm !== datum.norm
    && item.datum.seed === undefined) : [];
  show(chart.spec, nearest.item, others.map(({item}) => item));
  rule(chart, along ? nearest.x : null, svg);
  const box = tip.getBoundingClientRect(), px = at.left + nearest.x * scale, py = at.top + nearest.y * scale;
  tip.style.left = `${Math.max(4, px + 16 + box.width < innerWidth ? px + 16 : px - 16 - box.width)}px`;
  tip.style.top = `${Math.max(4, Math.min(py - box.height / 2, innerHeight - box.height - 4))}px`;
}

function show(spec, item, others) {
  const line = (name, value) => {
    const row = document.createElement("tr");
    for (const [text, kind] of [[name, "key"], [value, "value"]]) {
      const cell = row.insertCell();
      cell.className = kind;
      cell.textContent = text;
    }
    return row;
  };
  const rows = tipsOf(spec, item).map(([field, title]) => line(title, written(item.datum[field])));
  const norms = new Map();
  for (const other of others) {
    const mean = tipsOf(spec, other).find(([, title]) => title.endsWith(", mean")), {norm} = other.datum;
    if (mean && !norms.has(norm)) norms.set(norm, line(norm, written(other.datum[mean[0]])));
  }
  const table = document.createElement("table");
  table.append(...rows, ...norms.values());
  tip.replaceChildren(table);
  tip.hidden = false;
}

function rule(chart, x, svg) {
  let line = svg.querySelector("line.here");
  if (x === null) return line?.remove();
  if (!line) {
    line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "here");
    svg.append(line);
  }
  const top = chart.view.origin()[1], values = {x1: x, x2: x, y1: top, y2: top + chart.view.height()};
  for (const [name, value] of Object.entries(values)) line.setAttribute(name, value);
}

function unhover() {
  tip.hidden = true;
  for (const line of document.querySelectorAll("line.here")) line.remove();
}

function listenToPointer(chart) {
  chart.box.addEventListener("pointermove", (event) => hover(chart, event));
  chart.box.addEventListener("pointerleave", unhover);
}
