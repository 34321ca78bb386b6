"use strict";
(() => {
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const EVERY = "*", SVG = "http://www.w3.org/2000/svg", DASH = "–";
  const $ = (id) => document.getElementById(id);
  const PLACE = Object.fromEntries(DATA.place.map((name, i) => [name, i]));
  const COLUMN = Object.fromEntries(DATA.columns.map((column, i) => [column.key, i]));
  const STABILITY = DATA.columns.length;
  const SETS = [["barriers", "Instability"], ["forms", "Forms"], ["worth", "Ensembles"], ["evaluation", "Evaluation shift"], ["all", "All"]];
  const DEFAULTS = { suite: DATA.suites.length ? DATA.suites[0].id : "", shift: EVERY, cols: "barriers", q: "", ranked: "", sort: "rank", dir: "asc", entry: "" };
  const state = { ...DEFAULTS };

  // --- building nodes: text only ever becomes text ---

  function put(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== false) node.append(child);
    return node;
  }
  const h = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
  const s = (tag, attributes, ...children) => put(document.createElementNS(SVG, tag), attributes, children);

  // --- numbers ---

  const points = (value) => (value * DATA.unit * 100);
  function tenths(whole, sign) { // of whole units, so that this page and README.md round alike
    const digits = Math.floor((Math.abs(whole) + 5) / 10);
    return (digits === 0 ? "" : whole < 0 ? "−" : sign ? "+" : "") + `${Math.floor(digits / 10)}.${digits % 10}`;
  }
  function flops(value) {
    if (value === null || value === undefined) return DASH;
    const operations = value * DATA.flopUnit;
    const power = Math.floor(Math.log10(operations) / 3) * 3;
    const names = { 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E" };
    return `${(operations / 10 ** power).toPrecision(3)} ${names[power] || `e${power} `}`;
  }
  const signed = (column) => column.unit === "gain" || column.title.includes("−");
  const halfOf = (estimate) => (estimate.length > 1 && estimate[1] !== null ? estimate[1] : null);
  function estimateText(estimate, sign) {
    if (!estimate) return DASH;
    const half = halfOf(estimate);
    return tenths(estimate[0], sign) + (half === null ? "" : ` ± ${tenths(half)}`);
  }
  function estimateCell(estimate, column, extra) {
    if (!estimate) return h("td", {}, h("abbr", { title: "not measured" }, DASH), column.alone || column.unit === "flop" ? null : h("span", { class: "half" }));
    if (column.unit === "flop") return h("td", {}, flops(estimate[0]));
    const half = halfOf(estimate);
    return h("td", {}, extra, h("span", { class: "num" }, tenths(estimate[0], signed(column))),
      column.alone ? null : h("span", { class: "half" }, half === null ? "" : `± ${tenths(half)}`),
      estimate.length > 2 ? h("span", { class: "few", title: `of ${estimate[2]} replicates` }, `(${estimate[2]})`) : null);
  }
  const shareText = (share) => (share === null ? "never" : `${share} %`);
  function stabilityText(found) {
    if (!found) return DASH;
    const [median, first, last] = found;
    return shareText(median) + (first === last ? "" : ` (${shareText(first)} to ${shareText(last)})`);
  }
  // the rank as a dot, its place by the mean area, with the interval as a whisker
  function rankStrip(suite, entry) {
    if (!entry.rank || suite.ranked < 2) return null;
    const width = 66, x = (rank) => 4 + ((rank - 1) / (suite.ranked - 1)) * (width - 8);
    const place = suite.entries.filter((other) => other.rank && other.place < entry.place).length + 1;
    return s("svg", { class: "ranks", width, height: 12, viewBox: `0 0 ${width} 12`, "aria-hidden": "true" },
      s("line", { class: "axis", x1: 4, x2: width - 4, y1: 6, y2: 6 }),
      s("line", { x1: x(entry.rank[0]), x2: x(entry.rank[1]), y1: 6, y2: 6, stroke: "var(--accent)", "stroke-width": 2 }),
      [entry.rank[0], entry.rank[1]].map((rank) => s("line", { x1: x(rank), x2: x(rank), y1: 2.5, y2: 9.5, stroke: "var(--accent)", "stroke-width": 1.5 })),
      s("circle", { cx: x(place), cy: 6, r: 3.4, fill: "var(--accent)", stroke: "var(--raised)" }));
  }
  function rankText(entry) {
    if (entry.baseline) return "baseline";
    if (!entry.rank) return DASH;
    return entry.rank[0] === entry.rank[1] ? `${entry.rank[0]}` : `${entry.rank[0]}–${entry.rank[1]}`;
  }
  const decode = (top, text, letters) => {
    const n = DATA.alphabet.length, most = n ** letters - 1, values = [];
    for (let i = 0; i < text.length; i += letters) {
      let level = 0;
      for (let j = 0; j < letters; j += 1) level = level * n + DATA.alphabet.indexOf(text[i + j]);
      values.push((top * level) / most);
    }
    return values;
  };

  // --- the address ---

  function read() {
    const found = new URLSearchParams(location.hash.slice(1));
    for (const key of Object.keys(DEFAULTS)) state[key] = found.has(key) ? found.get(key) : DEFAULTS[key];
    if (!DATA.suites.some((suite) => suite.id === state.suite)) state.suite = DEFAULTS.suite;
    if (!SETS.some(([key]) => key === state.cols)) state.cols = DEFAULTS.cols;
    const suite = current();
    if (suite && state.shift !== EVERY && !suite.shifts.includes(state.shift)) state.shift = EVERY;
    if (!sorters()[state.sort]) { state.sort = DEFAULTS.sort; state.dir = DEFAULTS.dir; }
    if (state.dir !== "desc") state.dir = "asc";
  }
  function address(changes) {
    const next = { ...state, ...changes }, found = new URLSearchParams();
    for (const [key, value] of Object.entries(next)) if (value !== DEFAULTS[key]) found.set(key, value);
    const text = found.toString();
    return text ? `#${text}` : "#";
  }
  function go(changes) {
    history.replaceState(null, "", address(changes));
    read();
    render();
  }
  const current = () => DATA.suites.find((suite) => suite.id === state.suite);
  const view = (entry) => entry.views[state.shift];
  const shiftName = (label) => (label === EVERY ? `mean of ${current().headline.join(", ") || "all training shifts"}` : label === "none" ? "no shift" : label);

  // --- the table ---

  const shownColumns = () => DATA.columns.filter((column) => state.cols === "all" || column.group === state.cols);
  function sorters() {
    const value = (pick) => (entry) => (view(entry) ? pick(view(entry)) : null);
    const found = {
      rank: (entry) => entry.place, entry: (entry) => entry.title.toLowerCase(), n: (entry) => entry.measured,
      diverged: (entry) => entry.cells[1] + entry.cells[2], trust: (entry) => ["claimed", "rescored", "re-run", "reproduced"].indexOf(entry.trust),
      stability: value((scores) => (scores[STABILITY] ? (scores[STABILITY][0] === null ? Infinity : scores[STABILITY][0]) : null)),
    };
    DATA.columns.forEach((column, i) => { found[column.key] = value((scores) => (scores[i] ? scores[i][0] : null)); });
    return found;
  }
  function sorted(entries) {
    const key = sorters()[state.sort], way = state.dir === "desc" ? -1 : 1;
    return entries.map((entry) => [key(entry), entry]).sort(([a, x], [b, y]) => {
      if (a === null || b === null) return (a === null) - (b === null) || x.place - y.place;
      return (a < b ? -way : a > b ? way : 0) || x.place - y.place;
    }).map(([, entry]) => entry);
  }
  function matching(suite) {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    return suite.entries.filter((entry) => (!state.ranked || entry.rank) && words.every((word) => entry.text.includes(word)));
  }
  function header(key, title, help, text, better) {
    const active = state.sort === key;
    const first = better === "higher" ? "desc" : "asc";
    const next = active ? (state.dir === "asc" ? "desc" : "asc") : first;
    const sort = active ? (state.dir === "asc" ? "ascending" : "descending") : "none";
    return h("th", { scope: "col", class: text ? `text${key === "entry" ? " pin" : ""}` : null, "aria-sort": sort },
      h("button", { type: "button", title: help, "data-sort": key, onclick: () => { go({ sort: key, dir: next }); document.querySelector(`[data-sort="${key}"]`).focus(); } }, title));
  }
  function strip(estimate, top) {
    const width = 84, x = (value) => Math.max(0, Math.min(1, value / top)) * (width - 8) + 4;
    const half = halfOf(estimate) || 0, [low, high] = [x(estimate[0] - half), x(estimate[0] + half)];
    return s("svg", { class: "strip", width, height: 12, viewBox: `0 0 ${width} 12`, "aria-hidden": "true" },
      s("line", { class: "axis", x1: 4, x2: width - 4, y1: 6, y2: 6 }),
      s("line", { x1: low, x2: high, y1: 6, y2: 6, stroke: "var(--accent)", "stroke-width": 3 }),
      s("circle", { cx: x(estimate[0]), cy: 6, r: 3.2, fill: "var(--accent)", stroke: "var(--raised)" }));
  }
  function renderTable(suite) {
    const columns = shownColumns(), barriers = state.cols === "barriers" || state.cols === "all";
    const head = h("tr", {},
      header("rank", "rank", "Rank by instability area over all training shifts, as an interval", true),
      header("entry", "entry", "Title, architecture and recipe", true),
      columns.map((column) => header(column.key, column.title, column.help, false, column.better)),
      barriers ? header("stability", "stability point", "Earliest fork, as share of training, from which on siblings are connected (error barrier under 2 points) under all of the shifts: median, earliest and latest replicate") : null,
      header("n", "n", "Replicates"), header("diverged", "not learned", "Cells that did not learn or diverged, of those that were run"),
      header("trust", "trust", "How far the numbers were checked", true), h("th", { scope: "col", class: "text", title: "How the midpoints that ranks are based on were checked" }, "rank is"), h("th", { scope: "col", class: "text" }, "digest"));
    const top = Math.max(1, ...suite.entries.map((entry) => { const e = view(entry) && view(entry)[COLUMN.area]; return e ? e[0] + (halfOf(e) || 0) : 0; }));
    const entries = sorted(matching(suite));
    const rows = entries.map((entry) => {
      const scores = view(entry) || [];
      const [ok, still, diverged, failed] = entry.cells;
      return h("tr", { class: entry.baseline ? "baseline" : null, "data-slug": entry.slug },
        h("td", { class: `text rank${entry.rank ? "" : " no"}`, title: entry.unranked.join("; ") || null }, rankText(entry), rankStrip(suite, entry)),
        h("th", { scope: "row", class: "text pin" }, h("span", { class: "who" }, h("span", {}, sign(entry), h("a", { href: address({ entry: entry.slug }) }, entry.title)),
          h("small", { class: "arch", title: entry.architecture }, `${recipe(suite, entry).name}${entry.frontier ? ", on its frontier" : ""} · ${entry.architecture}`),
          entry.unranked.length ? h("small", {}, `not ranked: ${entry.unranked.join("; ")}`) : null)),
        columns.map((column) => { const e = scores[COLUMN[column.key]]; return estimateCell(e, column, column.key === "area" && e ? strip(e, top) : null); }),
        barriers ? h("td", {}, stabilityText(scores[STABILITY])) : null,
        h("td", {}, entry.measured), h("td", {}, `${still + diverged}/${ok + still + diverged + failed}`), h("td", { class: "text" }, entry.trust), h("td", { class: "text" }, entry.basis),
        h("td", { class: "text" }, h("code", { title: "first digits of the sha256 of submission.toml" }, entry.submission.slice(0, 8))));
    });
    $("table").tHead.replaceChildren(head);
    $("table").tBodies[0].replaceChildren(...rows);
    $("caption").textContent = `${suite.title}, ${shiftName(state.shift)}.`;
    $("count").textContent = `${entries.length} of ${counted(suite.entries.length)}.`;
  }
  const counted = (n) => `${n} ${n === 1 ? "entry" : "entries"}`;
  const recipe = (suite, entry) => suite.recipes[entry.recipe];

  // --- figures ---

  const WAYS = [0, 1, 2, 3, 4, 5, 6];
  const colour = (i) => (i < 0 ? "var(--grey)" : `var(--s${WAYS[i % WAYS.length]})`);
  function mark(i, x, y, size, title) {
    const r = size || 4, common = { fill: i < 0 ? "var(--raised)" : colour(i), stroke: i < 0 ? "var(--grey)" : colour(i), "stroke-width": 1.5 };
    const kind = (i < 0 ? 0 : Math.floor(i / WAYS.length) * 2 + i) % 4;
    const node = kind === 0 ? s("circle", { cx: x, cy: y, r, ...common })
      : kind === 1 ? s("rect", { x: x - r * 0.88, y: y - r * 0.88, width: r * 1.76, height: r * 1.76, ...common })
      : s("path", { d: kind === 2 ? `M${x} ${y - r * 1.2}L${x + r * 1.15} ${y + r}L${x - r * 1.15} ${y + r}Z` : `M${x} ${y - r * 1.3}L${x + r * 1.3} ${y}L${x} ${y + r * 1.3}L${x - r * 1.3} ${y}Z`, ...common });
    if (title) node.append(s("title", {}, title));
    return node;
  }
  function ticks(low, high, count) {
    const rough = (high - low || 1) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough), found = [];
    for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-6; value += step) found.push(Number(value.toPrecision(6)));
    return found;
  }
  const plain = (value) => String(Number(value.toPrecision(4))).replace("-", "−");
  function frame(width, height, label, y, yLabel, { count = 5, root = false, left = 44 } = {}) {
    const right = 12, top = 20, bottom = 34;
    const [low, high] = y, bend = root ? (value) => Math.sqrt(Math.max(value, 0)) : (value) => value;
    const scale = (value) => height - bottom - ((bend(value) - bend(low)) / (bend(high) - bend(low) || 1)) * (height - top - bottom);
    const marks = root ? [0, 1, 2, 5, 10, 20, 40, 60, 80].filter((value) => value <= high) : ticks(low, high, count);
    const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
    for (const tick of marks) {
      svg.append(s("line", { class: "grid", x1: left, x2: width - right, y1: scale(tick), y2: scale(tick) }),
        s("text", { x: left - 6, y: scale(tick) + 3.5, "text-anchor": "end" }, plain(tick)));
    }
    svg.append(s("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }), s("text", { x: left - 42, y: 10 }, yLabel));
    return { svg, y: scale, left, right: width - right, base: height - bottom, span: width - left - right };
  }
  function whisker(x, estimate, to, i, low, high = Infinity) {
    const half = halfOf(estimate);
    if (half === null) return null;
    const [a, b] = [to(Math.max(points(estimate[0] - half), low)), to(Math.min(points(estimate[0] + half), high))];
    return s("line", { x1: x, x2: x, y1: a, y2: b, stroke: colour(i), "stroke-width": 1.5, opacity: 0.75 });
  }
  function key(items) {
    return h("ul", { class: "key" }, items.map(([i, name]) => h("li", {}, s("svg", { width: 14, height: 12, viewBox: "0 0 14 12", "aria-hidden": "true" }, mark(i, 7, 6)), name)));
  }
  const room = (most) => Math.max(Math.min(most, document.querySelector("main").clientWidth), 280);
  const figure = (title, caption, ...nodes) => h("figure", {}, h("h3", {}, title), h("figcaption", {}, caption), ...nodes);
  const place = (suite, entry, label, fork) => (entry.places[label] || []).find((found) => suite.forks[found[PLACE.fork]].name === fork);

  function seriesOf(suite, entry) {
    const order = suite.shifts.filter((label) => entry.places[label]);
    if (state.shift === EVERY) return order.filter((label) => suite.headline.includes(label) || label === "none");
    const control = order.filter((label) => label === `same(${state.shift})` || (state.shift === "disjoint-halves" && label === "same-half"));
    return [...new Set([state.shift, "none", ...control])].filter((label) => order.includes(label));
  }
  const seriesIndex = (suite, label) => (label === "none" ? -1 : suite.shifts.indexOf(label));

  function barrierFigure(suite, entry) {
    const labels = seriesOf(suite, entry);
    const forks = suite.forks.filter((fork) => !fork.priced && labels.some((label) => { const p = place(suite, entry, label, fork.name); return p && p[PLACE.error_chord]; }));
    const all = labels.flatMap((label) => forks.map((fork) => place(suite, entry, label, fork.name)).filter((p) => p && p[PLACE.error_chord]).map((p) => p[PLACE.error_chord]));
    if (!all.length) return null;
    const high = Math.max(2.5, ...all.map((e) => points(e[0] + (halfOf(e) || 0)))) * 1.04;
    const f = frame(room(560), 300, `Error barrier against fork for ${entry.title}`, [0, high], "error barrier, percentage points (square-root scale)", { root: true });
    const slot = f.span / forks.length, x = (i, k) => f.left + slot * (i + 0.5) + (labels.length > 1 ? (k / (labels.length - 1) - 0.5) * Math.min(slot * 0.6, 12 * labels.length) : 0);
    f.svg.append(s("line", { x1: f.left, x2: f.right, y1: f.y(2), y2: f.y(2), stroke: "var(--grey)", "stroke-dasharray": "2 3" }),
      s("text", { x: f.right, y: f.y(2) - 4, "text-anchor": "end" }, "connected below 2"));
    forks.forEach((fork, i) => f.svg.append(s("text", { x: f.left + slot * (i + 0.5), y: f.base + 15, "text-anchor": "middle" }, fork.name)));
    f.svg.append(s("text", { x: f.left + f.span / 2, y: f.base + 30, "text-anchor": "middle" }, "fork (epoch or share of training at which siblings part)"));
    labels.forEach((label, k) => {
      const index = seriesIndex(suite, label);
      const at = forks.map((fork, i) => ({ p: place(suite, entry, label, fork.name), i, fork })).filter(({ p }) => p && p[PLACE.error_chord]);
      const path = at.filter(({ fork }) => fork.trunk).map(({ p, i }, j) => `${j ? "L" : "M"}${x(i, k)} ${f.y(points(p[PLACE.error_chord][0]))}`).join("");
      f.svg.append(s("path", { d: path, fill: "none", stroke: colour(index), "stroke-width": 1, opacity: 0.55 }));
      for (const { p, i, fork } of at) {
        const e = p[PLACE.error_chord];
        f.svg.append(...[whisker(x(i, k), e, f.y, index, 0), mark(index, x(i, k), f.y(points(e[0])), 3.6, `${label}, fork ${fork.name}: ${estimateText(e)}`)].filter(Boolean));
      }
    });
    return figure("Barrier against fork", `Chord form, test split, mean and 95 % interval over replicates, n = ${entry.n}.`, f.svg, key(labels.map((label) => [seriesIndex(suite, label), label === "none" ? "no shift" : label])));
  }

  function curvePanel(suite, entry, kind, fork, labels, high, alphas) {
    const width = Math.min(210, (room(1200) - 20) / 2), height = 150, percent = kind === "error";
    const f = frame(width, height, `${kind} along the line, fork ${fork.name}`, [0, high], percent ? "error, %" : "loss, nats", { count: 4 });
    const x = (a) => f.left + f.span * a;
    labels.forEach((label) => {
      const p = place(suite, entry, label, fork.name), band = p && p[PLACE[kind]];
      if (!band) return;
      const factor = percent ? 100 : 1, mean = decode(band[0], band[1], 2).map((v) => v * factor), index = seriesIndex(suite, label);
      if (band.length > 2) {
        const half = decode(band[2], band[3], 1).map((v) => v * factor);
        const up = mean.map((m, i) => `${x(alphas[i])} ${f.y(Math.min(m + half[i], high))}`), down = mean.map((m, i) => `${x(alphas[i])} ${f.y(Math.max(m - half[i], 0))}`).reverse();
        f.svg.append(s("path", { d: `M${[...up, ...down].join("L")}Z`, fill: colour(index), opacity: 0.16 }));
      }
      f.svg.append(s("path", { d: `M${mean.map((m, i) => `${x(alphas[i])} ${f.y(m)}`).join("L")}`, fill: "none", stroke: colour(index), "stroke-width": 1.7, "stroke-dasharray": index < 0 ? "4 3" : null }));
    });
    for (const a of [0, 0.5, 1]) f.svg.append(s("text", { x: x(a), y: f.base + 14, "text-anchor": a === 0 ? "start" : a === 1 ? "end" : "middle" }, a === 0 ? "A" : a === 1 ? "B" : "½"));
    f.svg.append(s("text", { class: "title", x: width - 12, y: 10, "text-anchor": "end" }, !fork.trunk ? fork.name : `fork ${fork.name}`));
    return f.svg;
  }
  function curvesFigure(suite, entry, chosen) {
    const labels = [...new Set([chosen, "none"])].filter((label) => entry.places[label]);
    const forks = suite.forks.filter((fork) => !fork.priced && labels.some((label) => { const p = place(suite, entry, label, fork.name); return p && p[PLACE.error]; }));
    if (!forks.length) return null;
    const alphas = [...Array(entry.points)].map((_, i) => i / (entry.points - 1));
    const rows = ["error", "loss"].map((kind) => {
      const high = (alike) => {
        const bands = labels.flatMap((label) => forks.filter(alike).map((fork) => place(suite, entry, label, fork.name))).filter((p) => p && p[PLACE[kind]]).map((p) => p[PLACE[kind]]);
        const top = Math.max(...bands.map((band) => band[0] + (band[2] || 0))) * (kind === "error" ? 100 : 1) * 1.05;
        return kind === "error" ? Math.min(top, 100) : top;
      };
      const trunk = high((fork) => fork.trunk), others = high((fork) => !fork.trunk);
      return h("div", { class: "panels" }, forks.map((fork) => curvePanel(suite, entry, kind, fork, labels, !fork.trunk ? others : trunk, alphas)));
    });
    const options = suite.shifts.filter((label) => entry.places[label] && label !== "none");
    const select = h("select", { id: "curve-shift", onchange: (event) => { $("curves").replaceWith(h("div", { id: "curves" }, curvesFigure(suite, entry, event.target.value))); $("curve-shift").focus(); } }, options.map((label) => h("option", { value: label, selected: label === chosen }, label)));
    return figure("Curves between siblings A and B", "Test error (with 95 % intervals over replicates) and loss on the straight line between their weights. Forks share a scale; networks without a trunk have their own.",
      options.length ? h("p", { class: "controls", style: "border:0;padding:0" }, h("label", {}, "Training shift", select)) : null, ...rows, key(labels.map((label) => [seriesIndex(suite, label), label === "none" ? "no shift" : label])));
  }

  function logFrame(svgFrame, costs) {
    const low = Math.log10(Math.min(...costs)) , high = Math.log10(Math.max(...costs)), pad = Math.max((high - low) * 0.08, 0.06);
    const x = (cost) => svgFrame.left + ((Math.log10(cost) - low + pad) / (high - low + 2 * pad)) * svgFrame.span;
    const wanted = high - low > 1.2 ? [...Array(40)].map((_, i) => 10 ** i) : [...Array(40)].flatMap((_, i) => (high - low > 0.4 ? [1, 2, 5] : [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9]).map((m) => m * 10 ** i));
    let last = -Infinity;
    for (const cost of wanted.filter((c) => Math.log10(c) >= low - pad && Math.log10(c) <= high + pad)) {
      if (x(cost) - last < 62) continue;
      last = x(cost);
      svgFrame.svg.append(s("line", { class: "axis", x1: last, x2: last, y1: svgFrame.base, y2: svgFrame.base + 4 }), s("text", { x: last, y: svgFrame.base + 15, "text-anchor": "middle" }, flops(cost).replace(/\.0+(?= )/, "")));
    }
    svgFrame.svg.append(s("text", { x: svgFrame.left + svgFrame.span / 2, y: svgFrame.base + 30, "text-anchor": "middle" }, "training FLOPs (log scale)"));
    return x;
  }
  function accuracyRange(values) {
    const low = Math.min(...values), high = Math.max(...values), pad = Math.max((high - low) * 0.08, 0.3);
    return [Math.max(low - pad, 0), Math.min(high + pad, 100)];
  }
  function costFigure(suite, entry, label) {
    const found = (entry.places[label] || []).map((p) => ({ p, fork: suite.forks[p[PLACE.fork]], e: p[PLACE.ensemble] || p[PLACE.member] })).filter(({ p, e }) => e && p[PLACE.flop]);
    if (!found.length) return null;
    const f = frame(room(560), 300, `Ensemble accuracy against training FLOPs for ${entry.title}`, accuracyRange(found.flatMap(({ e }) => [points(e[0] - (halfOf(e) || 0)), points(e[0] + (halfOf(e) || 0))])), "accuracy, %");
    const x = logFrame(f, found.map(({ p }) => p[PLACE.flop]));
    const trunk = found.filter(({ fork }) => fork.trunk);
    f.svg.append(s("path", { d: trunk.map(({ p, e }, i) => `${i ? "L" : "M"}${x(p[PLACE.flop])} ${f.y(points(e[0]))}`).join(""), fill: "none", stroke: colour(0), opacity: 0.5 }));
    const kinds = { independent: 1, "independent-equal-cost": 2, "whole-budget": 3 };
    const used = [...new Set(found.map(({ fork }) => (fork.trunk ? 0 : kinds[fork.name] || 4)))];
    for (const { p, fork, e } of found) {
      const i = fork.trunk ? 0 : kinds[fork.name] || 4, at = x(p[PLACE.flop]);
      f.svg.append(...[whisker(at, e, f.y, i, 0, 100), mark(i, at, f.y(points(e[0])), 4, `${fork.name}: ${estimateText(e)} %, ${flops(p[PLACE.flop])}`)].filter(Boolean));
      if (fork.trunk) f.svg.append(s("text", { x: at + 7, y: f.y(points(e[0])) - 6 }, fork.name));
    }
    const names = ["siblings’ ensemble, by fork", "independent networks", "independent, at equal cost", "one network, whole budget", "given checkpoint"];
    return figure("Ensemble accuracy against training FLOPs", `Test split, ${label === "none" ? "no shift" : label}, mean and 95 % interval. Numbers are forks.`, f.svg, key(used.sort().map((i) => [i, names[i]])));
  }
  // --- the first figure: instability against fork, a line per entry ---

  const isDrawn = (entry) => (entry.steps[state.shift] || []).length > 1;
  // ranked entries have a colour and mark each, the others are hollow
  const signOf = (entry) => (entry.rank ? entry.place : -1);
  const sign = (entry) => (isDrawn(entry) ? s("svg", { class: "sign", width: 11, height: 11, viewBox: "0 0 11 11", "aria-hidden": "true" }, mark(signOf(entry), 5.5, 5.5, 3.8)) : null);
  // a title up to its first colon or comma where that names one entry alone, else its first characters
  const brief = (title) => title.split(/[:,]/)[0];
  const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
  function shortTitle(suite, entry, length) {
    const one = suite.entries.filter((other) => brief(other.title) === brief(entry.title)).length === 1;
    return cut(one ? brief(entry.title) : entry.title, length);
  }
  function stabilityFigure(suite, entries) {
    const drawn = entries.filter(isDrawn), named = (entry) => shortTitle(suite, entry, 30);
    if (!drawn.length) return [];
    const wide = room(1180) > 700, names = wide ? Math.min(230, 8 + 6.4 * Math.max(...drawn.map((entry) => named(entry).length))) : 0;
    const steps = drawn.flatMap((entry) => entry.steps[state.shift]);
    const high = Math.min(100, Math.max(5, ...steps.map(([, e]) => points(e[0] + (wide ? halfOf(e) || 0 : 0)))) * 1.04);
    const f = frame(room(1180), wide ? 330 : 220, "Instability against fork for all entries shown", [0, high], "instability, % of independent networks", { left: 44 + names });
    f.svg.classList.add("lines");
    const x = (share) => f.left + 8 + Math.sqrt(share / 30) * (f.span - 16);
    for (const share of [...new Set(steps.map(([share]) => share))].sort((a, b) => a - b)) f.svg.append(s("text", { x: x(share), y: f.base + 15, "text-anchor": share === 30 ? "end" : "middle" }, share === 30 ? "30 %" : `${share}`));
    f.svg.append(s("text", { x: f.left + f.span / 2, y: f.base + 30, "text-anchor": "middle" }, "fork, % of training (square-root scale)"));
    const first = drawn.map((entry) => [entry, f.y(points(entry.steps[state.shift][0][1][0]))]).sort(([, a], [, b]) => a - b);
    const spread = first.map(([, y]) => y);
    for (let round = 0; round < 60; round += 1) { // names are at least 13 pixels apart
      for (let i = 1; i < spread.length; i += 1) {
        const missing = 13 - (spread[i] - spread[i - 1]);
        if (missing > 0) { spread[i - 1] -= missing / 2; spread[i] += missing / 2; }
      }
      for (let i = 0; i < spread.length; i += 1) spread[i] = Math.max(16 + 13 * i, Math.min(spread[i], f.base - 13 * (spread.length - 1 - i)));
    }
    first.forEach(([entry, y], i) => {
      const index = signOf(entry), found = entry.steps[state.shift];
      const label = `${entry.title}: ${found.map(([share, e]) => `${estimateText(e)} % at ${share} %`).join(", ")}`;
      f.svg.append(s("a", { href: address({ entry: entry.slug }), "aria-label": label },
        s("path", { d: found.map(([share, e], j) => `${j ? "L" : "M"}${x(share)} ${f.y(points(e[0]))}`).join(""), fill: "none", stroke: colour(index), "stroke-width": 1.6 }),
        wide ? found.map(([share, e]) => { const bar = whisker(x(share), e, f.y, index, 0, high); if (bar) bar.setAttribute("opacity", 0.3); return bar; }) : null,
        found.map(([share, e]) => mark(index, x(share), f.y(points(e[0])), 3.4, label)),
        wide ? s("path", { d: `M${f.left - names + 34 + names - 42} ${spread[i]}L${x(0) - 6} ${y}`, fill: "none", stroke: "var(--line)" }) : null,
        wide ? s("text", { x: f.left - 44, y: spread[i] + 4, "text-anchor": "end" }, named(entry)) : null));
    });
    return [h("h2", {}, "How early do siblings become connected?"),
      h("figcaption", {}, `0: siblings are linearly connected; 100: as far apart as independent networks. Loss halfway between siblings over the mean of both, ${shiftName(state.shift)}; mean${wide ? " and 95 % interval" : ""} over replicates. The area under a line is what ranks.`), f.svg];
  }

  // each name where nothing else stands, beside its dot or a little above or below; nowhere if all is taken
  function nameDots(f, dots) {
    const taken = dots.map(([x, y]) => [x - 5, x + 5, y - 5, y + 5]);
    for (const [x, y, name] of dots) {
      const width = 6.2 * name.length;
      for (const [dx, dy] of [[7, 4], [-7, 4], [7, -8], [7, 16], [-7, -8], [-7, 16]]) {
        const left = dx > 0 ? x + dx : x + dx - width, box = [left, left + width, y + dy - 10, y + dy + 3];
        if (left < f.left || left + width > f.left + f.span + 60 || taken.some((t) => box[0] < t[1] && box[1] > t[0] && box[2] < t[3] && box[3] > t[2])) continue;
        taken.push(box);
        f.svg.append(s("text", { x: x + dx, y: y + dy, "text-anchor": dx > 0 ? "start" : "end" }, name));
        break;
      }
    }
  }
  function overviewFigure(suite, entries) {
    const found = entries.map((entry) => ({ entry, scores: view(entry) })).filter(({ scores }) => scores && scores[COLUMN.ensemble] && scores[COLUMN.flop]);
    if (found.length < 2) return [];
    const f = frame(room(1180), 360, "Ensemble accuracy against training FLOPs of all entries shown", accuracyRange(found.flatMap(({ scores }) => { const e = scores[COLUMN.ensemble], half = halfOf(e) || 0; return [points(e[0] - half), points(e[0] + half)]; })), "ensemble accuracy, %");
    const x = logFrame(f, found.map(({ scores }) => scores[COLUMN.flop][0]));
    for (const { entry, scores } of found) {
      const e = scores[COLUMN.ensemble], at = x(scores[COLUMN.flop][0]), label = `${entry.title}: ${estimateText(e)} %, ${flops(scores[COLUMN.flop][0])}`;
      const bar = whisker(at, e, f.y, entry.baseline ? -1 : 0, 0, 100);
      f.svg.append(s("a", { href: address({ entry: entry.slug }), "aria-label": label }, bar, mark(entry.baseline ? -1 : 0, at, f.y(points(e[0])), 4.2, label)));
    }
    if (f.span > 600) nameDots(f, found.map(({ entry, scores }) => [x(scores[COLUMN.flop][0]), f.y(points(scores[COLUMN.ensemble][0])), shortTitle(suite, entry, 22)]));
    return [h("h3", {}, "Ensemble accuracy against training FLOPs"), h("figcaption", {}, `Siblings of the latest fork, test split, ${shiftName(state.shift)}; mean and 95 % interval. Every point leads to its entry.`), f.svg];
  }

  // --- one entry ---

  const fact = (name, value, big) => (value === null || value === undefined || value === "" ? null : h("div", { class: big ? "big" : null }, h("dt", {}, name), h("dd", {}, value)));
  function wrapTable(caption, head, rows) {
    return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, head.map((name, i) => h("th", { scope: "col", class: i ? null : "text pin" }, name)))), h("tbody", {}, rows)));
  }
  function forkTable(suite, entry, label) {
    const percent = { unit: "percent", title: "" }, alone = { ...percent, alone: true };
    const rows = (entry.places[label] || []).map((p) => {
      const [ok, still, diverged, failed] = p[PLACE.cells] || [entry.replicates, 0, 0, 0], loss = p[PLACE.loss_chord];
      return h("tr", {}, h("th", { scope: "row", class: "text pin" }, suite.forks[p[PLACE.fork]].name),
        ["error_chord", "error_mean"].map((name) => estimateCell(p[PLACE[name]], percent)),
        ["error_floor", "error_mid"].map((name) => estimateCell(p[PLACE[name]], alone)),
        h("td", {}, loss ? (loss[0] * DATA.lossUnit).toFixed(3) : DASH, h("span", { class: "half" }, loss && halfOf(loss) !== null ? `± ${(loss[1] * DATA.lossUnit).toFixed(3)}` : "")),
        ["disagreement", "member", "ensemble", "soup"].map((name) => estimateCell(p[PLACE[name]], percent)),
        h("td", {}, flops(p[PLACE.flop])), h("td", {}, `${still + diverged}/${ok + still + diverged + failed}`));
    });
    return wrapTable(`By fork, ${label === "none" ? "no shift" : label}; error barriers in percentage points, disagreement and accuracies in percent, training in FLOPs`, ["fork", "barrier, chord", "barrier, mean form", "floor", "at the middle", "loss barrier, nats", "disagreement", "member", "ensemble", "soup", "training", "not learned"], rows);
  }
  function shiftTable(suite, entry) {
    const columns = DATA.columns.filter((column) => column.group === "barriers");
    const rows = [EVERY, ...suite.shifts].filter((label) => entry.views[label]).map((label) => h("tr", {}, h("th", { scope: "row", class: "text pin" }, label === EVERY ? "all, mean" : label),
      columns.map((column) => estimateCell(entry.views[label][COLUMN[column.key]], column)), h("td", {}, stabilityText(entry.views[label][STABILITY]))));
    return wrapTable("By training shift. Areas, skill lost, separation, disagreement and accuracy in percent; barriers and differences in percentage points; all but the areas at fork 0", ["training shift", ...columns.map((column) => column.title), "stability point"], rows);
  }
  function evaluationTable(suite, entry) {
    const found = Object.entries(entry.evaluations);
    if (!found.length) return null;
    const rows = found.map(([name, values]) => h("tr", {}, h("th", { scope: "row", class: "text pin" }, name), values.map((e, i) => estimateCell(e, { unit: i === 3 ? "gain" : "percent", title: "" }))));
    const said = suite.comparison && `. ${suite.comparison}`;
    return wrapTable(`By evaluation shift, siblings of the latest fork, all training shifts, percent${said}`, ["evaluation shift", "member", "ensemble", "soup", "ensemble − independent"], rows);
  }
  function renderEntry(suite, entry) {
    const { name, ...settings } = recipe(suite, entry);
    const [ok, still, diverged, failed, missing] = entry.cells;
    const priced = (label) => (entry.places[label] || []).some((p) => suite.forks[p[PLACE.fork]].priced);
    const shown = entry.places[state.shift] ? state.shift : suite.headline.find(priced) || suite.headline.find((label) => entry.places[label]) || Object.keys(entry.places)[0];
    const every = entry.views[EVERY];
    const heading = h("h2", { tabindex: "-1", id: "entry-title" }, entry.title);
    $("entry").replaceChildren();
    put($("entry"), {}, [
      h("p", { class: "crumbs" }, h("a", { href: address({ entry: "" }), id: "back" }, `← All entries of ${suite.title}`)),
      heading, h("p", { class: "note" }, `${entry.architecture}, recipe ${name}. By ${entry.authors}.`),
      h("dl", { class: "facts" },
        fact("rank", entry.rank ? `${rankText(entry)} of ${suite.ranked}` : entry.baseline ? "baseline, takes no rank" : "not ranked", true),
        fact("instability area, %", estimateText(every[COLUMN.area]), true), fact("accuracy, %", estimateText(every[COLUMN.accuracy]), true),
        fact("ensemble gain, points", every[COLUMN.ensemble_gain] ? estimateText(every[COLUMN.ensemble_gain], true) : DASH, true),
        fact("stability point, share of training", stabilityText(every[STABILITY]), true)),
      entry.unranked.length ? h("p", { class: "notice" }, `Not ranked: ${entry.unranked.join("; ")}.`) : null,
      h("div", { class: "two" }, barrierFigure(suite, entry), costFigure(suite, entry, shown)),
      h("div", { id: "curves" }, curvesFigure(suite, entry, shown)),
      h("h2", {}, "Numbers"), forkTable(suite, entry, shown), h("br"), shiftTable(suite, entry), h("br"), evaluationTable(suite, entry),
      h("h2", {}, "About"),
      h("dl", { class: "facts" }, fact("trust", entry.trust), fact("rank based on numbers", entry.basis), fact("source", `${entry.source}, fingerprint ${entry.fingerprint}`), fact("weights", entry.params === null ? null : entry.params.toLocaleString("en")),
        fact("cells", `${ok} ok, ${still} did not learn, ${diverged} diverged, ${failed} failed, ${missing} missing`), fact("replicates", entry.replicates), fact("pretraining", entry.pretraining), fact("extra data", entry.extraData), fact("licence", entry.licence),
        fact("recipe", `${name}: ${Object.entries(settings).map(([k, v]) => `${k} ${Array.isArray(v) ? v.join(", ") : v}`).join(" · ")}`), fact("submission.toml", h("code", {}, entry.submission)), fact("folder", h("code", {}, `submissions/${entry.slug}`))),
      entry.notes ? h("p", { class: "text-block" }, entry.notes) : null]);
    return heading;
  }

  // --- everything ---

  function renderControls(suite) {
    $("suite").value = state.suite;
    const options = [EVERY, ...suite.shifts].map((label) => h("option", { value: label }, label === EVERY ? `all (mean of ${suite.headline.length || "its"} shifts)` : label === "none" ? "none" : label));
    $("shift").replaceChildren(...options);
    $("shift").value = state.shift;
    for (const input of document.querySelectorAll("#sets input")) input.checked = input.value === state.cols;
    if ($("filter").value !== state.q) $("filter").value = state.q;
    $("ranked").checked = Boolean(state.ranked);
    $("about").textContent = [suite.description, suite.published ? `The area is over ${suite.headline.join(", ")}.${suite.comparison && ` ${suite.comparison}`} Accuracy floor ${plain(points(suite.floor))} %.` : "No suite of this digest is published with this version of lmcbench: entries are not ranked.", `${suite.ranked} of ${counted(suite.entries.length)} ranked. Suite digest ${suite.digest}.`, suite.citation && `Cite: ${suite.citation}.`].filter(Boolean).join(" ");
  }
  let lastEntry = "";
  function render() {
    const suite = current();
    if (!suite) { $("board").hidden = false; $("controls").hidden = true; $("scroll").hidden = true; $("about").textContent = "There are no submissions yet."; return; }
    const entry = suite.entries.find((found) => found.slug === state.entry);
    $("board").hidden = Boolean(entry);
    $("entry").hidden = !entry;
    document.title = entry ? `${entry.title} · lmcbench leaderboard` : `${suite.title} · lmcbench leaderboard`;
    if (entry) {
      const heading = renderEntry(suite, entry);
      if (lastEntry !== entry.slug && lastEntry !== null) { scrollTo(0, 0); heading.focus({ preventScroll: true }); }
    } else {
      renderControls(suite);
      renderTable(suite);
      $("stability").replaceChildren(...stabilityFigure(suite, matching(suite)));
      $("overview").replaceChildren(...overviewFigure(suite, matching(suite)));
      $("entry").replaceChildren();
      if (lastEntry) { const link = document.querySelector(`tr[data-slug="${CSS.escape(lastEntry)}"] a`); if (link) link.focus(); }
    }
    lastEntry = entry ? entry.slug : "";
  }

  // --- start ---

  for (const suite of DATA.suites) {
    suite.entries.forEach((entry, i) => {
      entry.place = i;
      entry.text = [entry.title, entry.architecture, entry.authors, recipe(suite, entry).name, entry.slug, entry.trust, entry.source].join(" ").toLowerCase();
    });
  }
  $("suite").replaceChildren(...DATA.suites.map((suite) => h("option", { value: suite.id }, suite.published ? suite.title : `${suite.title} (${suite.digest})`)));
  $("sets").replaceChildren(...SETS.map(([value, name]) => h("label", {}, h("input", { type: "radio", name: "cols", value, onchange: () => go({ cols: value }) }), h("span", {}, name))));
  $("legend").replaceChildren(...DATA.columns.map((column) => h("div", {}, h("dt", {}, column.title), h("dd", {}, column.help))));
  $("suite").addEventListener("change", (event) => go({ suite: event.target.value, shift: EVERY, entry: "" }));
  $("shift").addEventListener("change", (event) => go({ shift: event.target.value }));
  $("filter").addEventListener("input", (event) => go({ q: event.target.value }));
  $("ranked").addEventListener("change", (event) => go({ ranked: event.target.checked ? "1" : "" }));
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("skip").addEventListener("click", (event) => { event.preventDefault(); ($("board").hidden ? $("entry-title") : $("scroll")).focus(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && state.entry && event.target.tagName !== "SELECT") location.hash = address({ entry: "" }).slice(1); });
  const wideEnough = () => { if (innerWidth > 640) $("options").open = true; };
  $("options").open = innerWidth > 640;
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; wideEnough(); render(); } });
  addEventListener("hashchange", () => { read(); render(); });
  lastEntry = null;
  read();
  render();
})();
