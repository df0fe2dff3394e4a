"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const DROPPED = -1;
  const state = { tab: "all", heat: false, token: null };
  const panels = [];
  const images = data.views.map((view) => {
    const image = new Image();
    image.src = view.image;
    return image;
  });
  // Token → where it is drawn; a separator is drawn nowhere.
  const cells = new Map();
  data.views.forEach((view, number) => view.tokens.forEach((line, row) => line.forEach((token, column) => {
    if (token >= 0) cells.set(token, { view: number, row, column });
  })));
  data.runs.forEach((run) => run.stages.forEach((stage) => {
    stage.members = new Map();
    stage.home.forEach((home, token) => {
      if (home < 0) return;
      if (!stage.members.has(home)) stage.members.set(home, []);
      stage.members.get(home).push(token);
    });
    const known = (stage.guidance || []).filter((value) => value !== null);
    stage.mean = known.reduce((sum, value) => sum + value, 0) / (known.length || 1);
  }));

  function element(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }

  // -- painting ---------------------------------------------------------------------------------

  function rampColor(share) {
    const at = Math.min(Math.max(share, 0), 1) * (data.ramp.length - 1);
    const low = Math.min(Math.floor(at), data.ramp.length - 2);
    const mixed = data.ramp[low].map((c, i) => Math.round(c + (data.ramp[low + 1][i] - c) * (at - low)));
    return `rgb(${mixed.join(",")})`;
  }

  // Frames of a clip stand side by side, at most so many in a line.
  const IN_LINE = 12;
  const inLine = (clip) => {
    const frames = data.views.filter((view) => view.clip === clip).length;
    return Math.ceil(frames / Math.ceil(frames / IN_LINE));
  };
  const stacked = data.views.some((view) => view.clip !== null);

  function cellSize(view, large) {
    let room = large ? 560 : 232;
    if (view.clip !== null) room = Math.min(room, (large ? 1440 : 1080) / inLine(view.clip) - 4);
    return Math.max(large && view.clip === null ? 8 : 4, Math.min(Math.floor(room / view.tokens[0].length), Math.floor(2 * room / view.tokens.length)));
  }

  const tokenAt = (view, row, column) => (view.tokens[row] || [])[column] ?? -1;

  function rect(context, panel, row, column, color, alpha, how = "source-over") {
    context.save();
    context.globalAlpha = alpha;
    context.globalCompositeOperation = how;
    context.fillStyle = color;
    context.fillRect(column * panel.cell, row * panel.cell, panel.cell, panel.cell);
    context.restore();
  }

  const greyed = (...at) => rect(...at, "#888", 1, "saturation");
  const faded = (...at) => rect(...at, `rgb(${data.faded.join(",")})`, 0.8);

  function paintGroup(context, panel, row, column, token) {
    const { stage, cell, view } = panel;
    const home = stage.home[token];
    if (home < 0) {
      greyed(context, panel, row, column);
      faded(context, panel, row, column);
      return;
    }
    if (stage.members.get(home).length < 2) return;
    rect(context, panel, row, column, data.colors[home], 0.62);
    const line = Math.max(1, Math.floor(cell / 10));
    const other = (r, c) => {
      const near = tokenAt(view, r, c);
      return near < 0 || stage.home[near] !== home;
    };
    context.fillStyle = `color-mix(in srgb, ${data.colors[home]} 55%, black)`;
    const left = column * cell, top = row * cell;
    if (other(row - 1, column)) context.fillRect(left, top, cell, line);
    if (other(row + 1, column)) context.fillRect(left, top + cell - line, cell, line);
    if (other(row, column - 1)) context.fillRect(left, top, line, cell);
    if (other(row, column + 1)) context.fillRect(left + cell - line, top, line, cell);
    if (home === token) {
      context.beginPath();
      context.arc(left + cell / 2, top + cell / 2, Math.max(1.2, cell * 0.17), 0, 7);
      context.fillStyle = "#fff";
      context.fill();
      context.lineWidth = Math.max(1, cell * 0.07);
      context.strokeStyle = "#141414";
      context.stroke();
    }
  }

  function paintHeat(context, panel, row, column, token) {
    const { stage } = panel;
    const value = stage.guidance[token];
    greyed(context, panel, row, column);
    if (value === null) faded(context, panel, row, column);
    else rect(context, panel, row, column, rampColor(Math.sqrt(value / stage.scale)), 0.78);
  }

  function highlight(context, panel) {
    const { stage, view, cell } = panel;
    if (state.token === null) {
      delete panel.canvas.dataset.group;
      return;
    }
    const home = stage ? stage.home[state.token] : DROPPED;
    const members = new Set(home < 0 ? [state.token] : stage.members.get(home));
    panel.canvas.dataset.group = [...members].join(" ");
    if (home >= 0) {
      context.fillStyle = "rgba(255,255,255,0.55)";
      context.fillRect(0, 0, panel.canvas.width, panel.canvas.height);
    }
    members.forEach((token) => {
      const at = cells.get(token);
      if (!at || data.views[at.view] !== view) return;
      const left = at.column * cell, top = at.row * cell;
      context.drawImage(panel.base, left, top, cell, cell, left, top, cell, cell);
      context.lineWidth = token === state.token ? 3 : 2;
      context.strokeStyle = token === state.token ? "#d00000" : "#000";
      context.strokeRect(left + 1, top + 1, cell - 2, cell - 2);
    });
  }

  // What a panel shows without a highlight is painted once: pointing must stay quick on large grids.
  function paintBase(panel) {
    const { canvas, view, stage } = panel;
    panel.base = element("canvas", { width: canvas.width, height: canvas.height });
    const context = panel.base.getContext("2d");
    const image = images[panel.number];
    context.imageSmoothingQuality = "high";
    if (image.complete && image.naturalWidth) context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const heat = state.heat && stage && stage.guidance;
    if (stage) view.tokens.forEach((line, row) => line.forEach((token, column) => {
      if (token >= 0) (heat ? paintHeat : paintGroup)(context, panel, row, column, token);
    }));
    canvas.dataset.shows = !stage ? "input" : heat ? "guidance" : "groups";
  }

  function paint(panel) {
    const context = panel.canvas.getContext("2d");
    context.drawImage(panel.base, 0, 0);
    highlight(context, panel);
  }

  function repaint() {
    panels.forEach(paintBase);
    panels.forEach(paint);
  }

  // -- what a patch went through ----------------------------------------------------------------

  // The view is named unless it is that of the patch that the reader points at.
  function place(token, from = null) {
    const at = cells.get(token), known = cells.get(from);
    if (!at) return `separator ${token}`;
    const view = data.views.length > 1 && !(known && known.view === at.view) ? `${data.views[at.view].title}, ` : "";
    return `${view}row ${at.row + 1}, column ${at.column + 1}`;
  }

  const digits = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());

  function story(run, stage, token) {
    const lines = [`token ${token}: ${place(token)}`];
    if (!stage) return `${lines[0]}\nas it enters`;
    // What the patch went through: a layer's cache has seen the stages in front of that layer, and no
    // other layer's cache.
    const before = run.stages.filter((s, place) => s === stage || (s.site === "layers" &&
      (stage.site === "cache" ? s.layer <= stage.layer : place < run.stages.indexOf(stage))));
    const home = stage.home[token];
    const since = before.find((s) => s.home[token] !== token);
    if (home === DROPPED) lines.push(`dropped ${(before.find((s) => s.home[token] === DROPPED) || stage).title}`);
    else if (home < 0) lines.push(`merged into an entry of the text, ${stage.title}`);
    else {
      const members = stage.members.get(home);
      if (home === token) lines.push(members.length > 1 ? "keeps its place and takes others in" : "a token of its own");
      else lines.push(`merged ${(since || stage).title}, now in the token at ${place(home, token)}`);
      if (members.length > 1) {
        const named = members.slice(0, 12).map((member) => place(member, token)).join("; ");
        lines.push(`${members.length} members: ${named}${members.length > 12 ? "; …" : ""}`);
      }
      lines.push(`weight in its token ${digits(stage.weight[token])}`);
    }
    if (stage.guidance) {
      const value = stage.guidance[token], { mean } = stage;
      if (value === null) lines.push("no guidance: gone before");
      else lines.push(`guidance ${digits(value)}${mean > 0 ? `, ${(value / mean).toFixed(2)} × the mean` : ""}`);
    }
    return lines.join("\n");
  }

  const tip = element("div", { id: "tip", hidden: true });
  tip.setAttribute("role", "status");

  // Below the panel (above it where there is no room), so that the stages beside it stay in sight.
  function show(panel, token) {
    if (token !== state.token) {
      state.token = token;
      panels.forEach(paint);
    }
    tip.hidden = token === null;
    if (token === null) return;
    tip.textContent = `${panel.stage ? panel.stage.title : "input"}\n${story(panel.run, panel.stage, token)}`;
    const box = tip.getBoundingClientRect(), at = panel.canvas.closest("figure").getBoundingClientRect();
    if (stacked && at.right + 12 + box.width < innerWidth) {
      // Strips lie below one another: beside them nothing is hidden.
      tip.style.left = `${at.right + 12}px`;
      tip.style.top = `${Math.max(4, Math.min(panel.canvas.getBoundingClientRect().top, innerHeight - box.height - 4))}px`;
      return;
    }
    const top = at.bottom + 6 + box.height <= innerHeight || at.top < box.height + 6 ? at.bottom + 6 : at.top - box.height - 6;
    tip.style.left = `${Math.max(4, Math.min(at.left, innerWidth - box.width - 8))}px`;
    tip.style.top = `${Math.max(4, Math.min(top, innerHeight - box.height - 4))}px`;
  }

  function listen(panel) {
    const { canvas, view } = panel;
    canvas.addEventListener("mousemove", (event) => {
      const token = tokenAt(view, Math.floor(event.offsetY / panel.cell), Math.floor(event.offsetX / panel.cell));
      show(panel, token < 0 ? null : token);
    });
    canvas.addEventListener("mouseleave", () => show(panel, null));
    canvas.addEventListener("blur", () => show(panel, null));
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      const step = steps[event.key];
      if (event.key === "Escape") show(panel, null);
      if (!step) return;
      event.preventDefault();
      const at = state.token === null ? null : cells.get(state.token);
      const here = at && data.views[at.view] === view ? { row: at.row + step[0], column: at.column + step[1] } : { row: 0, column: 0 };
      const token = tokenAt(view, here.row, here.column);
      if (token >= 0) show(panel, token);
    });
  }

  // -- the page ---------------------------------------------------------------------------------

  function caption(run, stage) {
    if (!stage) return `input: ${data.count} tokens${data.views.every((view) => view.source === "encoder") ? "" : `; ${stacked ? "frames" : "picture"} laid over the grid`}`;
    const text = `${stage.title}: ${stage.entered} → ${stage.left} tokens`;
    if (!run.differences) return text;
    const other = run.differences[run.stages.indexOf(stage)];
    return `${text}; ${other || "no"} patches in another group than under the prompt before`;
  }

  function figure(run, stage, large) {
    const node = element("figure");
    let strip = null;
    data.views.forEach((view, number) => {
      const cell = cellSize(view, large);
      const canvas = element("canvas", { width: cell * view.tokens[0].length, height: cell * view.tokens.length, tabIndex: 0 });
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${view.title}, ${stage ? stage.title : "input"}; arrow keys move from patch to patch`);
      const panel = { run, stage, view, number, cell, canvas };
      panels.push(panel);
      listen(panel);
      if (view.clip === null) {
        node.append(canvas);
        return;
      }
      if (number === 0 || data.views[number - 1].clip !== view.clip) {
        strip = element("div", { className: "strip" });
        strip.style.gridTemplateColumns = `repeat(${inLine(view.clip)}, max-content)`;
        node.append(strip);
      }
      const name = element("span", { className: "soft" }, stage ? "" : view.title);
      strip.append(element("div", {}, canvas, name));
    });
    node[stacked ? "prepend" : "append"](element("figcaption", {}, caption(run, stage)));
    if (!stacked) node.style.width = `${Math.max(...[...node.querySelectorAll("canvas")].map((c) => c.width))}px`;
    return node;
  }

  const runs = element("main");

  function build() {
    panels.length = 0;
    runs.replaceChildren(...data.runs.map((run, number) => {
      const line = element("div", { className: stacked ? "panels stacked" : "panels" });
      if (state.tab === "all" || state.tab === "input") line.append(figure(run, null, state.tab === "input"));
      run.stages.forEach((stage, place) => {
        if (state.tab === "all" || state.tab === String(place)) line.append(figure(run, stage, state.tab !== "all"));
      });
      if (!line.childElementCount) line.append(element("p", { className: "soft" }, "this run has no such stage"));
      const head = element("h2", {}, run.strategy,
        element("span", { className: "prompt" }, `“${run.prompt}”`),
        element("span", { className: "answer" }, `answer: ${run.answer}`));
      const note = `retention ${run.retention.toFixed(3)}${run.remark ? `; ${run.remark}` : ""}`;
      const section = element("section", { className: state.tab === "all" ? "run" : "run beside" }, head, element("div", { className: "soft" }, note), line);
      section.dataset.run = number;
      return section;
    }));
    tip.hidden = true;
    state.token = null;
    repaint();
  }

  function tabs() {
    const longest = data.runs.reduce((a, b) => (b.stages.length > a.stages.length ? b : a));
    const same = data.runs.every((run) => run.stages.every((s, i) => s.title === (longest.stages[i] || {}).title));
    const names = [["all", "all stages"], ["input", "input"], ...longest.stages.map((s, i) => [String(i), same ? s.title : `stage ${i + 1}`])];
    const list = element("div", { className: "tabs" });
    list.setAttribute("role", "tablist");
    names.forEach(([key, text]) => {
      const button = element("button", { type: "button", textContent: text });
      button.setAttribute("role", "tab");
      button.setAttribute("aria-selected", String(key === state.tab));
      button.dataset.tab = key;
      button.addEventListener("click", () => {
        state.tab = key;
        list.querySelectorAll("button").forEach((b) => b.setAttribute("aria-selected", String(b === button)));
        build();
      });
      list.append(button);
    });
    return list;
  }

  function heatSwitch() {
    const box = element("input", { type: "checkbox", id: "heat" });
    box.disabled = !data.runs.some((run) => run.stages.some((stage) => stage.guidance));
    box.addEventListener("change", () => {
      state.heat = box.checked;
      repaint();
    });
    return element("label", {}, box, box.disabled ? " guidance (these strategies have no scorer)" : " guidance as a heat map");
  }

  function key() {
    const swatch = (style, text) => element("span", {}, Object.assign(element("i"), { style }), text);
    const stops = data.ramp.map((color) => `rgb(${color.join(",")})`).join(",");
    const ramp = swatch(`background:linear-gradient(90deg,${stops})`, "guidance, from 0 to the highest of its stage (root scale)");
    ramp.firstChild.className = "ramp";
    return element("div", { className: "key" },
      swatch("background:linear-gradient(90deg,#d66028 50%,#3c965a 50%)", "a colour: patches that ended in one token"),
      swatch("background:#fff;border:3px solid #141414;border-radius:50%", "the place that the token keeps"),
      swatch("border:1px solid #999", "no colour: a token of its own"),
      swatch(`background:rgb(${data.faded.join(",")});border:1px solid #999`, "dropped"), ramp);
  }

  const extra = data.separators.length ? `, ${data.separators.length} of them separators that show no patch` : "";
  document.body.append(
    element("h1", {}, data.model),
    element("div", { className: "soft" }, `${data.count} vision tokens${extra}. Point at a patch, or move with the arrow keys: its group is shown in all stages.`),
    element("div", { className: "bar" }, tabs(), heatSwitch()), runs, key(), tip);
  build();
  images.forEach((image) => { if (!image.complete) image.addEventListener("load", repaint); });
  document.body.dataset.ready = "1";
})();
