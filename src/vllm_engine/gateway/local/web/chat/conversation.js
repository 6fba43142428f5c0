// The conversation and its options: stored in this browser, and turned into requests.

import { base } from "../lib/api.js";
import { store } from "../lib/dom.js";
import { sent } from "./content.js";
import { bodyOf } from "./options.js";

// Several servers may stand behind one address, each with its own prefix.
const KEY = `vllm-engine.chat ${base.pathname}`;

export class Conversation {
  constructor() {
    const kept = store.get(KEY, {});
    this.messages = Array.isArray(kept.messages) ? kept.messages.filter(isMessage) : [];
    this.options = typeof kept.options === "object" && kept.options ? kept.options : {};
  }

  keep() {
    store.set(KEY, { messages: this.messages, options: this.options });
  }

  clear() {
    this.messages = [];
    this.keep();
  }

  /** Delete everything from a message on. */
  cut(index) {
    this.messages.length = Math.min(index, this.messages.length);
  }

  /** Return the body of a request for the answer to the first `count` messages. */
  body(model, count = this.messages.length) {
    const { system } = this.options;
    const messages = [
      ...(system?.trim() ? [{ role: "system", content: system }] : []),
      ...this.messages.slice(0, count).map(sent).filter(Boolean),
    ];
    return { model, messages, ...bodyOf(this.options) };
  }
}

const isMessage = (message) =>
  (message?.role === "user" || message?.role === "assistant") && typeof message.content === "string";
