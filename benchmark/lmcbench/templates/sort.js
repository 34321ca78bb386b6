"use strict";
// a click on a header sorts the table by that column: numbers by their first number, what was not measured last
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0], first = [...body.rows];
  const number = (text) => { const found = text.replace(/−/g, "-").match(/^[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?/); return found ? Number(found[0]) : null; };
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const was = head.getAttribute("aria-sort"), way = was === "ascending" ? -1 : 1;
      for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
      if (was === "descending") { body.append(...first); return; }
      head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      const text = head.classList.contains("text");
      const keyed = first.map((row, place) => { const cell = row.cells[column].textContent.trim(); return { row, place, key: cell === "" || cell === "–" ? null : text ? cell : number(cell) ?? (cell === "never" ? Infinity : null) }; });
      keyed.sort((a, b) => (a.key === null) - (b.key === null) || (a.key < b.key ? -way : a.key > b.key ? way : 0) || a.place - b.place);
      body.append(...keyed.map(({ row }) => row));
    });
  }
}
