// The charts of what components declare; a page where none declares any goes without this file.
"use strict";

// The heading has the whole label; an axis is as long as its chart is high.
const shortened = (text, most) => (text.length > most ? `${text.slice(0, most - 1).trimEnd()}…` : text);
const TEMPERATURE = { name: "temperature T", short: "T", log: true };

// What a chart draws, from what the page says of it: as in FIGURES.
function declaredFigure({ declared, label, quantity, over, first }) {
  const most = over === "temperature-and-rank" ? 30 : 44;
  const y = { name: shortened(label, most), short: quantity }, of = (run) => run.declared[declared];
  if (over === "temperature") return { x: TEMPERATURE, y, points: (run) => pairs(of(run).x, of(run).y) };
  if (over === "rank")
    return {
      x: { name: "rank k", short: "k" }, y,
      points: (run) => of(run).x.map((rank, place) => [rank, of(run).y[place], rank]),
    };
  return { x: TEMPERATURE, y, panels: true, first: Number(first), curves: (run) => curvesOf(of(run).x, of(run).y) };
}

const DECLARED = [...document.querySelectorAll("[data-declared]")].map((frame) => frame.dataset);
for (const one of DECLARED) FIGURES[one.declared] = declaredFigure(one);

// A suite may declare more ranks than it has signal fractions of; the choice of ranks reaches them too.
Scans = class extends Scans {
  choose(place) {
    super.choose(place);
    const runs = this.scan.architectures.flatMap((architecture) => architecture.runs);
    const last = ({ declared, over, first }) => Math.max(0, ...runs.map((run) => {
      const { x, y } = run.declared[declared];
      return over === "rank" ? Math.max(0, ...x) : over === "temperature" ? 0 : y.length - 1 + Number(first);
    }));
    const to = document.getElementById("rank-to"), most = Math.max(Number(to.max), ...DECLARED.map(last));
    if (most === Number(to.max)) return;
    document.getElementById("rank-from").max = to.max = most;
    to.value = Math.min(most, 20);
  }
};
