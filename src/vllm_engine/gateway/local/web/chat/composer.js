// Where a message is typed, sent and stopped.

import { byId, h } from "../lib/dom.js";

export class Composer {
  #field = byId("prompt");
  #canSend = () => false;

  /** `check` says whether a message may go, and shows what keeps it. */
  constructor({ canSend, check, send, stop }) {
    this.#canSend = canSend;
    const submit = () => {
      if (!this.text || !canSend() || !check()) return;
      const { text } = this;
      this.text = "";
      send(text);
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
    this.#field.addEventListener("input", () => this.#grow());
    byId("stop").addEventListener("click", stop);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop();
    });
  }

  get text() {
    return this.#field.value.trim();
  }

  set text(text) {
    this.#field.value = text;
    this.#grow();
  }

  focus() {
    this.#field.focus();
  }

  /** Say why nothing can be sent. */
  note(text) {
    const notice = byId("notice");
    notice.hidden = !text;
    if (text) notice.replaceChildren(text, " ", h("a", { href: "#status" }, "See its status"));
  }

  /** Show Send or Stop. */
  update({ isRunning }) {
    byId("send").hidden = isRunning;
    byId("stop").hidden = !isRunning;
    byId("send").disabled = !this.#canSend() || !this.text;
  }

  #grow() {
    this.#field.style.height = "auto";
    this.#field.style.height = `${Math.min(this.#field.scrollHeight, 240)}px`;
    byId("send").disabled = !this.#canSend() || !this.text;
  }
}
