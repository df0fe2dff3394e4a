"use strict";
/* Draws the plots from the data in the page; filters, sorts and opens the table that is there already. */
(() => {
  const { all, byId, copy, data, draw } = frame;
  const ORDER = new Intl.Collator(undefined, { numeric: true });
  let group = 0;

  // -- plots -------------------------------------------------------------------------------------

  function options(select, names, wanted) {
    const before = names.includes(select.value) ? select.value : wanted;
    select.replaceChildren(...names.map((name) => new Option(name, name, false, name === before)));
  }

  /** The names below the plot, long ones one by one; the area of the plot stays as it is. */
  function legendBelow(traces, layout) {
    const names = new Set(traces.filter((trace) => trace.showlegend !== false).map((trace) => trace.name));
    const long = [...names].some((name) => name.length > 24);
    const area = 330, title = (layout.legend || {}).title, room = (long ? 29 * names.size : 24) + (title && long ? 22 : 0);
    layout.legend = { ...layout.legend, orientation: long ? "v" : "h", x: 0, xanchor: "left", y: -62 / area, yanchor: "top" };
    if (title) layout.legend.title = { ...title, side: long ? "top" : "left", font: { size: 12.5 } };
    layout.margin = { ...layout.margin, b: 66 + room };
    layout.height = layout.margin.t + area + layout.margin.b;
  }

  function drawQuality() {
    const views = data.groups[group].quality;
    options(byId("view"), Object.keys(views), data.groups[group].view);
    const chosen = views[byId("view").value];
    for (const cost of ["retention", "flops"]) {
      draw("plot-" + cost, chosen[cost], (traces, layout) => {
        for (const trace of traces) if (trace.meta === "more band") trace.visible = byId("bands").checked;
        legendBelow(traces, layout);
      });
    }
    byId("bands").parentElement.hidden = !chosen.retention.data.some((trace) => trace.meta === "more band");
  }

  function drawKinds() {
    const kinds = data.groups[group].kinds;
    byId("kinds").hidden = !kinds;
    if (!kinds) return;
    options(byId("heat-retention"), Object.keys(kinds), Object.keys(kinds).at(-1));
    const measures = kinds[byId("heat-retention").value];
    options(byId("heat-measure"), Object.keys(measures), Object.keys(measures).at(-1));
    byId("heat-rows").textContent = data.groups[group].settings && `Rows are ${data.groups[group].settings}. `;
    draw("plot-kinds", measures[byId("heat-measure").value]);
  }

  function drawAll() {
    const shown = data.groups[group];
    drawQuality();
    for (const name of ["effects", "tokens"]) {
      byId(name).hidden = !shown[name];
      draw("plot-" + name, shown[name], name === "tokens" ? legendBelow : undefined);
    }
    drawKinds();
    for (const part of all("[data-group]")) part.hidden = Number(part.dataset.group) !== group;
  }

  // -- table -------------------------------------------------------------------------------------

  const body = byId("table").tBodies[0];
  const rows = all("tr.cell", body).map((row) => ({ row, detail: row.nextElementSibling, text: row.dataset.text.toLowerCase() }));

  function filter() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = all("#filters select").filter((select) => select.value !== "");
    let count = 0;
    for (const { row, detail, text } of rows) {
      const fits = words.every((word) => text.includes(word))
        && wanted.every((select) => row.cells[select.dataset.column].dataset.sort === select.value);
      row.hidden = !fits;
      detail.hidden = !fits || row.querySelector(".open").getAttribute("aria-expanded") !== "true";
      count += fits;
    }
    byId("count").textContent = count === rows.length ? `${count} cells` : `${count} of ${rows.length} cells`;
  }

  function sort(head) {
    const column = head.cellIndex, down = head.getAttribute("aria-sort") === "ascending";
    for (const other of all("thead th", byId("table"))) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = ({ row }) => row.cells[column].dataset.sort;
    rows.sort((a, b) => {
      const first = key(a), second = key(b);
      if (first === "" || second === "") return (first === "") - (second === ""); // nothing comes last
      const numbers = Number(first) - Number(second);
      const order = Number.isNaN(numbers) ? ORDER.compare(first, second) : numbers;
      return down ? -order : order;
    });
    body.append(...rows.flatMap(({ row, detail }) => [row, detail]));
  }

  function toggle(row) {
    const button = row.querySelector(".open"), open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    row.nextElementSibling.hidden = !open;
  }

  // -- events ------------------------------------------------------------------------------------

  body.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) return void copy(button, button.dataset.what === "pipeline" ? ".pipeline" : ".spec");
    const row = event.target.closest("tr.cell");
    if (row && !String(getSelection())) toggle(row);
  });
  byId("table").tHead.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (head) sort(head);
  });
  for (const kind of ["input", "change"]) byId("filters").addEventListener(kind, filter);
  byId("clear").addEventListener("click", () => {
    for (const field of all("#filters input, #filters select")) field.value = "";
    filter();
  });
  for (const id of ["view", "bands"]) byId(id).addEventListener("change", drawQuality);
  for (const id of ["heat-retention", "heat-measure"]) byId(id).addEventListener("change", drawKinds);
  const pick = byId("group");
  if (pick) pick.addEventListener("change", () => { group = Number(pick.value); drawAll(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);

  drawAll();
  document.body.dataset.ready = "1";
})();
