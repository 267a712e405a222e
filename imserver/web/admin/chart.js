/** Small line charts that move: a few series over the last minutes, drawn as SVG. */

import { element, shown } from "./dom.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 120;
const FLOOR = HEIGHT - 4;
const CEILING = 16;
/** Points that are kept: five minutes at one a second. */
export const POINTS = 300;

function shape(tag, attributes) {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** 1, 2 or 5 times a power of ten, at least as much as `value`: a scale that does not jump with each point. */
export function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((nice) => nice >= value);
}

export class Chart {
  /**
   * @param {string} title
   * @param {string[]} names of the series, three at most
   * @param {string} unit shown behind the newest values
   */
  constructor(title, names, unit) {
    this.series = names.map(() => []);
    this.unit = unit;
    this.lines = names.map((_, index) => shape("polyline", { class: `series-${index}` }));
    this.top = shape("text", { x: 2, y: 11 });
    const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    svg.append(shape("line", { class: "axis", x1: 0, x2: WIDTH, y1: FLOOR, y2: FLOOR }),
      shape("line", { class: "axis", x1: 0, x2: WIDTH, y1: CEILING, y2: CEILING }), ...this.lines);
    this.values = names.map(() => element("b", { text: "–" }));
    this.scale = element("small", { text: "" });
    const legend = element("div", { class: "legend" }, ...names.map((name, index) =>
      element("span", { class: `series-${index}` }, `${name} `, this.values[index])), this.scale);
    this.node = element("div", { class: "card chart" }, element("h2", { text: title }), svg, legend);
  }

  /** @param {(number|null)[]} values one a series */
  push(values) {
    values.forEach((value, index) => {
      const series = this.series[index];
      series.push(value);
      if (series.length > POINTS) series.shift();
      this.values[index].textContent = `${shown(value)} ${this.unit}`;
    });
    this.draw();
  }

  draw() {
    const largest = niceCeiling(Math.max(0, ...this.series.flat().filter((value) => value !== null)));
    this.scale.textContent = `scale 0–${shown(largest)}`;
    this.series.forEach((series, index) => {
      const points = [];
      series.forEach((value, at) => {
        if (value === null) return;
        const x = WIDTH - (series.length - 1 - at) * (WIDTH / (POINTS - 1));
        const y = FLOOR - (value / largest) * (FLOOR - CEILING);
        points.push(`${x.toFixed(1)},${y.toFixed(1)}`);
      });
      this.lines[index].setAttribute("points", points.join(" "));
    });
  }
}
