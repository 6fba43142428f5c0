// Every setting in effect and where it comes from; those at their defaults are folded away.

import { h } from "../lib/dom.js";
import { dash, plural } from "../lib/format.js";
import { table } from "./parts.js";

export function drawSettings({ settings }) {
  const [chosen, defaults] = [false, true].map((wanted) => settings.filter(({ source }) => (source === "default") === wanted));
  return [
    chosen.length ? rows("Settings that were set or derived", chosen) : h("p", { class: "small" }, "Nothing was set."),
    h("details", {}, h("summary", {}, `${plural(defaults.length, "setting")} at the default`), rows("Settings at their defaults", defaults)),
  ];
}

const rows = (label, settings) => table(label, [["Setting"], ["Value"], ["Source"]],
  settings.map(({ name, value, source }) => [h("code", {}, name), h("code", {}, value || dash), source]));
