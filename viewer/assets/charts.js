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
    timeline.rows = ["hosp", "note", "ed", "icu"].flatMap(module =>
      numbers.filter(number => HEAD.tables[number].module === module),
    );
    timeline.events = patient.tables.filter((number, i) => number !== null || patient.events[i]).length;
  }
  const starts = patient.starts.filter(start => start !== null);
  const wasEmpty = $("timeline").classList.contains("empty");
  $("timeline").classList.toggle("empty", !starts.length);
  if (wasEmpty && starts.length) dispatchEvent(new Event("resize")); // the chart takes the width of its place again
  timeline.all = starts.length ? [Math.min(...starts), Math.max(...starts)] : [0, 1];
  const inside = sample.window ? patient.starts.slice(...sample.window).filter(start => start !== null) : starts;
  timeline.window = inside.length ? [Math.min(...inside), Math.max(...inside, sample.predicted_at ?? -Infinity)] : null;
  const inWindow = sample.window && numbered(sample.window[1] - sample.window[0], "event");
  const counts = inWindow ? `${inWindow} in the window of the sample (shaded). ` : "";
  $("timeline-text").textContent =
    `${numbered(timeline.events, "event")}, ${timeline.events - starts.length} without a time. ` +
    (starts.length
      ? counts +
        (sample.predicted_at ? "The dashed line is the prediction time. " : "") +
        "Events that are close together are one mark; a click selects the first."
      : "There is nothing to draw.");
  zoom("window");
}

const wider = (a, b, share) => [a - share * (b - a + 3600), b + share * (b - a + 3600)];

// At least a minute, and at most the record with as much again on both sides; it never leaves them.
function limited([from, to]) {
  const [first, last] = wider(...timeline.all, 1),
    width = Math.min(Math.max(to - from, 60), last - first),
    middle = Math.min(Math.max((from + to) / 2, first + width / 2), last - width / 2);
  return [middle - width / 2, middle + width / 2];
}

function zoom(how) {
  const [from, to] = timeline.domain ?? timeline.all,
    width = to - from;
  if (how === "window") timeline.domain = wider(...(timeline.window ?? timeline.all), 0.25);
  else if (how === "all") timeline.domain = wider(...timeline.all, 0.02);
  else if (how === "in") timeline.domain = [from + width / 4, to - width / 4];
  else if (how === "out") timeline.domain = [from - width / 2, to + width / 2];
  else timeline.domain = [from, to].map(end => end + (how === "left" ? -width : width) / 3);
  timeline.domain = limited(timeline.domain);
  return drawMarks();
}

function marks() {
  const { patient } = state,
    [from, to] = timeline.domain,
    step = (to - from) / (timeline.view.width() / MARK_PIXELS),
    byPlace = new Map();
  for (let i = 0; i < patient.starts.length; i++) {
    const start = patient.starts[i];
    if (start === null || patient.tables[i] === null || start < from || start > to) continue;
    const place = Math.floor((start - from) / step),
      key = patient.tables[i] * 100000 + place,
      mark = byPlace.get(key);
    if (mark) mark.events++;
    else {
      const { name, module } = HEAD.tables[patient.tables[i]],
        a = 1000 * (from + place * step);
      byPlace.set(key, { a, b: a + 800 * step, row: name, module, events: 1, event: i, time: time(start) });
    }
  }
  return [...byPlace.values()];
}

// The first event of the mark that is nearest to a place on the canvas, in the row of that place; null if none is near.
function eventAt(x, y) {
  const { view, rows, domain } = timeline,
    [left, top] = view.origin(),
    { left: padding } = view.padding();
  const row = HEAD.tables[rows[Math.floor(((y - top - padding) / view.height()) * rows.length)]]?.name;
  const scale = view.width() / (1000 * (domain[1] - domain[0])),
    place = x - left - padding;
  const away = mark => Math.abs((mark.a - 1000 * domain[0]) * scale + MARK_PIXELS / 2 - place);
  const near = marks()
    .filter(mark => mark.row === row && away(mark) < 2 * MARK_PIXELS)
    .sort((a, b) => away(a) - away(b));
  return near[0]?.event ?? null;
}

function drawMarks() {
  drawing = drawing.then(async () => {
    const { view, rows } = timeline,
      { patient, sample, event } = state;
    if (!view || !patient || !timeline.domain) return;
    const [from, to] = timeline.domain,
      start = patient.starts[event];
    view
      .signal("domain", [1000 * from, 1000 * to])
      .signal(
        "rows",
        rows.map(number => HEAD.tables[number].name),
      )
      .height(16 * rows.length + 8);
    $("timeline-shown").textContent = `${time(from).slice(0, 16)} to ${time(to).slice(0, 16)}`;
    view.data("marks", marks());
    view.data(
      "window",
      timeline.window && sample.window ? [{ a: 1000 * timeline.window[0], b: 1000 * timeline.window[1] }] : [],
    );
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
    timeline.domain = limited(timeline.domain.map(end => end + shift));
    from = event.clientX;
    drawMarks();
  });
  stage.addEventListener(
    "wheel",
    event => {
      // a pinch of a trackpad is a wheel with Ctrl
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? "in" : "out");
    },
    { passive: false },
  );
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
  $("graph")
    .querySelector("ul")
    .replaceChildren(...lines);
  graphView ??= embed($("graph"), "svg");
  const view = await graphView;
  if (state.sample.graph !== graph) return;
  const width = Math.max(16, Math.floor($("graph").querySelector(".plot").clientWidth / (11 * graph.columns))),
    nodes = graph.nodes.map(node => ({ ...node, lines: wrapped(node.term, width) }));
  const most = Math.max(...nodes.map(node => node.lines.split("\n").length));
  view
    .signal("columns", graph.columns)
    .signal("count", graph.rows)
    .height((40 + 14 * most) * graph.rows);
  view.data("nodes", nodes).data("edges", graph.edges);
  await view.resize().runAsync();
}
