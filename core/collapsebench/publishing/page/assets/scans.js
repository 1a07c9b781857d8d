// The figures of the scans: what is chosen above them decides what each of them draws.
"use strict";

const ARCHITECTURE_COLOURS = ["--a0", "--a1", "--a2", "--a3", "--a4", "--a5", "--a6"];
const DASHES = [null, [7, 3], [2, 3], [9, 3, 2, 3], [12, 4], [4, 4], [2, 2, 6, 2]];
const DASHED = [5, 4];
// Rows of matplotlib's viridis, dark to light: their lightness orders the ranks for every kind of sight.
const VIRIDIS = [
  [68, 1, 84], [72, 36, 117], [65, 68, 135], [53, 95, 141], [42, 120, 142], [33, 145, 140], [34, 168, 132],
  [68, 191, 112], [122, 209, 81], [189, 223, 38], [253, 231, 37],
];

const isDark = () => getComputedStyle(document.documentElement).colorScheme === "dark";

function rankColour(place, count) {
  const share = count > 1 ? place / (count - 1) : 0;
  const at = (isDark() ? 1 - 0.65 * share : 0.78 * share) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2), part = at - low;
  return `rgb(${VIRIDIS[low].map((value, i) => Math.round(value + part * (VIRIDIS[low + 1][i] - value))).join(",")})`;
}

const pairs = (x, y) => x.map((value, place) => [value, y[place]]);
const named = (architecture, run, rest = "") => () => `${architecture.name}, seed ${run.seed}${rest}`;
const style = (place) => ({ colour: colour(ARCHITECTURE_COLOURS[place % 7]), dash: DASHES[place % 7], marker: place });

// What each figure draws. panels: one per architecture, colours are ranks; otherwise one panel, colours architectures.
const FIGURES = {
  signal: {
    x: { name: "temperature T", short: "T", log: true }, y: { name: "signal fraction M²", short: "M²", floor: 0 },
    panels: true, first: 1, curves: (run) => run.signal.map((row) => pairs(run.t, row)),
    reference: (scan, architecture) => (architecture.exact && scan.exact ? curvesOf(scan.exact.t, scan.exact.signal) : []),
  },
  truncated: {
    x: { name: "temperature T", short: "T", log: true },
    y: { name: "distortion D_K(T) / V", short: "D_K/V", log: true, floor: 0 },
    panels: true, first: 0, curves: (run) => run.truncated.map((row) => pairs(run.t, row)),
    reference: (scan, architecture) =>
      architecture.exact && scan.exact ? curvesOf(scan.exact.t, scan.exact.truncated) : [],
  },
  distortion: {
    x: { name: "latents kept K", short: "K" }, y: { name: "distortion D(K) / V", short: "D(K)/V", log: true, floor: 0 },
    first: 0, points: (run) => run.distortion.map((value, rank) => [rank, value, rank]),
    reference: (scan) => (scan.pca ? [scan.pca.map((value, rank) => [rank, value, rank])] : []), referenceName: "PCA",
  },
  rate: {
    x: { name: "temperature / utility", short: "T/u", log: true },
    y: { name: "rate, nats", short: "R", floor: 0 }, panels: true, first: 1,
    curves: (run) => run.rate.map((row, place) =>
      run.utility[place] ? run.t.map((t, i) => [Number((t / run.utility[place]).toPrecision(6)), row[i]]) : []),
    law: (points) => {
      const low = Math.min(...points.map((point) => point[0]), 0.1), high = Math.max(...points.map((p) => p[0]), 10);
      const at = Array.from({ length: 121 }, (_, i) => low * (high / low) ** (i / 120));
      return [at.map((x) => [x, Math.max(0, -0.5 * Math.log(x))])];
    },
  },
  utility: {
    x: { name: "threshold T_c", short: "T_c", log: true }, y: { name: "utility", short: "utility", log: true },
    first: 1, scatter: true, points: (run, choice) => {
      const at = choice === "rate" ? run.rateThreshold : run.threshold;
      return run.utility.map((value, place) => [at[place], value, place + 1]).filter((p) => p[0] !== null && p[1] !== null);
    },
    law: (points) => {
      const ends = points.flatMap((point) => [point[0], point[1]]).filter((value) => value > 0);
      return ends.length ? [[Math.min(...ends), Math.max(...ends)].map((value) => [value, value])] : [];
    },
  },
  ward: {
    x: { name: "temperature T", short: "T", log: true }, y: { name: "Ward residual", short: "residual", log: true, floor: 0 },
    points: (run) => pairs(run.t, run.ward), level: true,
  },
  edge: {
    x: { name: "temperature T", short: "T", log: true }, y: { name: "residual edge / T", short: "edge/T", log: true, floor: 0 },
    points: (run) => pairs(run.t, run.edge), level: true,
  },
};

const curvesOf = (x, rows) => rows.map((row) => pairs(x, row));

class Scans {
  constructor(content) {
    this.content = content;
    this.controls = document.getElementById("controls");
    this.figures = [...document.querySelectorAll("figure[data-kind]")];
    this.charts = new Map();
    this.pending = new Set(this.figures);
    this.choose(0);
    this.watcher = new IntersectionObserver((seen) => this.see(seen), { rootMargin: "200px" });
    for (const figure of this.figures) {
      figure.addEventListener("change", () => this.render(figure));
      figure.querySelector("details").addEventListener("toggle", () => this.tabulate(figure));
      this.watcher.observe(figure);
    }
    this.resized = new ResizeObserver(() => this.later());
    this.resized.observe(document.getElementById("scans"));
  }

  get scan() {
    return this.content[this.chosen];
  }

  // Build the controls of a dataset: its architectures, seeds and ranks.
  choose(place) {
    this.chosen = place;
    const picker = document.getElementById("scan-picker");
    picker.replaceChildren(...this.content.map((scan, index) =>
      element("option", { value: index, selected: index === place }, scanName(scan, this.content))));
    const seeds = [...new Set(this.scan.architectures.flatMap((one) => one.runs.map((run) => run.seed)))];
    const most = Math.max(1, ...this.scan.architectures.flatMap((one) => one.runs.map((run) => run.signal.length)));
    const box = (kind, value, text) =>
      element("label", {}, element("input", { type: "checkbox", name: kind, value, checked: true }), ` ${text}`);
    document.getElementById("architectures").replaceChildren(
      element("legend", {}, "Architectures"),
      ...this.scan.architectures.map((one, place) => box("architecture", place, one.name)));
    document.getElementById("seeds").replaceChildren(
      element("legend", {}, "Seeds"), ...seeds.map((seed) => box("seed", seed, String(seed))));
    for (const [name, value] of [["rank-from", 0], ["rank-to", Math.min(most, 20)]]) {
      const input = document.getElementById(name);
      [input.min, input.max, input.value] = [0, most, value];
    }
    this.controls.onchange = (event) => {
      if (event.target === picker) this.choose(Number(picker.value));
      this.refresh();
    };
  }

  state() {
    const ticked = (name) => [...this.controls.querySelectorAll(`input[name=${name}]:checked`)].map((i) => Number(i.value));
    const number = (id) => Number(document.getElementById(id).value);
    return {
      architectures: ticked("architecture"), seeds: new Set(ticked("seed")),
      ranks: [number("rank-from"), number("rank-to")],
    };
  }

  refresh() {
    for (const figure of this.figures) this.pending.add(figure);
    for (const figure of this.figures) if (figure.dataset.seen) this.render(figure);
  }

  later() {
    clearTimeout(this.timer);
    const width = document.documentElement.clientWidth;
    this.timer = setTimeout(() => {
      if (this.width !== undefined && this.width !== width) this.refresh();
      this.width = width;
    }, 150);
  }

  see(entries) {
    for (const entry of entries) {
      entry.target.dataset.seen = entry.isIntersecting ? "yes" : "";
      if (entry.isIntersecting && this.pending.has(entry.target)) this.render(entry.target);
    }
  }

  // The lines of a figure, panel by panel: [{title, reason, lines}].
  panels(figure) {
    const kind = FIGURES[figure.dataset.kind], state = this.state();
    const choice = figure.querySelector("[name=threshold]")?.value;
    const chosen = state.architectures.map((place) => [place, this.scan.architectures[place]]);
    const runs = (architecture) => architecture.runs.filter((run) => state.seeds.has(run.seed));
    const within = (rank) => rank >= state.ranks[0] && rank <= state.ranks[1];
    const reasons = (architecture) => [...new Set(runs(architecture).map((r) => r.missing[figure.dataset.kind]).filter(Boolean))];
    const count = state.ranks[1] - Math.max(kind.first || 0, state.ranks[0]) + 1;
    const drawn = [];
    for (const [place, architecture] of chosen) {
      const lines = [];
      for (const run of runs(architecture)) {
        if (run.missing[figure.dataset.kind]) continue;
        if (!kind.panels) {
          const points = kind.points(run, choice).filter((point) => point[2] === undefined || within(point[2]));
          const name = (point) => named(architecture, run, point[2] === undefined ? "" : `, rank ${point[2]}`)();
          lines.push({ name, ...style(place), points, scatter: kind.scatter, width: 1.5 });
          continue;
        }
        kind.curves(run).forEach((points, index) => {
          const rank = index + kind.first;
          if (!within(rank) || !points.length) return;
          const shade = rankColour(rank - Math.max(kind.first, state.ranks[0]), count);
          lines.push({ name: named(architecture, run, `, ${kind.first ? "rank" : "K ="} ${rank}`), colour: shade, points });
        });
      }
      const reference = kind.panels && kind.reference && lines.length ? kind.reference(this.scan, architecture) : [];
      const kept = reference.filter((_, index) => within(index + kind.first));
      lines.push(...kept.map((points) => this.reference(points)));
      drawn.push({ title: architecture.name, reasons: reasons(architecture), lines });
    }
    const all = kind.panels ? drawn : [{
      title: "", lines: drawn.flatMap((panel) => panel.lines),
      reasons: drawn.flatMap((panel) => panel.reasons.map((reason) => `${panel.title}: ${reason}`)),
    }];
    for (const panel of all) {
      const points = panel.lines.filter((line) => !line.reference).flatMap((line) => line.points);
      if (!points.length) continue;
      if (kind.law) panel.lines.push(...kind.law(points).map((part) => this.reference(part)));
      if (!kind.panels && kind.reference)
        panel.lines.push(...kind.reference(this.scan).map((part) => this.reference(part.filter((p) => within(p[2])))));
      if (kind.level && figure.dataset.reference) {
        const x = points.map((point) => point[0]), level = Number(figure.dataset.reference);
        panel.lines.push(this.reference([[Math.min(...x), level], [Math.max(...x), level]]));
      }
    }
    return all;
  }

  reference(points) {
    return { points, reference: true, colour: colour("--ink"), dash: DASHED, width: 1 };
  }

  render(figure) {
    this.pending.delete(figure);
    const kind = FIGURES[figure.dataset.kind], grid = figure.querySelector(".panels");
    for (const chart of this.charts.get(figure) || []) chart.plot.destroy();
    const panels = this.panels(figure), log = (axis) => figure.querySelector(`[name=log-${axis}]`).checked;
    const heading = figure.querySelector("h3").textContent;
    const axes = { x: { ...kind.x, log: log("x") }, y: { ...kind.y, log: log("y") } };
    this.share(axes, panels, kind.panels);
    grid.classList.toggle("single", panels.length < 2);
    const charts = [];
    grid.replaceChildren(...panels.map((panel) => element("div", { class: "panel" },
      ...(panel.title ? [element("h4", {}, panel.title)] : []), element("div"),
      ...panel.reasons.map((reason) => element("p", { class: "missing" }, `Not drawn: ${reason}.`)))));
    panels.forEach((panel, place) => {
      const host = grid.children[place].querySelector("div");
      if (!panel.lines.length) return;
      const label = [heading, scanName(this.scan, this.content), panel.title].filter(Boolean).join(", ");
      charts.push(new Chart(host, { ...axes, label, lines: panel.lines, height: kind.panels ? 250 : 340 }));
    });
    if (!panels.length) grid.append(element("p", { class: "missing" }, "Choose an architecture to draw."));
    this.charts.set(figure, charts);
    this.explain(figure, kind, panels, axes);
    this.tabulate(figure);
  }

  // Panels side by side are compared, so they share their axes.
  share(axes, panels, several) {
    if (!several) return;
    const points = panels.flatMap((panel) => panel.lines.filter((l) => !l.reference).flatMap((line) => line.points));
    ["x", "y"].forEach((name, place) => {
      const axis = axes[name], values = points.map((p) => p[place]).filter((v) => v !== null && (!axis.log || v > 0));
      axis.range = extent(values, axis.log, axis.floor);
    });
  }

  explain(figure, kind, panels, axes) {
    const all = panels.flatMap((panel) => panel.lines.filter((line) => !line.reference).flatMap((line) => line.points));
    const lost = all.filter(([x, y]) => y !== null && ((axes.x.log && x <= 0) || (axes.y.log && y <= 0))).length;
    const note = figure.querySelector(".note");
    note.textContent = lost ? `${lost} values are not above 0 and have no place on a logarithmic axis.` : "";
    const key = figure.querySelector(".key");
    const swatch = (attributes, text) => element("span", {}, swatchOf(attributes), ` ${text}`);
    if (kind.panels) {
      const [from, to] = this.state().ranks, first = Math.max(kind.first, from);
      const ranks = Array.from({ length: Math.max(0, to - first + 1) }, (_, i) => i + first);
      key.replaceChildren(`${kind.first ? "rank" : "K"}: `,
        ...ranks.map((rank) => swatch({ colour: rankColour(rank - first, ranks.length) }, rank)));
    } else {
      key.replaceChildren(...this.state().architectures.map((place) =>
        swatch({ ...style(place), scatter: kind.scatter }, this.scan.architectures[place].name)));
    }
    if (panels.some((panel) => panel.lines.some((line) => line.reference)))
      key.append(swatch({ colour: colour("--ink"), dash: DASHED }, figure.dataset.reference));
  }

  // The same values as a table, for those who read instead of look.
  tabulate(figure) {
    const details = figure.querySelector("details"), host = details.querySelector("div");
    if (!details.open) return host.replaceChildren();
    const kind = FIGURES[figure.dataset.kind], rows = [];
    for (const panel of this.panels(figure))
      for (const line of panel.lines.filter((one) => !one.reference))
        for (const point of line.points) rows.push([line.name(point), shown(point[0]), shown(point[1])]);
    const most = 400, cells = (tag, row) => element("tr", {}, ...row.map((text) => element(tag, {}, text)));
    const more = `${rows.length - most} more values are in the tables beside this page.`;
    host.replaceChildren(
      element("table", {}, element("thead", {}, cells("th", ["run", kind.x.name, kind.y.name])),
        element("tbody", {}, ...rows.slice(0, most).map((row) => cells("td", row)))),
      ...(rows.length > most ? [element("p", {}, more)] : []));
  }
}

function swatchOf({ colour: stroke, dash, marker, scatter }) {
  const space = "http://www.w3.org/2000/svg", made = document.createElementNS(space, "svg");
  const width = scatter ? 14 : 26;
  for (const [name, value] of Object.entries({ width, height: 12, "aria-hidden": "true" })) made.setAttribute(name, value);
  const shape = document.createElementNS(space, "path");
  const marks = [
    "M11 6a4 4 0 1 1-8 0a4 4 0 1 1 8 0", "M3 2h8v8h-8z", "M7 1l5 9h-10z", "M7 1l5 5l-5 5l-5-5z", "M7 11l5-9h-10z",
    "M2 6h10M7 1v10", "M3 2l8 8M3 10l8-8",
  ];
  const attributes = {
    d: scatter ? marks[marker % marks.length] : "M0 6h26", stroke, fill: "none", "stroke-width": scatter ? 1.6 : 2.2,
    "stroke-dasharray": scatter || !dash ? "none" : dash.join(" "),
  };
  for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
  made.append(shape);
  return made;
}

function scanName(scan, all) {
  return new Set(all.map((one) => one.objective)).size > 1 ? `${scan.dataset}, ${scan.objective}` : scan.dataset;
}
