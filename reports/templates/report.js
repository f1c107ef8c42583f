// The interpreter (ast) needs no eval, which the page's policy forbids.
const options = {actions: false, renderer: "svg", mode: "vega-lite", ast: true, tooltip: {disableDefaultStyle: true}};
const charts = specs.map((spec, i) => ({box: document.getElementById(`chart-${i}`), spec, view: null}));
const form = document.getElementById("filters");  // none where there is nothing to choose
const facets = [...(form?.querySelectorAll("fieldset") ?? [])].map((box) => ({
  ...box.dataset, box, inputs: [...box.querySelectorAll("input")], listed: "number" in box.dataset,
}));
// Everything that belongs to certain values of the axes, and to which.
const figures = [...document.querySelectorAll("figure")];
const parts = [...document.querySelectorAll("figure [data-cell], tbody tr")]
  .map((element) => [element, element.dataset.cell ? JSON.parse(element.dataset.cell) : cellOfRow(element)])
  .filter(([, cell]) => Object.keys(cell).length);

function cellOfRow(row) {
  const headers = [...row.closest("table").tHead.rows[0].cells];
  const known = headers.filter((header) => header.dataset.axis);
  return Object.fromEntries(known.map((h) => [h.dataset.axis, row.cells[h.cellIndex].textContent]));
}

const chosen = (facet) => facet.inputs.filter((input) => input.checked).map((input) => input.value);
const isWhole = (facet) => facet.inputs.every((input) => input.checked);

// How often the reader chose: a chart that was being drawn meanwhile has to follow.
let choices = 0;

/** Show what fits the choice, in charts, figures and tables alike. */
function apply() {
  const wanted = new Map(facets.filter((f) => !isWhole(f)).map((f) => [f.axis, new Set(chosen(f))]));
  const fits = (cell) => Object.entries(cell).every(([axis, value]) => wanted.get(axis)?.has(value) ?? true);
  for (const [element, cell] of parts) element.hidden = !fits(cell);
  for (const figure of figures) {
    const panels = [...figure.querySelectorAll(".panel")];
    const {cell, holds} = JSON.parse(figure.dataset.figure);
    const isEmpty = Object.entries(holds).some(([axis, values]) => !values.some((value) => fits({[axis]: value})));
    figure.hidden = !fits(cell) || isEmpty || panels.every((panel) => panel.hidden);
  }
  choices += 1;
  for (const chart of charts) if (chart.view) setParameters(chart.view);
  // A chart that was hidden does not know how wide its box is.
  window.dispatchEvent(new Event("resize"));
  drawWaiting();
  if (form) form.querySelector(".shown").textContent = `Showing ${sentences.format(facets.map(inWords))}.`;
}

const sentences = new Intl.ListFormat("en-GB", {style: "long", type: "conjunction"});
function inWords(facet) {
  const values = chosen(facet), count = values.length, total = facet.inputs.length;
  if (count === total) return total === 2 ? `both ${facet.many}` : `all ${total} ${facet.many}`;
  if (count === 0) return `no ${facet.one}`;
  if (facet.listed && count <= 4) return `${count === 1 ? facet.one : facet.many} ${sentences.format(values)}`;
  return `${count} of ${total} ${facet.many}`;
}

// Axes along which the data within a chart differ; the others hide whole figures.
const inCharts = facets.filter((facet) => specs[0].params.some(({name}) => name === `shown_${facet.axis}`));
function setParameters(view) {
  for (const facet of inCharts) view.signal(`shown_${facet.axis}`, chosen(facet));
  return view.runAsync();
}

// ---- The choice stands in the address, so that a view can be passed on: #norm=BN&norm_batch_size=4

function write() {
  const query = new URLSearchParams();
  for (const facet of facets.filter((f) => !isWhole(f))) {
    for (const value of chosen(facet)) query.append(facet.axis, value);
    if (!chosen(facet).length) query.append("none", facet.axis);
  }
  if (query.size || location.hash.includes("=")) history.replaceState(null, "", `#${query}`);
}

function read() {
  const query = new URLSearchParams(location.hash.slice(1));
  for (const facet of facets) {
    const known = query.getAll(facet.axis).filter((v) => facet.inputs.some((input) => input.value === v));
    const none = query.getAll("none").includes(facet.axis);
    for (const input of facet.inputs) input.checked = !none && (!known.length || known.includes(input.value));
  }
}

function change() { write(); apply(); }

function listen() {
  form.addEventListener("change", change);
  form.addEventListener("reset", () => setTimeout(change));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("click", ({target}) => {
    const facet = target.dataset.set && facets.find((f) => f.box.contains(target));
    if (!facet) return;
    for (const input of facet.inputs) input.checked = target.dataset.set === "all";
    change();
  });
  // The link to a section moves there; the choice stays, and comes back to the address.
  window.addEventListener("hashchange", () => {
    if (location.hash.includes("=")) { read(); apply(); } else write();
  });
  form.querySelector("details").open = matchMedia("(min-width: 48rem)").matches;
  // What the bar covers when it sticks, headings and focus must keep clear of.
  new ResizeObserver(() => {
    document.documentElement.style.setProperty("--bar", `${form.offsetHeight}px`);
  }).observe(form);
}

// ---- Drawing: one chart at a time, those in sight first, so that the page answers while the others follow.

let isDrawing = false;
async function drawWaiting() {
  if (isDrawing) return;
  isDrawing = true;
  for (let chart; (chart = nextChart()); ) {
    await draw(chart);
    await new Promise((resolve) => setTimeout(resolve));
  }
  isDrawing = false;
}

function nextChart() {
  const waiting = charts.filter((chart) => chart.spec && chart.box.offsetParent);
  const inSight = ({box}) => {
    const {top, bottom} = box.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  };
  return waiting.find(inSight) ?? waiting[0];
}

async function draw(chart) {
  const {spec} = chart;
  chart.spec = null;
  for (const [name, {columns, rows}] of Object.entries(spec.datasets)) {
    spec.datasets[name] = rows.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]])));
  }
  for (const facet of inCharts) {
    spec.params.find(({name}) => name === `shown_${facet.axis}`).value = chosen(facet);
  }
  const before = choices;
  try {
    chart.view = (await vegaEmbed(chart.box, spec, options)).view;
    // The description on the box says it all; what is within has no names.
    chart.box.querySelector("svg").setAttribute("aria-hidden", "true");
    if (choices !== before) await setParameters(chart.view);
  } catch (error) {
    console.error(error);
    chart.box.textContent = "This chart could not be drawn.";
  }
}

if (form) listen();
read();
apply();
