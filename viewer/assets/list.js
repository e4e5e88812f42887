// --- the samples of the page; those of a patient are unpacked when the first of them is shown
const $ = id => document.getElementById(id);
const HEAD = JSON.parse($("head").textContent),
  GROUPS = JSON.parse($("groups").textContent);
const KNOWN = new Map(HEAD.samples.map(entry => [entry.id, entry]));
const unpacked = new Map();
const state = { entry: null, sample: null, patient: null, event: null };

function unpack(group) {
  if (!unpacked.has(group)) {
    const bytes = Uint8Array.from(atob(GROUPS[group]), letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    unpacked.set(group, new Response(stream).json());
  }
  return unpacked.get(group);
}

// --- text and elements; text never becomes markup
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}
const breakable = name => name.split(/(?<=_)/).flatMap((word, i) => (i ? [make("wbr"), word] : [word]));
const time = seconds => new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ");
const numbered = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
const fraction = value => (value === null || value === undefined ? "–" : value.toFixed(3));
const describe = pairs =>
  pairs
    .filter(([, value]) => value || value === 0)
    .map(([key, value]) => make("div", {}, make("dt", {}, key), make("dd", {}, value)));
const table = position => HEAD.tables[state.patient.tables[position]] ?? { name: "text", title: "text", module: "" };

function storedText(event) {
  if (event?.stored === undefined) return null;
  const times = [event.stored]
    .flat()
    .filter(value => value !== null)
    .sort((a, b) => a - b);
  const late = state.sample.predicted_at === undefined ? 0 : times.filter(value => value > state.sample.predicted_at).length;
  const span = times[0] === times.at(-1) ? time(times[0]) : `${time(times[0])} to ${time(times.at(-1))}`;
  const many = Array.isArray(event.stored) ? `, ${late} of ${event.n} records` : "";
  return { text: span, late: late ? `after the prediction time${many}` : "" };
}

// --- the list and its filters
const model = () => Number($("run")?.value ?? 0);
const outcome = score =>
  score === null || score === undefined ? "none" : score >= 1 ? "right" : score > 0 ? "partly" : "wrong";

function fillList() {
  const rows = HEAD.samples.map(entry => {
    const open = make("button", { type: "button", class: "open", onclick: () => show(entry.id) }, ...breakable(entry.task));
    const cells = [
      make("th", { scope: "row", "data-value": entry.task }, open),
      make("td", { class: "text", "data-value": entry.patient }, entry.patient),
    ];
    if (HEAD.runs.length) cells.push(make("td"), make("td"));
    return make("tr", { "data-id": entry.id }, ...cells);
  });
  $("list")
    .querySelector("tbody")
    .replaceChildren(...rows);
  fillScores();
}

function fillScores() {
  for (const row of HEAD.runs.length ? listed() : []) {
    const entry = KNOWN.get(row.dataset.id);
    for (const [cell, value] of [
      [row.cells[2], entry.scores[model()]],
      [row.cells[3], entry.p_yes[model()]],
    ]) {
      cell.textContent = fraction(value);
      cell.dataset.value = value ?? "";
    }
    row.cells[2].className = outcome(entry.scores[model()]);
  }
}

const listed = () => [...$("list").querySelector("tbody").rows];
const FILTERS = ["task", "outcome", "least", "most"].map($).filter(Boolean);
const visible = () => listed().filter(row => !row.hidden);

function filter() {
  const [task, wanted] = [$("task").value, $("outcome")?.value];
  const [least, most] = [$("least")?.value ?? "", $("most")?.value ?? ""];
  for (const row of listed()) {
    const entry = KNOWN.get(row.dataset.id),
      score = entry.scores[model()] ?? null;
    const scored =
      (least === "" || (score !== null && score >= Number(least))) &&
      (most === "" || (score !== null && score <= Number(most)));
    row.hidden = !((!task || entry.task === task) && (!wanted || outcome(score) === wanted) && scored);
  }
  $("clear").hidden = FILTERS.every(filter => filter.value === "");
  count();
}

function count() {
  const rows = visible(),
    place = rows.findIndex(row => row.dataset.id === state.entry?.id) + 1;
  const shown = `${place ? `sample ${place} of ` : ""}${rows.length} shown, ${HEAD.samples.length} on this page`;
  $("count").textContent = rows.length ? shown : `${shown}: no sample matches the filters`;
}

function move(step) {
  const rows = visible();
  if (!rows.length) return;
  const place = rows.findIndex(row => row.dataset.id === state.entry?.id);
  const next = place < 0 ? 0 : Math.min(Math.max(place + step, 0), rows.length - 1);
  return show(rows[next].dataset.id);
}
