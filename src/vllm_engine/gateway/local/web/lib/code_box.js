// Code with what it is and a button that copies it.

import { copy, h } from "./dom.js";

/** Returns the box and the node of the code, which is to be filled; `copyName` is the button's accessible name. */
export function codeBox(title, label, copyName = `Copy: ${title}`) {
  const code = h("code");
  const button = h("button", { type: "button", class: "plain", "aria-label": copyName, onclick: (event) => copy(code.textContent, event.currentTarget) }, "Copy");
  const node = h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, title), button),
    h("pre", { tabindex: "0", role: "region", "aria-label": label }, code));
  return { node, code };
}
