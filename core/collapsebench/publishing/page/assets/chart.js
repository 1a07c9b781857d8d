// One chart: lines or points over two axes, linear or logarithmic, with the value under pointer or arrow keys.
"use strict";

const shown = (value) => (value === null || value === undefined ? "none" : String(Number(value.toPrecision(6))));
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// Ticks of an axis from low to high: decades, or 1, 2 and 5 in each where there are few; round steps where linear.
function ticks(low, high, log, most) {
  if (log) {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    const few = Math.log10(high / low) < 2.2, step = Math.ceil((last - first) / most);
    const found = [];
    for (let power = first; power <= last; power += 1)
      for (const digit of few ? [1, 2, 5] : [1]) if (few || power % step === 0) found.push(Number(`${digit}e${power}`));
    const inside = found.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
    if (inside.length > 1) return inside;
  }
  const rough = (high - low) / most, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * size).find((candidate) => candidate >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step)
    found.push(Number(tick.toPrecision(12)));
  return found;
}

function extent(values, log, floor = null) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low === Infinity) return log ? [0.1, 1] : [0, 1];
  if (log) return low === high ? [low / 2, high * 2] : [low * (low / high) ** 0.03, high * (high / low) ** 0.03];
  const pad = (high - low || Math.abs(high) || 1) * 0.04;
  return [floor === null ? low - pad : Math.min(floor, low) - pad, high + pad];
}

const MARKERS = [
  (c, x, y, r) => c.arc(x, y, r, 0, 2 * Math.PI),
  (c, x, y, r) => c.rect(x - r * 0.9, y - r * 0.9, 1.8 * r, 1.8 * r),
  (c, x, y, r) => polygon(c, [[x, y - 1.2 * r], [x + 1.1 * r, y + 0.9 * r], [x - 1.1 * r, y + 0.9 * r]]),
  (c, x, y, r) => polygon(c, [[x, y - 1.3 * r], [x + 1.3 * r, y], [x, y + 1.3 * r], [x - 1.3 * r, y]]),
  (c, x, y, r) => polygon(c, [[x, y + 1.2 * r], [x + 1.1 * r, y - 0.9 * r], [x - 1.1 * r, y - 0.9 * r]]),
  (c, x, y, r) => cross(c, [[x - r, y], [x + r, y], [x, y - r], [x, y + r]]),
  (c, x, y, r) => cross(c, [[x - r, y - r], [x + r, y + r], [x - r, y + r], [x + r, y - r]]),
];

function polygon(context, corners) {
  context.moveTo(...corners[0]);
  for (const corner of corners.slice(1)) context.lineTo(...corner);
  context.closePath();
}

function cross(context, ends) {
  ends.forEach((end, place) => (place % 2 ? context.lineTo(...end) : context.moveTo(...end)));
}

// spec: label, x and y {name, log, floor}, lines [{name, colour, dash, width, marker, points [[x, y]], scatter,
// reference, text(point) -> [[name, value]]}]. Points with y null are gaps. A reference cannot be read out.
class Chart {
  constructor(host, spec) {
    this.host = host;
    this.spec = spec;
    const fits = ([x, y]) => y === null || ((!spec.x.log || x > 0) && (!spec.y.log || y > 0));
    this.lines = spec.lines.map((line) => ({ ...line, points: line.points.filter(fits) }));
    const read = this.lines.filter((line) => !line.reference);
    const known = (read.length ? read : this.lines).flatMap((line) => line.points.filter((point) => point[1] !== null));
    this.ranges = [
      spec.x.range || extent(known.map((point) => point[0]), spec.x.log, spec.x.floor),
      spec.y.range || extent(known.map((point) => point[1]), spec.y.log, spec.y.floor),
    ];
    this.tip = element("div", { class: "tip", hidden: true });
    this.spoken = element("div", { class: "unseen", "aria-live": "polite" });
    host.replaceChildren();
    host.classList.add("chart");
    this.draw();
    host.append(this.tip, this.spoken);
    host.setAttribute("tabindex", "0");
    host.setAttribute("role", "group");
    host.setAttribute("aria-label", `${spec.label}. Arrow keys read the values.`);
    host.onkeydown = (event) => this.step(event);
    host.onblur = () => this.point(null);
  }

  draw() {
    if (this.plot) this.plot.destroy();
    const drawn = this.lines.filter((line) => !line.scatter);
    const xs = [...new Set(drawn.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
    if (!xs.length) xs.push(...this.ranges[0]);
    const place = new Map(xs.map((x, index) => [x, index]));
    const data = [xs, ...drawn.map((line) => {
      const column = new Array(xs.length);  // undefined: this line has no point here; null: a gap
      for (const [x, y] of line.points) column[place.get(x)] = y;
      return column;
    })];
    const ink = colour("--ink-soft"), grid = colour("--grid");
    const axis = (side, range, log, name, most) => ({
      side, stroke: ink, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", label: name,
      labelSize: 20, size: side === 3 ? 52 : 34, gap: 4, grid: { stroke: grid, width: 1 },
      ticks: { stroke: grid, width: 1, size: 5 }, splits: () => ticks(...range, log, most),
      filter: (plot, splits) => splits, values: (plot, splits) => splits.map(tickText),
    });
    const scale = (range, log) => ({ time: false, distr: log ? 3 : 1, log: 10, auto: false, range: () => range });
    const { x, y } = this.spec;
    const width = Math.max(240, this.host.clientWidth), height = this.spec.height || 260;
    this.plot = new uPlot({
      width, height, legend: { show: false }, padding: [10, 12, 0, 0],
      scales: { x: scale(this.ranges[0], x.log), y: scale(this.ranges[1], y.log) },
      axes: [
        axis(2, this.ranges[0], x.log, x.name, Math.max(3, Math.floor(width / 75))),
        axis(3, this.ranges[1], y.log, y.name, 6),
      ],
      cursor: { x: false, y: false, points: { show: false }, drag: { x: false, y: false, setScale: false } },
      series: [{}, ...drawn.map((line) => ({
        stroke: line.colour, width: line.width || 1.25, dash: line.dash, spanGaps: false,
        points: { show: !line.reference && line.points.length < 40, size: 4, width: 0, fill: line.colour },
      }))],
      hooks: { draw: [(plot) => this.drawPoints(plot)], setCursor: [(plot) => this.follow(plot)] },
    }, data, this.host);
  }

  drawPoints(plot) {
    const context = plot.ctx, ratio = uPlot.pxRatio;
    const at = ([x, y]) => [plot.valToPos(x, "x", true), plot.valToPos(y, "y", true)];
    context.save();  // uPlot counts on the context being as it left it
    context.setLineDash([]);
    for (const line of this.lines.filter((one) => one.scatter)) {
      context.strokeStyle = line.colour;
      context.lineWidth = 1.6 * ratio;
      for (const point of line.points.filter((one) => one[1] !== null)) {
        context.beginPath();
        MARKERS[(line.marker || 0) % MARKERS.length](context, ...at(point), 4.5 * ratio);
        context.stroke();
      }
    }
    if (this.at) {
      const { line, point } = this.at;
      context.beginPath();
      context.strokeStyle = line.colour;
      context.lineWidth = 3 * ratio;
      if (!line.scatter) for (const one of line.points) if (one[1] !== null) context.lineTo(...at(one));
      context.stroke();
      context.beginPath();
      context.strokeStyle = colour("--ink");
      context.lineWidth = 2 * ratio;
      context.arc(...at(point), 6 * ratio, 0, 2 * Math.PI);
      context.stroke();
    }
    context.restore();
  }

  readable() {
    const found = [];
    this.lines.forEach((line) => {
      const points = line.reference ? [] : line.points.filter((point) => point[1] !== null);
      if (points.length) found.push({ line, points });
    });
    return found;
  }

  follow(plot) {
    const { left, top } = plot.cursor;
    if (left === undefined || left < 0) return this.point(null);
    let best = null, least = 30 ** 2;
    for (const { line, points } of this.readable())
      for (const point of points) {
        const away = (plot.valToPos(point[0], "x") - left) ** 2 + (plot.valToPos(point[1], "y") - top) ** 2;
        if (away < least) [best, least] = [{ line, point }, away];
      }
    this.point(best);
  }

  step(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape") return this.point(null);
    const move = moves[event.key], all = this.readable();
    if (!move || !all.length) return;
    event.preventDefault();
    let row = Math.max(0, all.findIndex(({ line }) => this.at && line === this.at.line));
    let column = this.at ? all[row].points.indexOf(this.at.point) + move[0] : 0;
    if (this.at) row = Math.min(all.length - 1, Math.max(0, row + move[1]));
    column = Math.min(all[row].points.length - 1, Math.max(0, column));
    this.point({ line: all[row].line, point: all[row].points[column] });
    this.spoken.textContent = this.tip.textContent;
  }

  point(found) {
    if (this.at === found || (this.at && found && this.at.point === found.point)) return;
    this.at = found;
    this.tip.hidden = !found;
    this.plot.redraw(false);
    if (!found) return;
    const rows = [[this.spec.x.short, shown(found.point[0])], [this.spec.y.short, shown(found.point[1])]];
    this.tip.replaceChildren(
      element("strong", {}, found.line.name(found.point)),
      ...rows.map(([name, value]) => element("span", {}, ` ${name} = `, element("b", { "data-name": name }, value))),
    );
    const left = this.plot.valToPos(found.point[0], "x") + this.plot.over.offsetLeft;
    const top = this.plot.valToPos(found.point[1], "y") + this.plot.over.offsetTop;
    const width = this.tip.offsetWidth;
    const side = left + 14 + width > this.host.clientWidth ? Math.max(0, left - 14 - width) : left + 14;
    this.tip.style.left = `${side}px`;
    this.tip.style.top = `${top < 90 ? top + 12 : top - 12 - this.tip.offsetHeight}px`;
  }
}

function tickText(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e5) return String(Number(value.toPrecision(6)));
  const power = Math.floor(Math.log10(size) + 1e-9), digit = Number((value / 10 ** power).toPrecision(3));
  const raised = String(power).replace("-", "⁻").replace(/\d/g, (one) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[one]);
  return digit === 1 ? `10${raised}` : `${digit}·10${raised}`;
}
