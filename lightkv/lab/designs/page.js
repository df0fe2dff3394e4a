"use strict";
/* Draws the plots from the data in the page, and opens the rows of the table that is there already. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (query, from = document) => [...from.querySelectorAll(query)];
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function draw(id, figure) {
    const place = document.getElementById(id);
    place.closest("figure").hidden = !figure;
    if (!figure) return;
    const { data: traces, layout } = JSON.parse(JSON.stringify(figure));
    const ink = color("--ink"), grid = color("--grid"), line = color("--line");
    for (const trace of traces) {
      if (trace.meta !== "ink") continue;
      trace.line.color = ink;
      trace.marker.color = ink;
    }
    for (const name of ["xaxis", "yaxis"]) {
      layout[name] = { gridcolor: grid, linecolor: line, zerolinecolor: color("--soft"), tickcolor: line, ...layout[name] };
    }
    layout.font = { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink };
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.hoverlabel = { align: "left", bgcolor: color("--panel"), bordercolor: line, font: { color: ink } };
    place.style.height = `${layout.height}px`; // plots that fit their box need one
    Plotly.react(place, traces, layout, { responsive: true, displaylogo: false, displayModeBar: "hover",
      modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] });
  }

  function drawAll() {
    for (const [name, figure] of Object.entries(data)) draw(`plot-${name}`, figure);
  }

  for (const button of all("button.open")) {
    button.addEventListener("click", () => {
      const detail = document.getElementById(button.getAttribute("aria-controls"));
      detail.hidden = !detail.hidden;
      button.setAttribute("aria-expanded", String(!detail.hidden));
    });
  }
  for (const button of all("button.copy")) {
    button.addEventListener("click", async () => {
      const text = button.closest("td").querySelector("pre").textContent;
      const said = button.parentElement.querySelector(".copied");
      try {
        await navigator.clipboard.writeText(text);
        said.textContent = "copied";
      } catch {
        said.textContent = "the browser does not allow it: select the text below";
      }
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll();
  document.body.dataset.ready = "1";
})();
