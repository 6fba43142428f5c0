// The conversation and its options: stored in this browser, and turned into requests.

import { base } from "../lib/api.js";
import { store } from "../lib/dom.js";

// Several servers may stand behind one address, each with its own prefix.
const KEY = `vllm-engine.chat ${base.pathname}`;
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

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
    const { system, stop, json } = this.options;
    const said = this.messages.slice(0, count).filter(({ content }) => content);
    const body = {
      model,
      messages: [
        ...(system?.trim() ? [{ role: "system", content: system }] : []),
        ...said.map(({ role, content }) => ({ role, content })),
      ],
    };
    for (const name of NUMBERS) {
      const value = Number.parseFloat(this.options[name]);
      if (Number.isFinite(value)) body[name] = name === "temperature" || name === "top_p" ? value : Math.trunc(value);
    }
    const stops = (stop ?? "").split("\n").filter((line) => line !== "");
    if (stops.length) body.stop = stops;
    if (json) body.response_format = { type: "json_object" };
    return body;
  }
}

const isMessage = (message) =>
  (message?.role === "user" || message?.role === "assistant") && typeof message.content === "string";
