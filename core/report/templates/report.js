
// The table of images: a click on a heading sorts by it, a second one turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = table.querySelectorAll("th[data-sort]");
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = heading.dataset.sort === "number";
      const keyed = Array.from(body.rows, (row) => {
        const text = row.cells[column].textContent;
        return [numeric ? parseFloat(text) : text, row];
      });
      const missing = ([key]) => Number.isNaN(key);
      keyed.sort((a, b) => {
        if (missing(a) || missing(b)) return missing(a) - missing(b); // last, whatever the order
        const order = numeric ? a[0] - b[0] : a[0] < b[0] ? -1 : +(a[0] > b[0]);
        return up ? order : -order;
      });
      body.append(...keyed.map(([, row]) => row));
    });
  });
}
