"use strict";
/* What the scripts of pages with plots share: their data, plots in the reader's theme, and copying. */
const frame = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (query, from = document) => [...from.querySelectorAll(query)];
  const LIGHTER = { "#0072B2": "#3D9BE0", "#009E73": "#2BBF95", "#9A6324": "#C48A45" }; // on a dark page

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  /** A figure with the page's colours: those of text and grid follow the reader's theme. */
  function themed(figure) {
    const dark = color("--dark") === "1";
    const text = JSON.stringify(figure).replace(/#(0072B2|009E73|9A6324)/g, (found) => (dark ? LIGHTER[found] : found));
    const { data: traces, layout } = JSON.parse(text);
    const ink = color("--ink"), grid = color("--grid"), line = color("--line");
    for (const trace of traces) {
      if (trace.meta !== "ink") continue;
      if (trace.line) trace.line.color = ink;
      trace.marker = { ...trace.marker, color: ink, line: { ...(trace.marker || {}).line, color: ink } };
      if (trace.error_x) trace.error_x.color = ink;
    }
    for (const name of ["xaxis", "yaxis"]) {
      layout[name] = { gridcolor: grid, linecolor: line, zerolinecolor: color("--soft"), tickcolor: line, ...layout[name] };
    }
    layout.font = { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink };
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    for (const axis of [layout.xaxis, layout.yaxis]) if (axis.title) axis.title.font = { size: 13 };
    layout.hoverlabel = { align: "left", bgcolor: color("--panel"), bordercolor: line, font: { color: ink } };
    layout.hovermode = "closest";
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: color("--soft"), activecolor: color("--accent") };
    return [traces, layout];
  }

  function draw(id, figure, change = () => {}) {
    const place = byId(id);
    place.closest("figure").hidden = !figure;
    if (!figure) return;
    const [traces, layout] = themed(figure);
    change(traces, layout);
    place.style.height = `${layout.height}px`; // plots that fit their box need one
    Plotly.react(place, traces, layout, { responsive: true, displaylogo: false, displayModeBar: "hover",
      modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] });
  }

  /** Copies what stands beside a button. Pages from a file may not use the clipboard everywhere: the old way copies from a text area. */
  async function copy(button, what) {
    const place = button.closest("td");
    const text = place.querySelector(what).textContent;
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      area.className = "copy-area";
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    place.querySelector(".copied").textContent = done ? "copied" : "select the text below and copy it";
  }

  return { all, byId, copy, data, draw };
})();
