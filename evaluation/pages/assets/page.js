"use strict";

// --- colours: those of the system until the button is clicked
const SCHEMES = ["system", "light", "dark"];
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");
let scheme = "system";

function applyScheme() {
  document.documentElement.toggleAttribute("data-dark", scheme === "dark" || (scheme === "system" && prefersDark.matches));
  themeButton.textContent = `Colours: ${scheme}`;
  document.dispatchEvent(new Event("schemechange"));
}
prefersDark.addEventListener("change", applyScheme);
themeButton.addEventListener("click", () => {
  scheme = SCHEMES[(SCHEMES.indexOf(scheme) + 1) % SCHEMES.length];
  applyScheme();
});
themeButton.hidden = false;
applyScheme();

// --- tables: a click on the header of a column sorts the rows by the data-value of their cells (numbers: highest first), a
// second click reverses the order; cells without a value stay last
function sortRows(head) {
  const body = head.closest("table").tBodies[0],
    numeric = "numeric" in head.dataset;
  const order = head.getAttribute("aria-sort");
  const descending = order === "none" ? numeric : order === "ascending";
  for (const other of head.parentElement.cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => (numeric ? a - b : collator.compare(a, b));
  const rows = [...body.rows].map(row => [row.cells[head.cellIndex].dataset.value ?? "", row]);
  rows.sort(([a], [b]) => (a === "") - (b === "") || (descending ? compare(b, a) : compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}
document.addEventListener("click", event => {
  const head = event.target.closest(".sortable thead button")?.parentElement;
  if (head) sortRows(head);
});

// --- charts: expressions are interpreted, as the policy of the page forbids to compile them
const CHART_OPTIONS = { ast: true, actions: false, tooltip: { theme: "custom" } };
async function drawChart(figure) {
  const spec = JSON.parse(figure.querySelector("script").textContent),
    place = figure.querySelector(".plot");
  figure.toggleAttribute("data-hidden", !place.clientWidth); // in closed details
  if (spec.width === "container" && !place.clientWidth) spec.width = document.querySelector("main").clientWidth - 220;
  await vegaEmbed(place, spec, { ...CHART_OPTIONS, renderer: "svg", config: CHART_THEME });
}
window.chartsDrawn = Promise.all([...document.querySelectorAll("figure.chart")].map(drawChart));
// Charts that were drawn in closed details, for print, are fitted to their place when it is seen.
document.addEventListener("toggle", event => {
  if (event.target.open) event.target.querySelectorAll("figure[data-hidden]").forEach(drawChart);
}, true);
addEventListener("beforeprint", () => {
  for (const element of document.querySelectorAll("details")) element.open = true;
});
