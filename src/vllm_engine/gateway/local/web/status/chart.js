// A small line chart over the last fifteen minutes, in SVG, with gaps.

import { h, setText, svg } from "../lib/dom.js";
import { dash, span } from "../lib/format.js";

const WIDTH = 300;
const HEIGHT = 90;
const STEPS = [1, 2, 2.5, 5, 10];

function niceTop(value) {
  if (!(value > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return size * STEPS.find((step) => step * size >= value * 0.999);
}

export class Chart {
  /**
   * @param title what is plotted
   * @param format turns a value into text with its unit
   * @param lines `{name, column, sum}` of each line; the first is the one whose value is shown large
   * @param top the fixed upper end of the axis, if any
   * @param least the lowest upper end of the axis
   */
  constructor({ title, about, format, lines, top, least = 0 }) {
    Object.assign(this, { title, format, lines, top, least });
    this.now = h("span", { class: "now" }, dash);
    this.high = h("span", { class: "high" });
    this.paths = lines.map((_, index) => svg("path", { class: `line line-${index}` }));
    this.dots = lines.map((_, index) => svg("path", { class: `dots dots-${index}` }));
    this.area = svg("path", { class: "area" });
    this.cross = svg("path", { class: "cross" });
    this.picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      svg("path", { class: "grid", d: `M0 .5H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }),
      this.area, this.cross, ...this.paths.toReversed(), ...this.dots.toReversed());
    this.tip = h("div", { class: "tip", hidden: true });
    this.plot = h("div", { class: "plot" }, this.picture, this.high, h("span", { class: "low" }, "0"), this.tip);
    const legend = lines.length > 1
      ? h("ul", { class: "legend" }, ...lines.map(({ name }, index) => h("li", { class: `key-${index}` }, name)))
      : h("p", { class: "legend" }, about);
    this.node = h("article", { class: "card chart" },
      h("header", {}, h("h3", {}, title), this.now),
      this.plot,
      h("div", { class: "axis", "aria-hidden": "true" }, h("span", {}, "15 min ago"), h("span", {}, "now")),
      legend);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.unpoint());
  }

  update(history) {
    this.ages = history.age_seconds;
    this.window = history.window_seconds;
    this.interval = history.interval_seconds;
    this.values = this.lines.map(({ column }) => history[column]);
    const highest = Math.max(this.least, ...this.values.flat().filter((value) => value !== null));
    const top = this.top ?? niceTop(highest);
    this.y = (value) => HEIGHT - 1 - (Math.min(value, top) / top) * (HEIGHT - 2);
    this.x = (index) => WIDTH * (1 - this.ages[index] / this.window);
    this.values.forEach((values, index) => {
      this.paths[index].setAttribute("d", this.path(values, false));
      this.dots[index].setAttribute("d", this.alone(values));
    });
    this.area.setAttribute("d", this.path(this.values[0], true));
    setText(this.high, this.format(top));
    const latest = this.latest(this.values[0]);
    setText(this.now, latest === null ? dash : this.format(latest));
    this.picture.setAttribute("aria-label", this.summary(latest));
  }

  latest(values) {
    const at = values.findLastIndex((value) => value !== null);
    return at === -1 || this.ages[at] > 60 ? null : values[at];
  }

  summary(latest) {
    const known = this.values[0].filter((value) => value !== null);
    if (!known.length) return `${this.title}: nothing yet`;
    const now = latest === null ? "nothing just now" : `${this.format(latest)} now`;
    return `${this.title}: ${now}, at most ${this.format(Math.max(...known))} in the last fifteen minutes`;
  }

  path(values, closed) {
    let path = "";
    let start = null;
    const end = () => {
      if (start !== null && closed) path += `V${HEIGHT}H${start.toFixed(1)}Z`;
      start = null;
    };
    values.forEach((value, index) => {
      if (!this.joins(values, index)) end();
      if (value === null) return;
      const x = this.x(index);
      path += `${start === null ? "M" : "L"}${x.toFixed(1)} ${this.y(value).toFixed(1)}`;
      start ??= x;
    });
    end();
    return path;
  }

  /** Return whether a value and the one before it are joined. */
  joins(values, index) {
    return index > 0 && index < values.length && values[index - 1] !== null && values[index] !== null &&
      this.ages[index - 1] - this.ages[index] <= 3 * this.interval;
  }

  /** Return a dot for each value that no line leads to. */
  alone(values) {
    return values.map((value, index) => (value === null || this.joins(values, index) || this.joins(values, index + 1)
      ? "" : `M${this.x(index).toFixed(1)} ${this.y(value).toFixed(1)}h0`)).join("");
  }

  point(event) {
    if (!this.ages?.length) return;
    const box = this.plot.getBoundingClientRect();
    const age = (1 - (event.clientX - box.left) / box.width) * this.window;
    let best = 0;
    this.ages.forEach((one, index) => {
      if (Math.abs(one - age) < Math.abs(this.ages[best] - age)) best = index;
    });
    const x = this.x(best);
    this.cross.setAttribute("d", `M${x.toFixed(1)} 0V${HEIGHT}`);
    const values = this.lines.map(({ name }, index) => {
      const value = this.values[index][best];
      return `${this.lines.length > 1 ? `${name} ` : ""}${value === null ? dash : this.format(value)}`;
    });
    this.tip.textContent = `${values.join(", ")} · ${span(this.ages[best])} ago`;
    this.tip.hidden = false;
    this.tip.classList.toggle("left", x > WIDTH / 2);
    this.tip.style.setProperty("--x", `${(x / WIDTH) * 100}%`);
  }

  unpoint() {
    this.tip.hidden = true;
    this.cross.setAttribute("d", "");
  }
}
