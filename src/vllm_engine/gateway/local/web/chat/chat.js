// The chat view: sends, streams, stops, edits. Conversation has the content, message.js the appearance.

import { ApiError, streamChat } from "../lib/api.js";
import { announce, byId, h } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { connectCodeDialog } from "./code_dialog.js";
import { Composer } from "./composer.js";
import { addDelta } from "./content.js";
import { Conversation } from "./conversation.js";
import { AnswerView, userMessage } from "./message.js";
import { Meter } from "./meter.js";
import { OptionsForm } from "./options_form.js";

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
    this.model = "";
    this.isReady = false;
    this.running = null;
    this.scroll = byId("scroll");
    this.list = byId("messages");
    this.composer = new Composer({
      canSend: () => this.isReady && !this.running,
      check: () => this.options.check(),
      send: (text) => this.say(text),
      stop: () => this.stop(),
    });
    this.welcome();
    byId("new-chat").addEventListener("click", () => this.startAnew());
    this.options = new OptionsForm(this.conversation.options, () => this.conversation.keep());
    connectCodeDialog({ nextBody: () => this.nextBody(), needsKey, check: () => this.options.check() });
    this.draw();
  }

  /** Show whether messages can be sent now, and why not. */
  setReady({ isReady, model, note }) {
    this.isReady = isReady;
    this.model = model;
    byId("chat-model").textContent = model;
    this.composer.note(note);
    this.buttons();
  }

  buttons() {
    this.composer.update({ isRunning: Boolean(this.running) });
    byId("new-chat").disabled = !this.conversation.messages.length;
  }

  welcome() {
    const ideas = IDEAS.map((text) =>
      h("button", { type: "button", class: "idea", onclick: () => this.propose(text) }, text));
    byId("welcome").append(h("p", { class: "big" }, "What would you like to know?"), h("div", { class: "ideas" }, ...ideas));
  }

  propose(text) {
    this.composer.text = text;
    this.composer.focus();
  }

  startAnew() {
    this.stop();
    this.conversation.clear();
    this.draw();
    this.composer.focus();
  }

  say(text) {
    this.conversation.messages.push({ role: "user", content: text });
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
        if (addDelta(message, choice?.delta ?? {})) meter.piece();
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
    if (this.running || !this.isReady || !this.options.check()) return;
    this.conversation.cut(this.conversation.messages.length - 1);
    this.answer();
  }

  edit(index, text) {
    if (!this.isReady || !this.options.check()) return;
    this.stop();
    this.running = null;
    this.conversation.cut(index);
    this.conversation.messages.push({ role: "user", content: text });
    this.answer();
    this.composer.focus();
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

  /** Return the body of the request that sending would make, or of the last one if nothing is typed. */
  nextBody() {
    const { conversation } = this;
    const typed = this.composer.text;
    const count = conversation.messages.findLastIndex(({ role }) => role === "user") + 1;
    const body = conversation.body(this.model, typed ? undefined : count);
    if (typed) body.messages.push({ role: "user", content: typed });
    if (!body.messages.some(({ role }) => role === "user")) body.messages.push({ role: "user", content: "Hello!" });
    return body;
  }
}
