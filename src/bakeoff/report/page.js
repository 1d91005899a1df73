// Comforts over a page that reads without them: sorting, hints, downloads, comparing two entries' outputs.
"use strict";
document.documentElement.classList.add("js");
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Sorting: a heading sorts its table, and sorts it the other way when used again.
for (const table of all("table.sortable")) {
  const body = table.tBodies[0];
  all("thead th", table).forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column]?.dataset.value ?? "";
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // what was not measured stays last
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return down ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}

// Hints: what a mark stands for, beside the pointer.
const hint = document.createElement("div");
hint.className = "hint";
hint.hidden = true;
document.body.append(hint);
document.addEventListener("pointerover", (event) => {
  const mark = event.target.closest?.("[data-tip]");
  hint.hidden = !mark;
  if (mark) hint.textContent = mark.dataset.tip;
});
document.addEventListener("pointermove", (event) => {
  if (hint.hidden) return;
  const width = document.documentElement.clientWidth - hint.offsetWidth - 8;
  hint.style.left = `${Math.max(8, Math.min(event.clientX + 14, width))}px`;
  hint.style.top = `${Math.max(8, event.clientY - hint.offsetHeight - 12)}px`;
});

// Downloads: made from what the page holds, so that they work wherever the page alone has gone.
function drawing(figure) {
  const svg = figure.querySelector("svg").cloneNode(true);
  svg.setAttribute("xmlns", svg.namespaceURI);
  svg.setAttribute("font-family", "system-ui, sans-serif");
  const style = getComputedStyle(figure);
  svg.style.background = style.getPropertyValue("--paper");
  return svg.outerHTML
    .replaceAll("currentColor", style.color)
    .replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
}
for (const link of all("a[data-file]")) {
  link.addEventListener("click", () => {
    const figure = link.closest("figure");
    const csv = link.dataset.file === "csv";
    const text = csv ? figure.querySelector("pre").textContent : drawing(figure);
    link.href = URL.createObjectURL(new Blob([text], { type: csv ? "text/csv" : "image/svg+xml" }));
  });
}

// Outputs: two entries beside each other, the examples on which they disagree most first.
const outputs = document.getElementById("outputs");
if (outputs) {
  const list = outputs.querySelector(".examples");
  const articles = all("article", outputs);
  const [first, second, order] = ["first", "second", "order"].map((id) => document.getElementById(id));
  const more = document.getElementById("more");
  const PAGE = 8;
  let shown = PAGE;
  const score = (article, number) => Number(article.querySelector(`li[data-row="${number}"]`)?.dataset.score ?? NaN);
  const gap = (article) => score(article, first.value) - score(article, second.value);
  const rules = {
    disagreement: (a, b) => Math.abs(gap(b)) - Math.abs(gap(a)),
    first: (a, b) => gap(b) - gap(a),
    second: (a, b) => gap(a) - gap(b),
    test: (a, b) => a.dataset.place - b.dataset.place,
  };
  const words = (text) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  // Words of an output that the reference has too are marked; text stays text.
  for (const article of articles) {
    const known = new Set(words(article.querySelector(".reference p").textContent));
    for (const place of all("li p", article)) {
      const parts = place.textContent.split(/([\p{L}\p{N}]+)/u);
      place.replaceChildren(
        ...parts.map((part) => {
          if (!known.has(part.toLowerCase())) return document.createTextNode(part);
          const mark = document.createElement("mark");
          mark.textContent = part;
          return mark;
        }),
      );
    }
  }
  function arrange() {
    articles.sort(rules[order.value]);
    list.append(...articles);
    articles.forEach((article, place) => {
      article.hidden = place >= shown;
      for (const item of all("li", article)) {
        item.classList.toggle("first", item.dataset.row === first.value);
        item.classList.toggle("second", item.dataset.row === second.value);
      }
      const lead = "points" in outputs.dataset ? `${(100 * gap(article)).toFixed(0)} points` : gap(article).toPrecision(3);
      article.querySelector(".gap").textContent = isNaN(gap(article)) ? "" : (gap(article) > 0 ? "+" : "") + lead;
    });
    more.hidden = shown >= articles.length;
    more.textContent = `Show ${Math.min(PAGE, articles.length - shown)} more of ${articles.length - shown}`;
  }
  for (const control of [first, second, order]) control.addEventListener("change", () => ((shown = PAGE), arrange()));
  more.addEventListener("click", () => ((shown += PAGE), arrange()));
  arrange();
  outputs.querySelector("details.further")?.remove(); // its examples are in the list now
}
