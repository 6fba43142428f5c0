// "Copy as code": the next request in the languages of snippets.js.

import { address } from "../lib/api.js";
import { byId, copy, h } from "../lib/dom.js";
import { highlight } from "./highlight.js";
import { snippets } from "./snippets.js";

export function connectCodeDialog({ nextBody, needsKey, check }) {
  const dialog = byId("code-dialog");
  const buttons = Object.keys(snippets).map((name) =>
    h("button", { type: "button", class: "tab", "aria-pressed": "false", onclick: () => choose(name) }, name));
  byId("code-languages").append(...buttons);
  const choose = (name) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.textContent === name));
    const { make, language } = snippets[name];
    const code = make(address("v1/chat/completions"), nextBody(), needsKey());
    byId("code").replaceChildren(highlight(code, language));
  };
  byId("copy-code").addEventListener("click", () => {
    if (!check()) return;
    choose("curl");
    dialog.showModal();
  });
  byId("code-close").addEventListener("click", () => dialog.close());
  byId("code-copy").addEventListener("click", (event) => copy(byId("code").textContent, event.currentTarget));
}
