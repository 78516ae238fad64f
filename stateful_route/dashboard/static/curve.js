// Curves over the last minutes, as SVG.

import { lasting, timeOf } from "./text.js";

const SPACE = "http://www.w3.org/2000/svg";
const LEFT = 2.6, BOTTOM = 1.3, TOP = 0.5, RIGHT = 0.3; // in rem
const LEAST_SPAN = 60;

function drawn(tag, attributes, text) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function nice(value) {
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((one) => one * size).find((one) => one >= value * 0.999);
}

export class Curve {
  // `lines` are places in a point, `low` the least value, `least` how high the scale is at least.
  constructor(svg, lines, { low, least, format }) {
    Object.assign(this, { svg, lines, low, least, format });
    this.width = svg.clientWidth;
    this.height = svg.clientHeight;
    new ResizeObserver(() => {
      this.width = svg.clientWidth;
      this.height = svg.clientHeight;
      if (this.last) this.draw(...this.last);
    }).observe(svg);
  }

  draw(points, now, interval, marks) {
    this.last = [points, now, interval, marks];
    if (!this.width || now === null) return;
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const [left, bottom, top, right] = [LEFT, BOTTOM, TOP, RIGHT].map((size) => size * rem);
    const span = Math.max(LEAST_SPAN, points.length ? now - points[0][0] : 0);
    const most = Math.max(...this.lines.flatMap((at) => points.map((point) => point[at] ?? 0)), 0);
    const high = this.low + Math.max(this.least, most > this.low ? nice(most - this.low) : 0);
    const x = (at) => left + (1 - (now - at) / span) * (this.width - left - right);
    const y = (value) => top + (1 - (value - this.low) / (high - this.low)) * (this.height - top - bottom);
    const parts = [];
    for (const value of [this.low, (this.low + high) / 2, high]) {
      parts.push(drawn("line", { class: "grid", x1: left, x2: this.width, y1: y(value), y2: y(value) }));
      parts.push(drawn("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, this.format(value)));
    }
    parts.push(drawn("text", { x: left, y: this.height - 3 }, `${lasting(span)} ago`));
    parts.push(drawn("text", { x: this.width - right, y: this.height - 3, "text-anchor": "end" }, timeOf(now)));
    for (const mark of marks) {
      if (mark.at < now - span) continue;
      const at = x(mark.at).toFixed(1);
      parts.push(drawn("line", { class: `mark ${mark.look}`, x1: at, x2: at, y1: top, y2: this.height - bottom }));
    }
    this.lines.forEach((line, number) => {
      parts.push(drawn("path", { class: "ab"[number], d: this.path(points, line, interval, x, y) }));
    });
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.replaceChildren(...parts);
  }

  // Where nothing is known the line has a gap.
  path(points, line, interval, x, y) {
    let path = "", before = null;
    for (const point of points) {
      if (point[line] === null) {
        before = null;
        continue;
      }
      const joined = before !== null && point[0] - before < 5 * interval + 2;
      path += `${joined ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[line]).toFixed(1)}`;
      if (!joined) path += "h0.1";
      before = point[0];
    }
    return path;
  }
}
