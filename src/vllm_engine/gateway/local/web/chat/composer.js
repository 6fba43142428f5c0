// Where a message is typed, sent and stopped.

import { announce, byId, h, setText } from "../lib/dom.js";
import { number, percent } from "../lib/format.js";

export class Composer {
  #field = byId("prompt");
  #canSend = () => false;
  #typed = () => {};

  /** `check` says whether a message may go, and shows what keeps it; `typed` is told of every change of the draft. */
  constructor({ canSend, check, send, stop, typed }) {
    this.#canSend = canSend;
    this.#typed = typed;
    const submit = () => {
      if (!this.text) return;
      if (!canSend()) return void this.pointOut();
      if (!check()) return;
      const { text } = this;
      this.text = "";
      send(text);
      // Where it was the button, that is gone now.
      this.focus();
    };
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      submit();
    });
    this.#field.addEventListener("keydown", (event) => {
      // While an input method composes, it handles Enter.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      submit();
    });
    this.#field.addEventListener("input", () => {
      typed(this.#field.value);
      this.#grow();
    });
    // Hidden, it has no height; narrower, it may need more lines.
    new ResizeObserver(() => this.#grow()).observe(byId("composer"));
    byId("stop").addEventListener("click", () => {
      stop();
      this.focus();
    });
    document.addEventListener("keydown", (event) => {
      // There it closes, empties or leaves what has the focus, and no more.
      const isTaken = document.querySelector("dialog[open]") || event.target.closest("#conversations, #options, .edit");
      if (event.key === "Escape" && !isTaken) stop();
    });
  }

  get text() {
    return this.#field.value.trim();
  }

  set text(text) {
    this.#field.value = text;
    this.#grow();
  }

  /** Write a draft for the reader. */
  propose(text) {
    this.text = text;
    this.#typed(text);
    this.focus();
  }

  focus() {
    this.#field.focus();
  }

  /** Say why nothing can be sent, with what helps: { text, help?: { label, run } or { label, href } }. */
  note(note) {
    const notice = byId("notice");
    notice.hidden = !note;
    if (!note || notice.firstChild?.textContent === note.text) return;
    const { text, help } = note;
    const way = help?.href ? h("a", { href: help.href }, help.label) : help && h("button", { type: "button", class: "link", onclick: help.run }, help.label);
    notice.replaceChildren(...[h("span", {}, text), way && " ", way].filter(Boolean));
  }

  /** Point to what was noted: a button was pressed that cannot do its work now. */
  pointOut() {
    const notice = byId("notice");
    if (notice.hidden) return;
    announce(notice.textContent);
    notice.animate([{ opacity: 0 }, { opacity: 1 }], { duration: 300, iterations: 2 });
  }

  /** Show Send or Stop. */
  update({ isRunning }) {
    byId("send").hidden = isRunning;
    byId("stop").hidden = !isRunning;
    byId("send").disabled = !this.#canSend() || !this.text;
  }

  /** Show how fast the answer comes, and how much of the context is used. */
  count(messages, { isRunning, limit }) {
    const last = messages.findLast(({ stats }) => stats?.total)?.stats;
    const rate = isRunning ? messages.at(-1).stats?.rate : null;
    const share = last && limit ? last.total / limit : 0;
    setText(byId("rate"), rate ? `${number(rate)} tokens/s` : "");
    const used = last ? `${number(last.total)}${limit ? ` of ${number(limit)}` : ""} tokens` : "";
    setText(byId("context"), used && limit ? `Context: ${used} (${percent(share)})` : used);
    byId("context").dataset.tone = share >= 0.9 ? "warn" : "quiet";
  }

  #grow() {
    this.#field.style.height = "auto";
    this.#field.style.height = `${Math.min(this.#field.scrollHeight, 240)}px`;
    byId("send").disabled = !this.#canSend() || !this.text;
  }
}
