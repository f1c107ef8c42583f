// A click on a column's header sorts its table: once up, twice down, thrice as it was.
for (const button of document.querySelectorAll("thead button")) button.addEventListener("click", () => sortBy(button));

function sortBy(button) {
  const header = button.closest("th"), table = header.closest("table"), body = table.tBodies[0];
  const rows = [...body.rows];
  rows.forEach((row, i) => { row.dataset.order ??= i; });
  const next = {ascending: "descending", descending: ""}[header.ariaSort] ?? "ascending";
  for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
  if (next) header.setAttribute("aria-sort", next);
  table.classList.toggle("sorted", Boolean(next));  // its blocks are no longer together
  const sign = next === "descending" ? -1 : 1;
  const keys = new Map(rows.map((row) => [row, next ? keyOf(row.cells[header.cellIndex]) : Number(row.dataset.order)]));
  rows.sort((a, b) => compareKeys(keys.get(a), keys.get(b), sign) || a.dataset.order - b.dataset.order);
  body.append(...rows);
}

const collator = new Intl.Collator("en", {numeric: true});

/** What is not there comes last, whichever way. */
function compareKeys(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b));
}

/** The number that a cell begins with, or the mean of two; else its text. */
function keyOf(cell) {
  const text = cell.textContent.trim();
  if (text === "—" || !text) return null;
  if (!cell.classList.contains("n")) return text;
  const numbers = text.split(/\sand\s/).map((part) => parseFloat(part.replace(/[,×<+\s]/g, "").replace(/−/g, "-")));
  return numbers.some(Number.isNaN) ? text : numbers.reduce((sum, one) => sum + one) / numbers.length;
}
