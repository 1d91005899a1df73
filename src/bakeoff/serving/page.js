// A document is written by several models at once; each stream fills its own card.
"use strict";
const at = (id) => document.getElementById(id);
const make = (name, className, text = "") => {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
};
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
let running = null; // what stops the outputs that are being written

function tell(text, bad = false) {
  at("told").textContent = text;
  at("told").className = bad ? "bad" : "soft";
}

async function ask(path, body, signal) {
  const key = at("key").value.trim();
  const headers = { ...(body && { "content-type": "application/json" }), ...(key && { authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => null);
  throw Object.assign(new Error(found?.error?.message ?? `status ${answer.status}`), { status: answer.status });
}

// The models: a bakeoff's recommended entry and its base are chosen first.
async function list() {
  try {
    const { data } = await (await ask("v1/models")).json();
    const best = new Set(data.filter((m) => !m.id.includes("/")).map((m) => `${m.id}/${m.entry}`));
    const models = data.filter((m) => m.id.includes("/"));
    models.sort((a, b) => best.has(b.id) - best.has(a.id));
    at("chips").replaceChildren(...models.map((model) => chip(model, best.has(model.id))));
    tell(models.length ? "" : "No model is loaded.", !models.length);
  } catch (error) {
    const locked = error.status === 401;
    at("key").hidden = at("key-label").hidden = !locked && at("key").hidden;
    tell(locked ? "This server asks for a key." : `The models could not be listed: ${error.message}`, !locked);
  }
}

function chip(model, best) {
  const label = make("label", ""), box = document.createElement("input");
  box.type = "checkbox";
  box.value = model.id;
  box.checked = best || model.entry === null;
  const method = model.method === model.entry ? "" : model.method;
  const note = best ? "recommended" : model.entry === null ? "untouched" : method;
  label.append(box, make("span", "", model.id));
  if (note) label.append(make("span", "soft", note));
  return label;
}

// The events of a stream, as objects.
async function* events(answer) {
  let rest = "";
  for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + text).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const content = part.replace(/^data: /, "");
      if (content === "[DONE]") return;
      const event = JSON.parse(content);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
  throw new Error("the connection ended early");
}

function body(model) {
  const given = { model, prompt: at("document").value, stream: true, stream_options: { include_usage: true } };
  for (const [name, id] of [["max_tokens", "most"], ["temperature", "temperature"], ["seed", "seed"]])
    if (at(id).value !== "") given[name] = Number(at(id).value);
  return given;
}

async function write(model, signal) {
  const card = make("li", "writing"), title = make("h2", "", model), text = make("p", "text"), cost = make("p", "cost", "waiting");
  card.append(title, text, cost);
  at("outputs").append(card);
  const began = performance.now();
  let first = null, usage = null, finish = null;
  const seconds = () => `${((performance.now() - began) / 1000).toFixed(2)} s`;
  try {
    for await (const event of events(await ask("v1/completions", body(model), signal))) {
      usage = event.usage ?? usage;
      finish = event.choices[0]?.finish_reason ?? finish;
      if (event.choices[0]?.text) {
        first ??= seconds();
        text.textContent += event.choices[0].text;
        cost.textContent = `${seconds()}, first words after ${first}`;
      }
    }
    if (!text.textContent) text.append(make("span", "soft", "(empty)"));
    const cut = usage.prompt_tokens_details.cut_tokens;
    const costs = [plural(usage.completion_tokens, "token"), seconds(), first && `first words after ${first}`,
      finish === "length" && "ended by its limit", cut && `${plural(cut, "token")} of the document cut`];
    cost.textContent = costs.filter(Boolean).join(", ");
  } catch (error) {
    const stopped = error.name === "AbortError";
    cost.textContent = stopped ? `stopped after ${seconds()}` : error.message;
    if (!stopped) cost.classList.add("bad");
  }
  card.classList.remove("writing");
  return card;
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (running) return;
  if (!at("chips").childElementCount) await list();
  const models = [...at("chips").querySelectorAll(":checked")].map((box) => box.value);
  if (!at("document").value.trim()) return tell("Type a document first.", true);
  if (!models.length) return tell("Pick at least one entry.", true);
  running = new AbortController();
  at("go").disabled = true;
  at("stop").disabled = false;
  at("outputs").replaceChildren();
  tell(`${plural(models.length, "model")} writing …`);
  const cards = await Promise.all(models.map((model) => write(model, running.signal)));
  const texts = new Set(cards.map((card) => card.querySelector(".text").textContent));
  const stopped = running.signal.aborted;
  running = null;
  at("go").disabled = false;
  at("stop").disabled = true;
  const alike = cards.length > 1 && texts.size === 1 ? "; all outputs are equal" : "";
  tell(stopped ? "Stopped." : `${plural(cards.length, "model")} done${alike}.`);
});
at("stop").addEventListener("click", () => running?.abort());
at("key").addEventListener("change", list);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
  if (event.key === "Escape") running?.abort();
});
list();
