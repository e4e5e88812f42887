// --- the samples of the page; those of a patient are unpacked when the first of them is shown
const $ = id => document.getElementById(id);
const HEAD = JSON.parse($("head").textContent), GROUPS = JSON.parse($("groups").textContent);
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
const fraction = value => (value === null || value === undefined ? "–" : value.toFixed(3));
const describe = pairs => pairs.filter(([, value]) => value || value === 0).map(([key, value]) => make("div", {}, make("dt", {}, key), make("dd", {}, value)));
const table = position => HEAD.tables[state.patient.tables[position]] ?? { name: "text", title: "text", module: "" };

function storedText(event) {
  if (event?.stored === undefined) return null;
  const times = [event.stored].flat().filter(value => value !== null).sort((a, b) => a - b);
  const late = state.sample.predicted_at === undefined ? 0 : times.filter(value => value > state.sample.predicted_at).length;
  const span = times[0] === times.at(-1) ? time(times[0]) : `${time(times[0])} to ${time(times.at(-1))}`;
  const many = Array.isArray(event.stored) ? `, ${late} of ${event.n} records` : "";
  return { text: span, late: late ? `after the prediction time${many}` : "" };
}

// --- the list and its filters
const model = () => Number($("run")?.value ?? 0);
const outcome = score => (score === null || score === undefined ? "none" : score >= 1 ? "right" : score > 0 ? "partly" : "wrong");

function fillList() {
  const rows = HEAD.samples.map(entry => {
    const open = make("button", { type: "button", class: "open", onclick: () => show(entry.id) }, ...breakable(entry.task));
    const cells = [make("th", { scope: "row", "data-value": entry.task }, open), make("td", { class: "text", "data-value": entry.patient }, entry.patient)];
    if (HEAD.runs.length) cells.push(make("td"), make("td"));
    return make("tr", { "data-id": entry.id }, ...cells);
  });
  $("list").querySelector("tbody").replaceChildren(...rows);
  fillScores();
}

function fillScores() {
  for (const row of HEAD.runs.length ? listed() : []) {
    const entry = KNOWN.get(row.dataset.id);
    for (const [cell, value] of [[row.cells[2], entry.scores[model()]], [row.cells[3], entry.p_yes[model()]]]) {
      cell.textContent = fraction(value);
      cell.dataset.value = value ?? "";
    }
    row.cells[2].className = outcome(entry.scores[model()]);
  }
}

const listed = () => [...$("list").querySelector("tbody").rows];
const visible = () => listed().filter(row => !row.hidden);

function filter() {
  const [task, wanted] = [$("task").value, $("outcome")?.value];
  const [least, most] = [$("least")?.value ?? "", $("most")?.value ?? ""];
  for (const row of listed()) {
    const entry = KNOWN.get(row.dataset.id), score = entry.scores[model()] ?? null;
    const scored = (least === "" || (score !== null && score >= Number(least))) && (most === "" || (score !== null && score <= Number(most)));
    row.hidden = !((!task || entry.task === task) && (!wanted || outcome(score) === wanted) && scored);
  }
  count();
}

function count() {
  const rows = visible(), place = rows.findIndex(row => row.dataset.id === state.entry?.id) + 1;
  $("count").textContent = `${place ? `sample ${place} of ` : ""}${rows.length} shown, ${HEAD.samples.length} on this page`;
}

function move(step) {
  const rows = visible();
  if (!rows.length) return;
  const place = rows.findIndex(row => row.dataset.id === state.entry?.id);
  const next = place < 0 ? 0 : Math.min(Math.max(place + step, 0), rows.length - 1);
  return show(rows[next].dataset.id);
}

// --- a sample
async function show(id) {
  const entry = KNOWN.get(id);
  state.entry = entry;
  const group = await unpack(entry.group);
  if (state.entry !== entry) return; // another sample was chosen meanwhile
  const otherPatient = state.patient !== group.patient;
  Object.assign(state, { sample: group.samples[id], patient: group.patient, event: null });
  for (const row of listed()) row.classList.toggle("current", row.dataset.id === id);
  const current = $("list").querySelector("tr.current");
  for (const button of $("list").querySelectorAll("button[aria-current]")) button.removeAttribute("aria-current");
  current.querySelector("button").setAttribute("aria-current", "true");
  count();
  showAbout();
  showAnswers();
  showChains();
  showGraph();
  showPrompt();
  showTimeline(otherPatient);
  selectEvent(state.sample.window ? state.sample.window[1] - 1 : 0, { scroll: false });
  const box = $("list").getBoundingClientRect(), place = current.getBoundingClientRect();
  if (place.top < box.top + 30 || place.bottom > box.bottom) $("list").scrollTop += place.top - box.top - box.height / 2;
}

function showAbout() {
  const { entry, sample } = state;
  $("name").textContent = entry.id;
  const begins = sample.window && `events ${sample.window[0]} to ${sample.window[1] - 1}`;
  $("about").replaceChildren(...describe([
    ["patient", entry.patient], ["admission", sample.admission], ["window", begins],
    ["predicted", sample.predicted_at ? `${sample.when}: ${time(sample.predicted_at)}` : sample.when],
    ["flags of the leak audit", sample.audit.join(", ")],
  ]));
}

function list(items, mark) {
  const long = items.length > 30 || items.join().length > 1000;
  return make("ul", { class: long ? "items long" : "items", tabindex: long ? 0 : null }, ...items.map(item => {
    const [text, state] = mark(item);
    return make("li", { class: state }, make("span", { class: "mark", "aria-hidden": "true" }, state === "right" ? "✓ " : state === "wrong" ? "✗ " : ""), text, state && make("span", { class: "hidden" }, ` (${state})`));
  }));
}

function showAnswers() {
  const { sample } = state, labels = new Set(sample.labels.map(label => label.trim().toLowerCase()));
  const candidates = sample.candidates && make("details", {}, make("summary", {}, `Candidates (${sample.candidates.length})`),
    list(sample.candidates, name => [name, labels.has(name.trim().toLowerCase()) ? "right" : ""]));
  const rows = Object.entries(sample.answers).map(([number, answer]) => {
    const reply = answer.replies[0] ?? {};
    const items = reply.items?.length ? list(reply.items, ([item, right]) => [item, right ? "right" : "wrong"]) : make("span", { class: "note" }, answer.error ?? "no item");
    const raw = answer.replies.map((each, i) => make("details", {}, make("summary", {}, answer.replies.length > 1 ? `Reply ${i + 1} as written` : "As written"), make("pre", { tabindex: 0 }, each.response)));
    const mass = reply.yes_no_mass === undefined ? null : make("small", {}, `mass ${fraction(reply.yes_no_mass)}`);
    return make("tr", {}, make("th", { scope: "row" }, HEAD.runs[number].name), make("td", { class: "text long" }, items, ...raw),
      make("td", {}, fraction(reply.p_yes), mass), make("td", { class: outcome(answer.score) }, fraction(answer.score)), make("td", { class: "text" }, reply.finish ?? "–"));
  });
  const heads = ["model", "answer", "p(yes)", "score", "ended by"].map((name, i) => make("th", { scope: "col", class: i === 2 || i === 3 ? null : "text" }, name));
  const answers = rows.length && make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "What each model said" },
    make("table", {}, make("caption", {}, "What each model said"), make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows)));
  $("answers").replaceChildren(make("h4", {}, "Question and answers"), make("p", { class: "question" }, sample.question),
    make("div", { class: "labels" }, make("b", {}, sample.labels.length > 1 ? "Right answers" : "Right answer"), list(sample.labels, label => [label, ""])), ...[candidates, answers].filter(Boolean));
}

// --- chains
function showChains() {
  const { sample } = state, chains = sample.chain ? [["of this row of the index", sample.chain]] : [];
  for (const [number, answer] of Object.entries(sample.answers)) for (const [i, reply] of answer.replies.entries()) {
    if (reply.chain) chains.push([`of ${HEAD.runs[number].name}${answer.replies.length > 1 ? `, reply ${i + 1}` : ""}`, reply.chain]);
  }
  $("chains").hidden = !chains.length;
  $("chains").replaceChildren(make("h4", {}, "Reasoning"), ...chains.map(([whose, chain], i) => {
    const cited = chain.pieces.filter(piece => typeof piece === "object"), sound = cited.filter(piece => !piece.faults.length).length;
    const faults = chain.faults?.map(fault => make("li", {}, `${HEAD.reasons[fault.reason]}${fault.detail ? `: ${fault.detail}` : ""}`));
    const verdict = chain.faults && (faults.length ? "The filter of chains rejects it:" : "The filter of chains keeps it.");
    return make("details", { open: i === 0 }, make("summary", {}, `Chain ${whose}: ${sound} of ${cited.length} citations are right`),
      verdict && make("p", { class: faults.length ? "wrong" : "right" }, verdict), faults?.length ? make("ul", {}, ...faults) : null,
      make("div", { class: "chain" }, ...chain.pieces.map(citation)));
  }));
}

function citation(piece) {
  if (typeof piece === "string") return piece;
  const reasons = piece.faults.map(fault => HEAD.reasons[fault.reason]).join("; ");
  const state = reasons ? "wrong" : "right", title = reasons || "the record has this event at this time";
  const content = [make("span", { "aria-hidden": "true" }, reasons ? "✗ " : "✓ "), piece.text.replaceAll("**", "")];
  if (piece.event === null) return make("span", { class: `cite ${state}`, title }, ...content, make("span", { class: "hidden" }, ` (${reasons})`));
  return make("button", { type: "button", class: `cite ${state}`, title, onclick: () => selectEvent(piece.event, { toPrompt: true }) }, ...content);
}

// --- the prompt
function showPrompt() {
  const { sample } = state, own = sample.answers[model()]?.prompt, number = own ?? 0, prompt = sample.prompts[number];
  const readers = HEAD.runs.filter((_, i) => sample.answers[i]?.prompt === number).map(run => run.name);
  const answer = sample.answers[model()], notes = [];
  if (readers.length) notes.push(`As ${readers.join(", ")} read it.`);
  else notes.push("Without the chat template of a model.");
  if (own !== undefined && answer.identical) notes.push("Identical to the prompt that was recorded.");
  if (own !== undefined && HEAD.runs[model()].note) notes.push(`Note: ${HEAD.runs[model()].note}.`);
  const warning = own !== undefined && answer.identical === false && "This is not the prompt that was run: its hash is another one. Data, instructions or chat template have changed since.";
  const cut = prompt.truncated;
  if (cut) notes.push(`Truncated from ${cut.tokens_before.toLocaleString("en")} to ${cut.tokens_after.toLocaleString("en")} tokens: the ${cut.events} oldest events of the window and the last ${cut.lines} lines of the discharge note are missing${cut.fits ? "" : ", and it still does not fit"}.`);
  $("prompt").replaceChildren(make("h4", {}, "Prompt"), warning ? make("ul", { class: "notices" }, make("li", {}, warning)) : "", make("p", { class: "note" }, notes.join(" ")),
    make("ol", { class: "parts", tabindex: 0, "aria-label": "Parts of the prompt" }, ...prompt.parts.map(promptPart)));
}

const KINDS = { template: "chat template", question: "question", reasoning: "given reasoning", event: "text", dropped: "text" };

function promptPart(part) {
  if (typeof part === "number") part = { kind: part < 0 ? "dropped" : "event", event: Math.abs(part) };
  const event = part.event === undefined ? null : state.patient.events[part.event], dropped = part.kind === "dropped";
  const text = part.text ?? event?.text ?? "";
  const body = make("pre", {}, text + (part.gap ?? ""));
  if (!event) return make("li", { class: part.kind }, make("div", { class: "source" }, KINDS[part.kind]), body);
  const stored = storedText(event), start = state.patient.starts[part.event];
  const source = [make("b", {}, table(part.event).name), ` · event ${part.event}`, start === null ? " · no time" : ` · ${time(start)}`, event.n > 1 ? ` · ${event.n} records` : ""];
  if (stored) source.push(` · stored ${stored.text}`);
  if (stored?.late) source.push(make("b", { class: "late" }, ` ${stored.late}`));
  if (dropped) source.push(make("b", { class: "cut" }, part.text === undefined ? " dropped: not in the prompt" : " dropped lines: not in the prompt"));
  return make("li", { class: dropped ? "dropped" : "event", "data-event": part.event },
    make("button", { type: "button", class: "source", onclick: () => selectEvent(part.event) }, ...source), body);
}

// --- an event
function selectEvent(position, { scroll = true, toPrompt = false } = {}) {
  const { patient } = state, last = patient.tables.length - 1;
  position = Math.min(Math.max(position, 0), last);
  state.event = position;
  const event = patient.events[position], start = patient.starts[position], stored = storedText(event);
  $("event-number").value = position;
  $("event-number").max = last;
  $("event-total").textContent = `of 0 to ${last.toLocaleString("en")}`;
  const about = [["table", `${table(position).name} (${table(position).module})`], ["happened", start === null ? "no time" : time(start)]];
  if (patient.lasts[position]) about[1][1] += ` to ${time(start + patient.lasts[position])}`;
  about.push(["stored", stored && make("span", {}, stored.text, stored.late ? make("b", { class: "late" }, ` ${stored.late}`) : "")]);
  about.push(["admission", patient.admissions[patient.stays[position]]], ["records", event?.n]);
  if (event?.ids) about.push([event.ids[0], event.ids[1].slice(0, 12).join(", ") + (event.ids[1].length > 12 ? ", …" : "")]);
  if (position === state.sample.target) about.push(["role", "the event to predict"]);
  $("event-about").replaceChildren(...describe(about));
  $("event-text").textContent = event ? event.text || "This table is not rendered." : "In no window of a sample on this page: its text is not here.";
  const part = $("prompt").querySelector(`[data-event="${position}"]`);
  $("event-prompt").disabled = !part;
  for (const other of $("prompt").querySelectorAll(".chosen")) other.classList.remove("chosen");
  if (part) {
    part.classList.add("chosen");
    if (scroll) part.parentElement.scrollTop = part.offsetTop - 8;
    if (toPrompt) $("prompt").scrollIntoView({ block: "start" });
  }
  return drawMarks();
}

// --- charts on a canvas: its colours are those of the scheme when they are drawn
function coloured(value) {
  const style = getComputedStyle(document.documentElement);
  return JSON.parse(JSON.stringify(value).replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim()));
}
async function embed(place, renderer) {
  const spec = JSON.parse(place.querySelector(".spec").textContent);
  const options = { ...CHART_OPTIONS, renderer, config: CHART_THEME };
  if (renderer === "canvas") [options.config, spec.layer] = [coloured(CHART_THEME), coloured(spec.layer)];
  return (await vegaEmbed(place.querySelector(".plot"), spec, options)).view;
}

// --- the timeline
const MARK_PIXELS = 4; // events of a table that are closer are one mark
const timeline = { view: null, domain: null, rows: [] };
let drawing = Promise.resolve();

async function showTimeline(otherPatient) {
  const { patient, sample } = state;
  if (otherPatient) {
    const present = new Set(patient.tables.filter((number, i) => number !== null && patient.starts[i] !== null));
    const numbers = [...present].sort((a, b) => a - b);
    timeline.rows = HEAD.runs && ["hosp", "note", "ed", "icu"].flatMap(module => numbers.filter(number => HEAD.tables[number].module === module));
    timeline.untimed = patient.starts.filter(start => start === null).length;
  }
  const starts = patient.starts.filter(start => start !== null);
  timeline.all = starts.length ? [Math.min(...starts), Math.max(...starts)] : [0, 1];
  const inside = sample.window ? patient.starts.slice(...sample.window).filter(start => start !== null) : starts;
  timeline.window = inside.length ? [Math.min(...inside), Math.max(...inside, sample.predicted_at ?? -Infinity)] : null;
  const counts = sample.window ? `${sample.window[1] - sample.window[0]} events in the window of the sample (shaded). ` : "";
  $("timeline-text").textContent = `${patient.tables.length.toLocaleString("en")} events, ${timeline.untimed} of them without a time. ${counts}`
    + "The dashed line is the prediction time. Events that are close together are one mark; a click selects the first.";
  zoom("window");
}

function zoom(how) {
  const [from, to] = timeline.domain ?? timeline.all, width = to - from, wider = (a, b, share) => [a - share * (b - a + 3600), b + share * (b - a + 3600)];
  if (how === "window") timeline.domain = wider(...(timeline.window ?? timeline.all), 0.25);
  else if (how === "all") timeline.domain = wider(...timeline.all, 0.02);
  else if (how === "in") timeline.domain = [from + width / 4, to - width / 4];
  else if (how === "out") timeline.domain = [from - width / 2, to + width / 2];
  else timeline.domain = [from, to].map(end => end + (how === "left" ? -width : width) / 3);
  return drawMarks();
}

function marks() {
  const { patient } = state, [from, to] = timeline.domain, step = (to - from) / (timeline.view.width() / MARK_PIXELS), byPlace = new Map();
  for (let i = 0; i < patient.starts.length; i++) {
    const start = patient.starts[i];
    if (start === null || patient.tables[i] === null || start < from || start > to) continue;
    const place = Math.floor((start - from) / step), key = patient.tables[i] * 100000 + place, mark = byPlace.get(key);
    if (mark) mark.events++;
    else {
      const { name, module } = HEAD.tables[patient.tables[i]], a = 1000 * (from + place * step);
      byPlace.set(key, { a, b: a + 800 * step, row: name, module, events: 1, event: i });
    }
  }
  return [...byPlace.values()];
}

// The first event of the mark that is nearest to a place on the canvas, in the row of that place; null if none is near.
function eventAt(x, y) {
  const { view, rows, domain } = timeline, [left, top] = view.origin(), { left: padding } = view.padding();
  const row = HEAD.tables[rows[Math.floor(((y - top - padding) / view.height()) * rows.length)]]?.name;
  const scale = view.width() / (1000 * (domain[1] - domain[0])), place = x - left - padding;
  const away = mark => Math.abs((mark.a - 1000 * domain[0]) * scale + MARK_PIXELS / 2 - place);
  const near = marks().filter(mark => mark.row === row && away(mark) < 2 * MARK_PIXELS).sort((a, b) => away(a) - away(b));
  return near[0]?.event ?? null;
}

function drawMarks() {
  drawing = drawing.then(async () => {
    const { view, rows } = timeline, { patient, sample, event } = state;
    if (!view || !patient || !timeline.domain) return;
    const [from, to] = timeline.domain, start = patient.starts[event];
    view.signal("domain", [1000 * from, 1000 * to]).signal("rows", rows.map(number => HEAD.tables[number].name)).height(16 * rows.length + 8);
    $("timeline-shown").textContent = `${time(from).slice(0, 16)} to ${time(to).slice(0, 16)}`;
    view.data("marks", marks());
    view.data("window", timeline.window && sample.window ? [{ a: 1000 * timeline.window[0], b: 1000 * timeline.window[1] }] : []);
    view.data("moment", sample.predicted_at ? [{ a: 1000 * sample.predicted_at }] : []);
    view.data("selected", event === null || start === null ? [] : [{ a: 1000 * start, row: table(event).name }]);
    await view.runAsync();
  });
  return drawing;
}

async function startTimeline() {
  const view = await embed($("timeline"), "canvas");
  timeline.view?.finalize();
  timeline.view = view;
  view.addEventListener("click", event => {
    const chosen = eventAt(event.offsetX, event.offsetY);
    if (chosen !== null) selectEvent(chosen);
  });
  view.addResizeListener(() => drawMarks());
  return drawMarks();
}

function startMoving(stage) {
  const seconds = pixels => (pixels * (timeline.domain[1] - timeline.domain[0])) / timeline.view.width();
  let from = null;
  stage.addEventListener("pointerdown", event => (from = event.clientX));
  addEventListener("pointerup", () => (from = null));
  addEventListener("pointermove", event => {
    if (from === null || Math.abs(event.clientX - from) < 3) return;
    const shift = seconds(from - event.clientX);
    timeline.domain = timeline.domain.map(end => end + shift);
    from = event.clientX;
    drawMarks();
  });
  stage.addEventListener("wheel", event => { // a pinch of a trackpad is a wheel with Ctrl
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? "in" : "out");
  }, { passive: false });
  const keys = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right" };
  stage.addEventListener("keydown", event => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    zoom(keys[event.key]);
  });
}

// --- the thinking graph
function wrapped(text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1) && lines.at(-1).length + word.length >= width) lines.push(word);
    else lines.push(`${lines.pop()} ${word}`.trim());
  }
  return lines.join("\n");
}

let graphView = null;
async function showGraph() {
  const { graph } = state.sample;
  $("graph").hidden = !graph;
  if (!graph) return;
  const lines = graph.edges.map(edge => {
    const term = (column, row) => graph.nodes.find(node => node.column === column && node.row === row).term;
    return make("li", {}, `${term(edge.column, edge.row)} — ${edge.relation} → ${term(edge.to_column, edge.to_row)}`);
  });
  $("graph").querySelector("ul").replaceChildren(...lines);
  graphView ??= embed($("graph"), "svg");
  const view = await graphView;
  if (state.sample.graph !== graph) return;
  const width = Math.max(16, Math.floor($("graph").querySelector(".plot").clientWidth / (11 * graph.columns))), nodes = graph.nodes.map(node => ({ ...node, lines: wrapped(node.term, width) }));
  const most = Math.max(...nodes.map(node => node.lines.split("\n").length));
  view.signal("columns", graph.columns).signal("count", graph.rows).height((40 + 14 * most) * graph.rows);
  view.data("nodes", nodes).data("edges", graph.edges);
  await view.resize().runAsync();
}

// --- start
fillList();
for (const id of ["task", "outcome", "least", "most"]) $(id)?.addEventListener("input", filter);
$("run")?.addEventListener("input", () => {
  fillScores();
  filter();
  if (state.sample) showPrompt();
  if (state.event !== null) selectEvent(state.event, { scroll: false });
});
$("filters").addEventListener("submit", event => event.preventDefault());
$("previous").addEventListener("click", () => move(-1));
$("next").addEventListener("click", () => move(1));
$("list").addEventListener("click", event => {
  if (event.target.closest("thead button")) setTimeout(count);
  else if (event.target.closest("tbody tr")) show(event.target.closest("tr").dataset.id);
});
$("event-previous").addEventListener("click", () => selectEvent(state.event - 1));
$("event-next").addEventListener("click", () => selectEvent(state.event + 1));
$("event-number").addEventListener("change", () => selectEvent(Number($("event-number").value)));
$("event-prompt").addEventListener("click", () => selectEvent(state.event, { toPrompt: true }));
for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(button.dataset.zoom));
startMoving($("timeline").querySelector(".stage"));
addEventListener("keydown", event => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
});
document.addEventListener("schemechange", startTimeline);
window.ready = startTimeline().then(() => show(HEAD.selected)).then(() => drawing);
