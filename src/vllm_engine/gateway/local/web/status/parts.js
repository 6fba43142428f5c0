// Pieces of the status and the API reference: what is drawn only when it has changed, tables, meters, codes.

import { h } from "../lib/dom.js";
import { percent } from "../lib/format.js";

const TROUBLESHOOTING = "https://github.com/vllm-engine/vllm-engine/blob/main/docs/operate/troubleshooting.md";

/** A node whose children are drawn from a value, and left alone while it is the same: no selection is lost. */
export class Part {
  constructor(node, draw) {
    Object.assign(this, { node, draw, shown: null });
  }

  update(value) {
    const digest = JSON.stringify(value);
    if (digest === this.shown) return;
    this.shown = digest;
    this.node.replaceChildren(...this.draw(value));
  }
}

/** A table; columns are `[name, isNumber]`, cells are text or nodes. */
export function table(label, columns, rows) {
  const classes = columns.map(([, isNumber]) => (isNumber ? "right" : undefined));
  return h("table", { class: "figures", "aria-label": label },
    h("thead", {}, h("tr", {}, ...columns.map(([name], at) => h("th", { scope: "col", class: classes[at] }, name)))),
    h("tbody", {}, ...rows.map((cells) => h("tr", {}, ...cells.map((cell, at) => h("td", { class: classes[at] }, cell))))));
}

/** A bar that is full to a share of 1, with what it is and what it says; `warns` once it is nearly full. */
export function meter(name, share, text, { warns = false } = {}) {
  const known = share !== null && Number.isFinite(share);
  const bar = h("div", { class: "meter", role: "meter", "aria-label": name, "aria-valuemin": "0", "aria-valuemax": "100",
    "aria-valuenow": String(known ? Math.round(share * 100) : 0), "aria-valuetext": text, "data-full": warns && known && share > 0.9 });
  if (known) bar.style.setProperty("--share", percent(Math.min(share, 1)).replace(" ", ""));
  return h("div", { class: "gauge" }, h("div", { class: "gauge-head" }, h("span", {}, name), h("span", {}, text)), bar);
}

/** A diagnosis' code, which leads to its entry in the documentation if it is one of the catalogue's. */
export function codeLink(code) {
  if (!/^[a-z0-9]+(-[a-z0-9]+)*$/.test(code)) return h("code", {}, code);
  return h("a", { href: `${TROUBLESHOOTING}#${code}`, target: "_blank", rel: "noopener noreferrer" }, h("code", {}, code));
}
