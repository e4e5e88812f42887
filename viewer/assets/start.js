// --- start
fillList();
for (const field of FILTERS) field.addEventListener("input", filter);
$("clear").addEventListener("click", () => {
  for (const field of FILTERS) field.value = "";
  filter();
  $("list").focus();
});
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
for (const button of document.querySelectorAll("[data-zoom]"))
  button.addEventListener("click", () => zoom(button.dataset.zoom));
startMoving($("timeline").querySelector(".stage"));
addEventListener("keydown", event => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
});
document.addEventListener("schemechange", startTimeline);
window.ready = startTimeline()
  .then(() => show(HEAD.selected))
  .then(() => drawing);
