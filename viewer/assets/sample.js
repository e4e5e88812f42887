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
  const box = $("list").getBoundingClientRect(),
    place = current.getBoundingClientRect();
  if (place.top < box.top + 30 || place.bottom > box.bottom) $("list").scrollTop += place.top - box.top - box.height / 2;
}

function showAbout() {
  const { entry, sample } = state;
  $("name").textContent = entry.id;
  const begins = sample.window && `events ${sample.window[0]} to ${sample.window[1] - 1}`;
  $("about").replaceChildren(
    ...describe([
      ["patient", entry.patient],
      ["admission", sample.admission],
      ["window", begins],
      ["predicted", sample.predicted_at ? `${sample.when}: ${time(sample.predicted_at)}` : sample.when],
      ["flags of the leak audit", sample.audit.join(", ")],
    ]),
  );
}

function list(items, mark) {
  const long = items.length > 30 || items.join().length > 1000;
  return make(
    "ul",
    { class: long ? "items long" : "items", tabindex: long ? 0 : null },
    ...items.map(item => {
      const [text, state] = mark(item);
      return make(
        "li",
        { class: state },
        make("span", { class: "mark", "aria-hidden": "true" }, state === "right" ? "✓ " : state === "wrong" ? "✗ " : ""),
        text,
        state && make("span", { class: "hidden" }, ` (${state})`),
      );
    }),
  );
}

function showAnswers() {
  const { sample } = state,
    labels = new Set(sample.labels.map(label => label.trim().toLowerCase()));
  const candidates =
    sample.candidates &&
    make(
      "details",
      {},
      make("summary", {}, `Candidates (${sample.candidates.length})`),
      list(sample.candidates, name => [name, labels.has(name.trim().toLowerCase()) ? "right" : ""]),
    );
  const rows = Object.entries(sample.answers).map(([number, answer]) => {
    const reply = answer.replies[0] ?? {};
    const items = reply.items?.length
      ? list(reply.items, ([item, right]) => [item, right ? "right" : "wrong"])
      : make("span", { class: "note" }, answer.error ?? "no item");
    const hits = new Set(reply.items?.filter(([, right]) => right).map(([item]) => item.trim().toLowerCase())).size;
    const share = labels.size > 1 ? make("div", { class: "note" }, `${hits} of ${labels.size} right answers given`) : null;
    const raw = answer.replies.map((each, i) =>
      make(
        "details",
        {},
        make("summary", {}, answer.replies.length > 1 ? `Reply ${i + 1} as written` : "As written"),
        make("pre", { tabindex: 0 }, each.response),
      ),
    );
    const mass = reply.yes_no_mass === undefined ? null : make("small", {}, `mass ${fraction(reply.yes_no_mass)}`);
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, HEAD.runs[number].name),
      make("td", { class: "text long" }, items, share, ...raw),
      make("td", {}, fraction(reply.p_yes), mass),
      make("td", { class: outcome(answer.score) }, fraction(answer.score)),
      make("td", { class: "text" }, reply.finish ?? "–"),
    );
  });
  const heads = ["model", "answer", "p(yes)", "score", "ended by"].map((name, i) =>
    make("th", { scope: "col", class: i === 2 || i === 3 ? null : "text" }, name),
  );
  const answers =
    rows.length &&
    make(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "What each model said" },
      make(
        "table",
        {},
        make("caption", {}, "What each model said"),
        make("thead", {}, make("tr", {}, ...heads)),
        make("tbody", {}, ...rows),
      ),
    );
  $("answers").replaceChildren(
    make("h4", {}, "Question and answers"),
    make("p", { class: "question" }, sample.question),
    make(
      "div",
      { class: "labels" },
      make("b", {}, sample.labels.length > 1 ? "Right answers" : "Right answer"),
      list(sample.labels, label => [label, ""]),
    ),
    ...[candidates, answers].filter(Boolean),
  );
}

// --- chains
function showChains() {
  const { sample } = state,
    chains = sample.chain ? [["of this row of the index", sample.chain]] : [];
  for (const [number, answer] of Object.entries(sample.answers))
    for (const [i, reply] of answer.replies.entries()) {
      if (reply.chain)
        chains.push([`of ${HEAD.runs[number].name}${answer.replies.length > 1 ? `, reply ${i + 1}` : ""}`, reply.chain]);
    }
  $("chains").hidden = !chains.length;
  $("chains").replaceChildren(
    make("h4", {}, "Reasoning"),
    ...chains.map(([whose, chain], i) => {
      const cited = chain.pieces.filter(piece => typeof piece === "object"),
        sound = cited.filter(piece => !piece.faults.length).length;
      const faults = chain.faults?.map(fault =>
        make("li", {}, `${HEAD.reasons[fault.reason]}${fault.detail ? `: ${fault.detail}` : ""}`),
      );
      const verdict = chain.faults && (faults.length ? "The filter of chains rejects it:" : "The filter of chains keeps it.");
      return make(
        "details",
        { open: i === 0 },
        make("summary", {}, `Chain ${whose}: ${sound} of ${cited.length} citations are right`),
        verdict && make("p", { class: faults.length ? "wrong" : "right" }, verdict),
        faults?.length ? make("ul", {}, ...faults) : null,
        make("div", { class: "chain" }, ...chain.pieces.map(citation)),
      );
    }),
  );
}

function citation(piece) {
  if (typeof piece === "string") return piece;
  const reasons = piece.faults.map(fault => HEAD.reasons[fault.reason]).join("; ");
  const state = reasons ? "wrong" : "right",
    title = reasons || "the record has this event at this time";
  const content = [make("span", { "aria-hidden": "true" }, reasons ? "✗ " : "✓ "), piece.text.replaceAll("**", "")];
  if (piece.event === null)
    return make("span", { class: `cite ${state}`, title }, ...content, make("span", { class: "hidden" }, ` (${reasons})`));
  return make(
    "button",
    { type: "button", class: `cite ${state}`, title, onclick: () => selectEvent(piece.event, { toPrompt: true }) },
    ...content,
  );
}

// --- the prompt
function showPrompt() {
  const { sample } = state,
    own = sample.answers[model()]?.prompt,
    number = own ?? 0,
    prompt = sample.prompts[number];
  const readers = HEAD.runs.filter((_, i) => sample.answers[i]?.prompt === number).map(run => run.name);
  const answer = sample.answers[model()],
    notes = [];
  if (readers.length) notes.push(`As ${readers.join(", ")} read it.`);
  else notes.push("Without the chat template of a model.");
  if (own !== undefined && answer.identical) notes.push("Identical to the prompt that was recorded.");
  if (own !== undefined && HEAD.runs[model()].note) notes.push(`Note: ${HEAD.runs[model()].note}.`);
  const warning =
    own !== undefined &&
    answer.identical === false &&
    "This is not the prompt that was run: its hash is another one. Data, instructions or chat template have changed since.";
  const cut = prompt.truncated;
  if (cut) {
    const dropped = [cut.events && `the ${cut.events} oldest events of the window`];
    dropped.push(cut.lines && `the last ${cut.lines} lines of the discharge note`);
    const [before, after] = [cut.tokens_before, cut.tokens_after].map(tokens => tokens.toLocaleString("en"));
    notes.push(`Truncated from ${before} to ${after} tokens, without ${dropped.filter(Boolean).join(" and ")}.`);
    if (!cut.fits) notes.push("It still does not fit.");
  }
  $("prompt").replaceChildren(
    make("h4", {}, "Prompt"),
    warning ? make("ul", { class: "notices" }, make("li", {}, warning)) : "",
    make("p", { class: "note" }, notes.join(" ")),
    make("ol", { class: "parts", tabindex: 0, "aria-label": "Parts of the prompt" }, ...prompt.parts.map(promptPart)),
  );
}

const KINDS = {
  template: "chat template",
  question: "question",
  reasoning: "given reasoning",
  event: "text",
  dropped: "text",
};

function promptPart(part) {
  if (typeof part === "number") part = { kind: part < 0 ? "dropped" : "event", event: Math.abs(part) };
  const event = part.event === undefined ? null : state.patient.events[part.event],
    dropped = part.kind === "dropped";
  const text = part.text ?? event?.text ?? "";
  const body = make("pre", {}, text + (part.gap ?? ""));
  if (!event) return make("li", { class: part.kind }, make("div", { class: "source" }, KINDS[part.kind]), body);
  const stored = storedText(event),
    start = state.patient.starts[part.event];
  const source = [
    make("b", {}, table(part.event).name),
    ` · event ${part.event}`,
    start === null ? " · no time" : ` · ${time(start)}`,
    event.n > 1 ? ` · ${event.n} records` : "",
  ];
  if (stored) source.push(` · stored ${stored.text}`);
  if (stored?.late) source.push(make("b", { class: "late" }, ` ${stored.late}`));
  if (dropped)
    source.push(
      make(
        "b",
        { class: "cut" },
        part.text === undefined ? " dropped: not in the prompt" : " dropped lines: not in the prompt",
      ),
    );
  return make(
    "li",
    { class: dropped ? "dropped" : "event", "data-event": part.event },
    make("button", { type: "button", class: "source", onclick: () => selectEvent(part.event) }, ...source),
    body,
  );
}

// --- an event
function selectEvent(position, { scroll = true, toPrompt = false } = {}) {
  const { patient } = state,
    last = patient.tables.length - 1;
  position = Math.min(Math.max(position, 0), last);
  state.event = position;
  const event = patient.events[position],
    start = patient.starts[position],
    stored = storedText(event);
  $("event-number").value = position;
  $("event-number").max = last;
  $("event-total").textContent = `of 0 to ${last.toLocaleString("en")}`;
  const about = [
    ["table", `${table(position).name} (${table(position).module})`],
    ["happened", start === null ? "no time" : time(start)],
  ];
  if (patient.lasts[position]) about[1][1] += ` to ${time(start + patient.lasts[position])}`;
  about.push([
    "stored",
    stored && make("span", {}, stored.text, stored.late ? make("b", { class: "late" }, ` ${stored.late}`) : ""),
  ]);
  about.push(["admission", patient.admissions[patient.stays[position]]], ["records", event?.n]);
  if (event?.ids) about.push([event.ids[0], event.ids[1].slice(0, 12).join(", ") + (event.ids[1].length > 12 ? ", …" : "")]);
  if (position === state.sample.target) about.push(["role", "the event to predict"]);
  $("event-about").replaceChildren(...describe(about));
  $("event-text").textContent = event
    ? event.text || "This table is not rendered."
    : "In no window of a sample on this page: its text is not here.";
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
