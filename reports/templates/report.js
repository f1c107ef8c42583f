// The interpreter (ast) needs no eval, which the page's policy forbids. Tooltips are those of hover.js.
const options = {actions: false, renderer: "svg", mode: "vega-lite", ast: true, tooltip: () => {}};
const charts = specs.map((spec, i) => (
  {box: document.getElementById(`chart-${i}`), spec, view: null, isCurrent: false}
));
const form = document.getElementById("filters");  // none where there is nothing to choose
const facets = [...(form?.querySelectorAll("fieldset") ?? [])].map((box) => ({
  ...box.dataset, box, inputs: [...box.querySelectorAll("input")], listed: "number" in box.dataset,
}));
// Everything that belongs to certain values of the axes, and to which.
const figures = [...document.querySelectorAll("figure")];
const parts = [...document.querySelectorAll("figure [data-cell], tr[data-cell]")]
  .map((element) => [element, JSON.parse(element.dataset.cell), JSON.parse(element.dataset.fits ?? "{}")])
  .filter(([, cell, held]) => Object.keys(cell).length || Object.keys(held).length);
const places = [...document.querySelectorAll("input[name=at]")];  // norm batches of the forest plot

const chosen = (facet) => facet.inputs.filter((input) => input.checked).map((input) => input.value);
const isWhole = (facet) => facet.inputs.every((input) => input.checked);

/** Show what fits the choice, in charts, figures and tables alike. */
function apply() {
  const wanted = new Map(facets.filter((f) => !isWhole(f)).map((f) => [f.axis, new Set(chosen(f))]));
  const fits = (cell) => Object.entries(cell).every(([axis, value]) => wanted.get(axis)?.has(value) ?? true);
  const isThere = ([axis, values]) => values.some((value) => fits({[axis]: value}));
  for (const [element, cell, held] of parts) element.hidden = !fits(cell) || !Object.entries(held).every(isThere);
  for (const figure of figures) {
    figure.hidden = [...figure.querySelectorAll(".panel")].every((panel) => panel.hidden);
  }
  for (const chart of charts) chart.isCurrent = false;
  wake();
  drawStale();
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

// ---- The choice stands in the address, so that a view can be passed on: #norm=BN&norm_batch_size=4

function write() {
  const query = new URLSearchParams();
  for (const facet of facets.filter((f) => !isWhole(f))) {
    for (const value of chosen(facet)) query.append(facet.axis, value);
    if (!chosen(facet).length) query.append("none", facet.axis);
  }
  const at = places.find((input) => input.checked);
  if (at && !at.defaultChecked) query.set("at", at.value);
  if (query.size || location.hash.includes("=")) history.replaceState(null, "", `#${query}`);
}

function read() {
  const query = new URLSearchParams(location.hash.slice(1));
  for (const input of places) input.checked = query.has("at") ? input.value === query.get("at") : input.defaultChecked;
  showPlace();
  for (const facet of facets) {
    const known = query.getAll(facet.axis).filter((v) => facet.inputs.some((input) => input.value === v));
    const none = query.getAll("none").includes(facet.axis);
    for (const input of facet.inputs) input.checked = !none && (!known.length || known.includes(input.value));
  }
}

/** In the forest plot, the rows of the norm batch that is chosen there. */
function showPlace() {
  const at = (places.find((input) => input.checked) ?? places.find((input) => input.defaultChecked))?.value;
  for (const body of document.querySelectorAll("tbody[data-at]")) body.hidden = Boolean(at && body.dataset.at) && body.dataset.at !== at;
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
  // The choices lie over the page: a click or Escape beside them closes them.
  const box = form.querySelector("details");
  document.addEventListener("click", ({target}) => { if (!box.contains(target)) box.open = false; });
  box.addEventListener("keydown", ({key}) => {
    if (key === "Escape") { box.open = false; box.querySelector("summary").focus(); }
  });
}

// ---- Drawing: one chart at a time, those in sight first and the others while the reader does nothing.

let isDrawing = false;
async function drawStale() {
  if (isDrawing) return;
  isDrawing = true;
  for (let next; (next = nextChart()); ) {
    const isIdle = await (next.isInSight ? new Promise((resolve) => setTimeout(resolve)) : idle());
    next = nextChart();  // what is in sight may have changed meanwhile
    if (!next) break;
    if (!next.isInSight && !isIdle) continue;
    next.chart.isCurrent = true;
    await draw(next.chart);
  }
  isDrawing = false;
}

// A reader who has just come, moves or types is about to choose something: drawing what is out of sight would keep
// them waiting. One who scrolls wants what comes in sight, and at once.
const PAUSE_MS = 300;
let lastInput = performance.now(), wake = () => {};
for (const name of ["pointermove", "pointerdown", "keydown", "scroll"]) {
  addEventListener(name, () => { lastInput = performance.now(); }, {capture: true, passive: true});
}
addEventListener("scroll", () => wake(), {passive: true});
/** Wait until the reader does nothing; whether that is so, and nothing else has woken the drawing. */
const idle = () => new Promise((resolve) => {
  wake = () => resolve(false);
  (function wait() {
    const left = lastInput + PAUSE_MS - performance.now();
    if (left > 0) setTimeout(wait, left); else (window.requestIdleCallback ?? setTimeout)(() => resolve(true));
  })();
});

function nextChart() {
  const stale = charts.filter((chart) => !chart.isCurrent && chart.box.offsetParent);
  const inSight = stale.find(({box}) => {
    const {top, bottom} = box.getBoundingClientRect();
    return bottom > 0 && top < innerHeight;
  });
  return stale.length ? {chart: inSight ?? stale[0], isInSight: Boolean(inSight)} : null;
}

// Axes along which the data within a chart differ; the others hide whole figures.
const inCharts = facets.filter((facet) => specs[0].params.some(({name}) => name === `shown_${facet.axis}`));

/** Draw a chart, or bring a drawn one up to the choice. */
async function draw(chart) {
  if (chart.hasFailed) return;
  try {
    if (!chart.view) {
      chart.view = await firstView(chart);
      // The description on the box says it all; what is within has no names.
      chart.box.querySelector("svg").setAttribute("aria-hidden", "true");
      listenToPointer(chart);
    } else {
      for (const facet of inCharts) chart.view.signal(`shown_${facet.axis}`, chosen(facet));
      // While it was hidden, its box had no width.
      chart.view.signal("width", chart.box.clientWidth);
      await chart.view.runAsync();
    }
  } catch (error) {
    console.error(error);
    chart.hasFailed = true;
    chart.box.textContent = "This chart could not be drawn.";
  }
}

async function firstView({box, spec}) {
  for (const [name, columns] of Object.entries(spec.datasets)) spec.datasets[name] = unpack(columns);
  for (const facet of inCharts) {
    spec.params.find(({name}) => name === `shown_${facet.axis}`).value = chosen(facet);
  }
  return (await vegaEmbed(box, spec, options)).view;
}

/** Rows from columns, in which each text stands once. */
function unpack(columns) {
  const rows = [];
  for (const [column, {texts, at}] of Object.entries(columns)) {
    at.forEach((value, i) => { (rows[i] ??= {})[column] = texts ? texts[value] : value; });
  }
  return rows;
}

if (form) listen();
for (const input of places) input.addEventListener("change", () => { showPlace(); write(); });
read();
apply();
