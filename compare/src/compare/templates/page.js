// The tables are complete without this script; with it, plots are drawn, tables can be sorted and commands copied.
"use strict";

for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        const numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return (numbers ? x - y : String(x).localeCompare(String(y))) * (down ? -1 : 1);
      };
      const body = table.tBodies[0];
      const rows = [...body.rows].filter((row) => !row.classList.contains("dense-row"));
      body.append(...rows.sort(compare));
    });
  });
}

function copyButton(code) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    let copied = true;
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {  // an old browser, or no permission
      getSelection().selectAllChildren(code);
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return button;
}

for (const code of document.querySelectorAll(".command code")) code.before(copyButton(code));

const picked = document.getElementById("picked");

function pick(point) {
  const name = document.createElement("p");
  name.textContent = point.text;
  const code = document.createElement("code");
  code.textContent = point.command;
  picked.replaceChildren(name, copyButton(code), code);
}

const views = [];
const specifications = JSON.parse(document.getElementById("specifications").textContent);
document.querySelectorAll(".plot").forEach(async (place, i) => {
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true };
  const { view } = await vegaEmbed(place, specifications[i], options);
  view.addEventListener("click", (event, item) => { if (item?.datum?.command) pick(item.datum); });
  views.push(view);
});
if (picked) picked.hidden = false;

for (const item of document.querySelectorAll(".legend [data-method]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...item.childNodes);
  item.append(button);
  button.addEventListener("click", () => {
    const alone = button.getAttribute("aria-pressed") === "true" ? "" : item.dataset.method;
    for (const other of document.querySelectorAll(".legend button")) {
      other.setAttribute("aria-pressed", String(alone !== "" && other === button));
    }
    for (const view of views) view.signal("highlight", alone).runAsync();
  });
}
