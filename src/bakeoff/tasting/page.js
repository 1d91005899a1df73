"use strict";
// One comparison at a time. A vote counts once the server has said that it is on its disk; until then nothing moves on.
const $ = (id) => document.getElementById(id);
const KEYS = { 1: "left", 2: "tie", 3: "both bad", 4: "right", ArrowLeft: "left", ArrowDown: "tie", ArrowUp: "both bad", ArrowRight: "right" };
const key = location.hash.slice(1);
const seen = [];
let taster = "", number = null, busy = false;

async function ask(path, body) {
  const headers = { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify({ taster, ...body }) });
  const found = await answer.json();
  if (!answer.ok) throw new Error(typeof found.error === "string" ? found.error : found.error.message);
  return found;
}

async function step(path, body) {
  if (busy) return false;
  busy = true;
  for (const button of document.querySelectorAll("#choices button")) button.disabled = true;
  try {
    show(await ask(path, body));
    $("told").textContent = "";
    return true;
  } catch (error) {
    const away = error instanceof TypeError;
    $("told").textContent = away ? "The server does not answer. Start bakeoff taste again, then vote again: nothing is lost." : error.message;
    return false;
  } finally {
    busy = false;
    for (const button of document.querySelectorAll("#choices button")) button.disabled = false;
    $("back").disabled = seen.length === 0;
  }
}

function show(found) {
  number = found.number;
  $("count").textContent = `${found.done} of ${found.of} done`;
  $("bar").value = found.of ? found.done / found.of : 1;
  $("who").hidden = true;
  $("tasting").hidden = number === null;
  $("done").hidden = number !== null;
  if (number === null) return;
  for (const part of ["document", "left", "right"]) $(part).textContent = found[part] || "(empty)";
  $("note").value = "";
  $("document").scrollTop = 0;
  scrollTo(0, 0);
}

async function vote(choice) {
  if (number === null || $("tasting").hidden) return;
  const voted = number;
  if (await step("vote", { number, choice, note: $("note").value })) seen.push(voted);
  $("back").disabled = seen.length === 0;
}

function back() {
  if (seen.length && !busy) step("show", { number: seen.pop() });
}

$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  taster = $("taster").value.trim();
  if (!taster) return;
  try { localStorage.setItem("taster", taster); } catch { /* a browser that keeps nothing */ }
  step("show", {});
});
$("choices").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) vote(button.dataset.choice);
});
$("back").addEventListener("click", back);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === $("note")) {
    if (event.key === "Enter" || event.key === "Escape") $("note").blur();
    return;
  }
  if (event.target.tagName === "INPUT" || $("tasting").hidden || event.repeat) return;
  const scrolls = event.target === $("document") && event.key.startsWith("Arrow");
  if (event.key in KEYS && !scrolls) { event.preventDefault(); vote(KEYS[event.key]); }
  if (event.key === "n") { event.preventDefault(); $("note").focus(); }
  if (event.key === "z") back();
});
try { $("taster").value = localStorage.getItem("taster") || ""; } catch { /* as above */ }
$("back").disabled = true;
$("taster").focus();
