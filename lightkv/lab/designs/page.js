"use strict";
/* Draws the plots from the data in the page, and opens the rows of the table that is there already. */
(() => {
  const { all, byId, copy, data, draw } = frame;

  function drawAll() {
    for (const [name, figure] of Object.entries(data)) draw(`plot-${name}`, figure);
  }

  for (const button of all("button.open")) {
    button.addEventListener("click", () => {
      const detail = byId(button.getAttribute("aria-controls"));
      detail.hidden = !detail.hidden;
      button.setAttribute("aria-expanded", String(!detail.hidden));
    });
  }
  for (const button of all("button.copy")) button.addEventListener("click", () => copy(button, "pre"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll();
  document.body.dataset.ready = "1";
})();
