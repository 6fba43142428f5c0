// The engine's last failures, each with its diagnosis.

import { h } from "../lib/dom.js";
import { sentence } from "../lib/format.js";
import { codeLink } from "./parts.js";

export function drawFailures({ failures }) {
  if (!failures.length) return [h("p", { class: "small" }, "None since this server was started.")];
  return failures.map(({ time, start, is_final: isFinal, code, message, remedy }) => h("article", { class: "past" },
    h("header", {},
      h("time", { datetime: time }, new Date(time).toLocaleString()),
      h("span", {}, `start ${start}`),
      isFinal ? h("span", { class: "final" }, "not tried again") : null,
      h("span", { class: "grow" }), codeLink(code)),
    h("p", {}, sentence(message)),
    remedy ? h("p", { class: "small" }, h("strong", {}, "What to do: "), sentence(remedy)) : null));
}
