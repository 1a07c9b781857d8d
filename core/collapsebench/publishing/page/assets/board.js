// Tables that are sorted by their headings, filtered by text, and whose columns can be hidden.
"use strict";

function sortBy(table, header) {
  const column = [...header.parentElement.children].indexOf(header);
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentElement.children) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const key = (row) => row.children[column].dataset.value ?? row.children[column].textContent.trim();
  const value = (text) => (text === "inf" ? Infinity : text === "" || text === "-" ? null : Number(text));
  const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
  const numeric = rows.every(([text]) => !Number.isNaN(value(text)));
  const order = (a, b) => (numeric ? (a === b ? 0 : a - b) : a.localeCompare(b, "en", { numeric: true }));
  rows.sort(([a], [b]) => {
    const [left, right] = numeric ? [value(a), value(b)] : [a, b];
    if (left === null || right === null) return (left === null) - (right === null);  // what is missing comes last
    return ascending ? order(left, right) : order(right, left);
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function filterRows(table, words, said) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  let left = 0;
  for (const row of table.tBodies[0].rows) {
    const text = [...row.querySelectorAll("[data-filter]")].map((cell) => cell.textContent.toLowerCase()).join(" ");
    row.hidden = !wanted.every((word) => text.includes(word));
    left += !row.hidden;
  }
  said.textContent = `${left} of ${table.tBodies[0].rows.length} rows`;
}

function showColumn(table, column, shown) {
  for (const row of table.rows) row.children[column].hidden = !shown;
}

function startTables() {
  for (const table of document.querySelectorAll("table.sortable"))
    for (const header of table.tHead.rows[0].children)
      header.querySelector("button")?.addEventListener("click", () => sortBy(table, header));
  const board = document.getElementById("board-table"), filter = document.getElementById("filter");
  if (!filter) return;
  const said = document.getElementById("filtered");
  filter.addEventListener("input", () => filterRows(board, filter.value, said));
  filterRows(board, filter.value, said);
  for (const box of document.querySelectorAll("#columns input")) {
    const column = Number(box.value);
    box.addEventListener("change", () => showColumn(board, column, box.checked));
    showColumn(board, column, box.checked);
  }
}
