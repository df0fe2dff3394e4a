"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const QUICK = 4000;  // milliseconds: what took no longer runs again by itself when a setting changes
  const state = { picture: "", questions: [], run: 0, running: false, again: false, took: Infinity, redraw() {} };

  function element(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }

  function drawn(tag, attributes = {}, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    node.append(...children);
    return node;
  }

  // -- asking the server ------------------------------------------------------------------------

  // What the server answers, or an Error with its one line.
  async function ask(path, body) {
    let answer;
    try {
      answer = await fetch(path, body === undefined ? {} : {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
      });
    } catch {
      throw new Error("the server does not answer: is lightkv play still running?");
    }
    const found = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(found.error || `the server failed (${answer.status}); its terminal says why`);
    return found;
  }

  function complain(text) {
    at("error").textContent = text;
    at("error").hidden = !text;
  }

  // -- the form ---------------------------------------------------------------------------------

  function options(select, names, chosen) {
    select.replaceChildren(...names.map((each) => {
      const { name, refused = "" } = typeof each === "string" ? { name: each } : each;
      return element("option", { value: name, textContent: name, disabled: Boolean(refused), title: refused });
    }));
    const there = [...select.options].filter((option) => !option.disabled).map((option) => option.value);
    select.value = there.includes(chosen) ? chosen : there[0] || "";
  }

  function offer(strategies) {
    options(at("a"), strategies, at("a").value || data.first[0]);
    options(at("b"), strategies, at("b").value || data.first[1]);
  }

  // The picture as base64, what to call it, and questions of which the right answer is known.
  function take(base64, type, name, questions = []) {
    state.picture = base64;
    state.questions = questions;
    const image = at("image");
    image.onerror = () => {  // the server may still know what it is, and says so if it does not
      image.hidden = true;
      at("preview").firstElementChild.hidden = false;
      at("preview").firstElementChild.textContent = "this browser cannot show the file";
    };
    image.onload = () => {
      image.hidden = false;
      image.className = Math.max(image.naturalWidth, image.naturalHeight) <= 192 ? "small" : "";
      at("preview").firstElementChild.hidden = true;
      at("name").textContent = `${name}, ${image.naturalWidth} × ${image.naturalHeight} pixels`;
    };
    image.alt = name;
    image.src = `data:${type};base64,${base64}`;
    at("name").textContent = name;
    at("questions").replaceChildren(...questions.map(({ text }) => {
      const button = element("button", { type: "button", textContent: text });
      button.addEventListener("click", () => {
        at("question").value = text;
        changed();
      });
      return button;
    }));
  }

  function upload(file) {
    if (!file) return;
    complain("");
    if (file.size > data.bytes) {
      complain(`picture: ${file.name} is larger than ${data.bytes >> 20} MiB. make it smaller; models see a few million pixels at most.`);
      return;
    }
    const reader = new FileReader();
    reader.onerror = () => complain(`picture: ${file.name} cannot be read.`);
    reader.onload = () => {
      const type = /^image\//.test(file.type) ? file.type : "image/png";
      take(String(reader.result).split(",")[1] || "", type, file.name);
      changed();
    };
    reader.readAsDataURL(file);
  }

  async function scene(number = Math.floor(Math.random() * data.scenes)) {
    complain("");
    try {
      const found = await ask(`/scene?model=${encodeURIComponent(at("model").value)}&number=${number}`);
      take(found.picture, "image/png", `digit scene ${found.number}`, found.questions);
      at("question").value = found.questions[0].text;
      changed();
    } catch (error) {
      complain(error.message);
    }
  }

  async function chooseModel() {
    complain("");
    at("state").textContent = "loading the model …";
    try {
      offer(await ask(`/strategies?model=${encodeURIComponent(at("model").value)}`));
      state.took = Infinity;
      stale();
    } catch (error) {
      complain(error.message);
    }
    at("state").textContent = "";
  }

  // -- comparing --------------------------------------------------------------------------------

  // A setting differs from what the results show: they are run anew if that is quick.
  function changed() {
    if (state.running) state.again = state.took <= QUICK;
    else if (state.took <= QUICK) compare();
    else stale();
  }

  function stale() {
    if (!state.run) return;
    at("results").classList.add("old");
    at("state").textContent = "The settings have changed since; press Compare.";
  }

  function asked() {
    return {
      model: at("model").value,
      picture: state.picture,
      question: at("question").value,
      strategies: [at("a").value, at("b").value],
      retention: Number(at("retention").value),
      uncompressed: at("uncompressed").checked,
      max_new_tokens: Number(at("tokens").value),
    };
  }

  async function compare() {
    if (state.running) return;
    state.running = true;
    at("go").setAttribute("aria-disabled", "true");
    at("state").textContent = "the model is answering …";
    const began = performance.now(), sent = asked();
    const known = state.questions.find(({ text }) => text === sent.question.trim());
    try {
      const found = await ask("/compare", sent);
      state.took = performance.now() - began;
      state.run += 1;
      show(found, sent, known);
      complain("");
      at("state").textContent = `answered in ${(state.took / 1000).toFixed(1)} s`;
    } catch (error) {
      state.took = Infinity;
      state.again = false;
      stale();
      at("state").textContent = "";
      complain(error.message);
    }
    state.running = false;
    at("go").removeAttribute("aria-disabled");
    document.body.dataset.run = state.run;
    if (state.again) {
      state.again = false;
      compare();
    }
  }

  // -- figures ----------------------------------------------------------------------------------

  function scaled(value, units, step) {
    let unit = 0;
    while (Math.abs(value) >= step && unit < units.length - 1) {
      value /= step;
      unit += 1;
    }
    const places = unit ? Math.max(0, 3 - String(Math.trunc(Math.abs(value))).length) : 0;
    return `${value.toFixed(places)} ${units[unit]}`;
  }
  const bytes = (value) => scaled(value, ["B", "KiB", "MiB", "GiB"], 1024);
  const flops = (value) => scaled(value, ["FLOPs", "KFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs"], 1000);
  const time = (value) => (value === null || value === undefined ? "–" : value < 1 ? `${(1000 * value).toFixed(1)} ms` : `${value.toFixed(2)} s`);
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const only = (column) => column.report.samples[0];
  const layersOf = (column) => only(column).vision_tokens;

  const given = (write) => (value) => (value ? write(value) : "–");

  function span(tokens) {
    const first = tokens[0], last = tokens[tokens.length - 1];
    return first === last ? String(first) : `${first} → ${last}`;
  }

  // Title; what is compared, and how it is written; or what is only written.
  const ROWS = [
    ["retention", null, (column) => column.report.retention.toFixed(3)],
    ["vision tokens, first → last layer", null, (column) => span(layersOf(column))],
    ["KV of vision tokens", (column) => column.report.vision_kv_bytes, bytes],
    ["whole KV cache", (column) => sum(only(column).kv_bytes), bytes],
    ["prefill FLOPs", (column) => column.report.flops, flops],
    ["of them compressing", null, (column) => given(flops)(column.report.compression_flops)],
    ["first token", (column) => column.report.time_to_first_token, time],
    ["of it compressing", null, (column) => given(time)(sum(Object.values(column.report.role_times)))],
    ["each further token", (column) => column.report.time_per_token, time],
    ["whole answer", (column) => column.seconds, time],
    ["tokens of the answer", null, (column) => String(column.new_tokens)],
  ];

  function cell([, compared, written], column, plain) {
    if (!compared) return element("td", {}, written(column));
    const value = compared(column), node = element("td", {}, written(value));
    if (plain && column !== plain && value && compared(plain)) {
      node.append(element("span", { className: "times" }, `× ${(value / compared(plain)).toFixed(2)}`));
    }
    return node;
  }

  function figures(columns, colors, known) {
    const plain = columns.find((column) => column.strategy === data.uncompressed && !column.error);
    const table = element("table", { id: "figures" });
    table.append(element("thead", {}, element("tr", {}, element("td"), ...columns.map((column, number) =>
      element("th", { scope: "col" }, Object.assign(element("span", { className: "swatch" }), { style: `background:${colors[number]}` }), column.strategy)))));
    const body = element("tbody");
    const answers = columns.map((column) => {
      if (column.error) return element("td", { className: "failed", rowSpan: ROWS.length + 1 }, column.error);
      const node = element("td", { className: "answer" }, column.answer || "(no text)");
      if (known) node.append(element("span", { className: "right" }, column.answer === known.answer ? "right" : `right is: ${known.answer}`));
      return node;
    });
    body.append(element("tr", {}, element("th", { scope: "row" }, "answer"), ...answers));
    ROWS.forEach((row) => body.append(element("tr", {}, element("th", { scope: "row" }, row[0]),
      ...columns.filter((column) => !column.error).map((column) => cell(row, column, plain)))));
    table.append(body);
    return element("div", { className: "wide" }, table);
  }

  // What is said of several columns alike is said once.
  function remarks(columns) {
    const of = new Map();
    columns.forEach((column) => (column.remarks || []).forEach((text) => of.set(text, [...(of.get(text) || []), column.strategy])));
    const said = [...of].map(([text, names]) => element("li", {}, `${[...new Set(names)].join(", ")}: ${text}`));
    return said.length ? [element("ul", { className: "remarks soft" }, ...said)] : [];
  }

  // -- tokens of each layer ---------------------------------------------------------------------

  function chart(columns, colors) {
    const width = Math.max(280, Math.min(760, at("results").clientWidth));
    const height = 220, left = 46, bottom = 34, top = 12, right = 10;
    const most = Math.max(...columns.map((column) => column.vision_tokens), 1);
    const layers = Math.max(...columns.map((column) => layersOf(column).length), 1);
    const x = (layer) => left + (width - left - right) * layer / layers;
    const y = (tokens) => height - bottom - (height - bottom - top) * tokens / most;
    const picture = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "vision tokens in the cache of each layer; the table below has the numbers" });
    [0, Math.round(most / 2), most].forEach((tokens) => picture.append(
      drawn("line", { class: "axis", x1: left, x2: width - right, y1: y(tokens), y2: y(tokens) }),
      drawn("text", { x: left - 6, y: y(tokens) + 4, "text-anchor": "end" }, String(tokens))));
    const step = Math.ceil(22 * layers / (width - left - right));
    for (let layer = 0; layer < layers; layer += step) {
      picture.append(drawn("text", { x: x(layer + 0.5), y: height - bottom + 16, "text-anchor": "middle" }, String(layer)));
    }
    picture.append(drawn("text", { x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, "layer"));
    // Lines of equal height lie beside one another, not upon one another.
    columns.forEach((column, number) => {
      const shift = 2.5 * (number - (columns.length - 1) / 2);
      const path = layersOf(column).map((tokens, layer) => `${layer ? "L" : "M"}${x(layer)} ${y(tokens) + shift}H${x(layer + 1)}`).join("");
      picture.append(drawn("path", { d: path, style: `stroke:${colors[number]}` }));
    });
    return picture;
  }

  function numbers(columns) {
    const layers = Math.max(...columns.map((column) => layersOf(column).length));
    const head = element("tr", {}, element("th", {}, "layer"), ...columns.map((column) => element("th", {}, column.strategy)));
    const lines = Array.from({ length: layers }, (_, layer) => element("tr", {}, element("td", {}, String(layer)),
      ...columns.map((column) => element("td", {}, String(layersOf(column)[layer] ?? "–")))));
    return element("details", {}, element("summary", {}, "as numbers"), element("div", { className: "wide" },
      element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines))));
  }

  // -- what was merged --------------------------------------------------------------------------

  // The page of `lightkv show`, as high as it is.
  function merged(text) {
    const frame = element("iframe", { id: "merged", title: "what was merged and dropped", srcdoc: text });
    frame.addEventListener("load", () => {
      const inner = frame.contentDocument.body;
      const fit = () => { frame.style.height = `${Math.ceil(inner.getBoundingClientRect().height) + 4}px`; };
      new ResizeObserver(fit).observe(inner);
      fit();
    });
    return frame;
  }

  function show(found, sent, known) {
    const { columns } = found;
    const two = ["var(--a)", "var(--b)"];
    const colors = columns.map((column, number) => (sent.uncompressed ? ["var(--plain)", ...two] : two)[number]);
    const there = columns.map((column, number) => [column, colors[number]]).filter(([column]) => !column.error);
    state.redraw = () => {};
    const nodes = [figures(columns, colors, known), ...remarks(columns)];
    if (there.length) {
      const [answered, shades] = [there.map(([column]) => column), there.map(([, color]) => color)];
      state.redraw = () => document.querySelector("#results svg").replaceWith(chart(answered, shades));
      nodes.push(element("h2", {}, "Vision tokens in the cache of each layer"), chart(answered, shades), numbers(answered));
    }
    nodes.push(element("h2", {}, "What was merged and dropped"));
    nodes.push(found.picture ? merged(found.picture) : element("p", { className: "soft" }, found.no_picture));
    at("results").classList.remove("old");
    at("results").replaceChildren(...nodes);
  }

  // -- the page ---------------------------------------------------------------------------------

  options(at("model"), data.models, data.models[0]);
  at("model-field").hidden = data.models.length < 2;
  offer(data.strategies);
  at("model").addEventListener("change", chooseModel);
  at("scene").addEventListener("click", () => scene());
  at("file").addEventListener("change", () => {
    upload(at("file").files[0]);
    at("file").value = "";  // the same file again is a choice, too
  });
  at("retention").addEventListener("input", () => { at("share").textContent = Number(at("retention").value).toFixed(2); });
  ["retention", "a", "b", "uncompressed", "question", "tokens"].forEach((id) => at(id).addEventListener("change", changed));
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    compare();
  });
  at("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    compare();
  });
  ["dragenter", "dragover"].forEach((name) => document.addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  }));
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    upload(event.dataTransfer.files[0]);
  });
  addEventListener("resize", () => state.redraw());
  scene(0).finally(() => { document.body.dataset.ready = "1"; });
})();
