// The chat view: sends, streams, stops, edits. Conversation has the content, message.js the appearance.

import { ApiError, address, streamChat } from "../lib/api.js";
import { Conversation } from "./conversation.js";
import { announce, byId, copy, h } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { highlight } from "./highlight.js";
import { AnswerView, userMessage } from "./message.js";
import { snippets } from "./snippets.js";

const NEAR = 80;
const IDEAS = [
  "Explain what a KV cache is, in three sentences.",
  "Write a Python function that reverses a linked list.",
  "Make a table of three planets and their diameters.",
];

export class ChatView {
  constructor({ onUnauthorized, needsKey }) {
    this.conversation = new Conversation();
    this.onUnauthorized = onUnauthorized;
    this.needsKey = needsKey;
    this.model = "";
    this.isReady = false;
    this.running = null;
    this.prompt = byId("prompt");
    this.scroll = byId("scroll");
    this.list = byId("messages");
    this.welcome();
    this.connect();
    this.options();
    this.code();
    this.draw();
  }

  /** Show whether messages can be sent now, and why not. */
  setReady({ isReady, model, note }) {
    this.isReady = isReady;
    this.model = model;
    byId("chat-model").textContent = model;
    const notice = byId("notice");
    notice.hidden = !note;
    if (note) notice.replaceChildren(note, " ", h("a", { href: "#status" }, "See its status"));
    this.buttons();
  }

  buttons() {
    byId("send").hidden = Boolean(this.running);
    byId("stop").hidden = !this.running;
    byId("send").disabled = !this.isReady || !this.prompt.value.trim();
    byId("new-chat").disabled = !this.conversation.messages.length;
  }

  welcome() {
    const ideas = IDEAS.map((text) =>
      h("button", { type: "button", class: "idea", onclick: () => this.propose(text) }, text));
    byId("welcome").append(h("p", { class: "big" }, "What would you like to know?"), h("div", { class: "ideas" }, ...ideas));
  }

  propose(text) {
    this.prompt.value = text;
    this.grow();
    this.prompt.focus();
  }

  connect() {
    const form = byId("composer");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.say();
    });
    this.prompt.addEventListener("keydown", (event) => {
      // While an input method composes, it handles Enter.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.say();
    });
    this.prompt.addEventListener("input", () => this.grow());
    byId("stop").addEventListener("click", () => this.stop());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.stop();
    });
    byId("new-chat").addEventListener("click", () => {
      this.stop();
      this.conversation.clear();
      this.draw();
      this.prompt.focus();
    });
  }

  grow() {
    this.prompt.style.height = "auto";
    this.prompt.style.height = `${Math.min(this.prompt.scrollHeight, 240)}px`;
    this.buttons();
  }

  say() {
    const text = this.prompt.value.trim();
    if (!text || this.running || !this.isReady) return;
    this.conversation.messages.push({ role: "user", content: text });
    this.prompt.value = "";
    this.grow();
    this.answer();
  }

  /** Ask for an answer to the conversation as it is. */
  async answer() {
    const { conversation } = this;
    const body = conversation.body(this.model);
    const message = { role: "assistant", content: "", reasoning: "" };
    conversation.messages.push(message);
    conversation.keep();
    const controller = new AbortController();
    this.running = controller;
    this.draw();
    this.scroll.scrollTop = this.scroll.scrollHeight;
    announce("The model answers");
    await this.receive(message, body, controller);
    if (this.running === controller) this.running = null;
    // A new chat may have been started meanwhile.
    if (!conversation.messages.includes(message)) return;
    conversation.keep();
    this.show();
    this.buttons();
    announce(message.error ? message.error.title : `The answer is there: ${plural(message.stats.tokens, "token")}`);
    if (message.error?.status === 401) this.onUnauthorized();
  }

  async receive(message, body, { signal }) {
    const meter = new Meter();
    try {
      const wanted = { ...body, stream: true, stream_options: { include_usage: true } };
      for await (const chunk of streamChat(wanted, signal)) {
        const choice = chunk.choices?.[0];
        const delta = choice?.delta ?? {};
        message.reasoning += delta.reasoning_content ?? delta.reasoning ?? "";
        message.content += delta.content ?? "";
        if (delta.content || delta.reasoning_content || delta.reasoning) meter.piece();
        if (choice?.finish_reason) message.ended = choice.finish_reason;
        if (chunk.usage) meter.usage(chunk.usage.completion_tokens);
        message.stats = meter.result();
        this.redraw();
      }
    } catch (error) {
      if (error.name === "AbortError") message.ended = "stopped";
      else {
        const told = error instanceof ApiError ? error : new ApiError(0, String(error.message));
        message.error = { status: told.status, title: told.title, message: told.message, advice: told.advice };
      }
    }
    message.stats = meter.result();
  }

  stop() {
    this.running?.abort();
  }

  regenerate() {
    if (this.running || !this.isReady) return;
    this.conversation.cut(this.conversation.messages.length - 1);
    this.answer();
  }

  edit(index, text) {
    if (!this.isReady) return;
    this.stop();
    this.running = null;
    this.conversation.cut(index);
    this.conversation.messages.push({ role: "user", content: text });
    this.answer();
    this.prompt.focus();
  }

  draw() {
    const { messages } = this.conversation;
    byId("welcome").hidden = messages.length > 0;
    this.views = messages.map((message, index) =>
      message.role === "user"
        ? { node: userMessage(message, { edit: (text) => this.edit(index, text) }) }
        : new AnswerView(message, { regenerate: () => this.regenerate() }));
    this.list.replaceChildren(...this.views.map(({ node }) => node));
    this.views.forEach((view, index) => {
      const last = index === messages.length - 1;
      view.update?.({ streaming: last && Boolean(this.running), last });
    });
    this.buttons();
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  /** Render the last answer again, at most once a frame, and scroll with it unless the reader has scrolled up. */
  redraw() {
    this.frame ??= requestAnimationFrame(() => this.show());
  }

  show() {
    if (this.frame) cancelAnimationFrame(this.frame);
    this.frame = null;
    const { scroll } = this;
    const follows = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR;
    this.views.at(-1)?.update?.({ streaming: Boolean(this.running), last: true });
    if (follows) scroll.scrollTop = scroll.scrollHeight;
  }

  options() {
    const form = byId("options-form");
    const kept = this.conversation.options;
    for (const field of form.elements) {
      if (field.type === "checkbox") field.checked = Boolean(kept[field.name]);
      else if (field.name) field.value = kept[field.name] ?? "";
    }
    form.addEventListener("submit", (event) => event.preventDefault());
    // The reset event comes before the fields are empty.
    for (const name of ["input", "reset"]) form.addEventListener(name, () => setTimeout(() => this.take(form)));
    const button = byId("options-button");
    const show = (open) => {
      byId("view-chat").classList.toggle("with-options", open);
      button.setAttribute("aria-expanded", String(open));
      (open ? byId("system") : button).focus();
    };
    button.addEventListener("click", () => show(button.getAttribute("aria-expanded") === "false"));
    byId("options-close").addEventListener("click", () => show(false));
    byId("options").addEventListener("keydown", (event) => event.key === "Escape" && show(false));
  }

  take(form) {
    for (const field of form.elements) {
      if (field.name) this.conversation.options[field.name] = field.type === "checkbox" ? field.checked : field.value;
    }
    this.conversation.keep();
  }

  code() {
    const dialog = byId("code-dialog");
    const buttons = Object.keys(snippets).map((name) =>
      h("button", { type: "button", class: "tab", "aria-pressed": "false", onclick: () => choose(name) }, name));
    byId("code-languages").append(...buttons);
    const choose = (name) => {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.textContent === name));
      const { make, language } = snippets[name];
      const code = make(address("v1/chat/completions"), this.nextBody(), this.needsKey());
      byId("code").replaceChildren(highlight(code, language));
    };
    byId("copy-code").addEventListener("click", () => {
      choose("curl");
      dialog.showModal();
    });
    byId("code-close").addEventListener("click", () => dialog.close());
    byId("code-copy").addEventListener("click", (event) => copy(byId("code").textContent, event.currentTarget));
  }

  /** Return the body of the request that sending would make, or of the last one if nothing is typed. */
  nextBody() {
    const { conversation } = this;
    const typed = this.prompt.value.trim();
    const count = conversation.messages.findLastIndex(({ role }) => role === "user") + 1;
    const body = conversation.body(this.model, typed ? undefined : count);
    if (typed) body.messages.push({ role: "user", content: typed });
    if (!body.messages.some(({ role }) => role === "user")) body.messages.push({ role: "user", content: "Hello!" });
    return body;
  }
}

/** Measures one answer as seen by the browser. */
class Meter {
  #began = performance.now();
  #first = null;
  #last = null;
  #pieces = 0;
  #tokens = null;

  piece() {
    this.#last = performance.now();
    this.#first ??= this.#last;
    this.#pieces += 1;
  }

  usage(tokens) {
    this.#tokens = tokens;
  }

  result() {
    const tokens = this.#tokens ?? this.#pieces;
    const seconds = (this.#last - this.#first) / 1000;
    return {
      tokens,
      exact: this.#tokens !== null,
      ttft: this.#first === null ? null : (this.#first - this.#began) / 1000,
      rate: tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null,
    };
  }
}
