// The chat view: shows one conversation, and asks for answers. conversation.js has the content, message.js the appearance.

import { announce, byId, h, store } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { drafts, openId } from "../conversations/drafts.js";
import { PLACE } from "../conversations/library.js";
import { Panel } from "../conversations/panel.js";
import { newId, newRecord } from "../conversations/record.js";
import { Tray } from "../attachments/tray.js";
import { receive } from "./answering.js";
import { connectCodeDialog } from "./code_dialog.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { Follower } from "../lib/follower.js";
import { AnswerView, userMessage } from "./message.js";
import { OptionsForm } from "./options_form.js";

const IDEAS = [
  "Why is the sky blue?",
  "Give me three tips for sleeping better.",
  "Write a short email asking for a day off.",
];
// How often an answer under way is stored.
const SAVE_EVERY = 1000;

const attached = (attachments) => (attachments?.length ? { attachments } : {});

export class ChatView {
  constructor({ library, onUnauthorized, onFailure, needsKey }) {
    this.library = library;
    Object.assign(this, { onUnauthorized, onFailure });
    this.server = { isReady: false, model: "", note: null, limit: null };
    this.chosen = { ...store.get(PLACE, {}).options };
    this.options = new OptionsForm(this.chosen, () => store.set(PLACE, { options: this.chosen }));
    // The answers that are awaited, by conversation.
    this.runs = new Map();
    this.list = byId("messages");
    this.follower = new Follower(byId("scroll"), byId("to-end"));
    this.composer = new Composer({
      canSend: () => this.canAsk,
      check: () => !this.tray.isReading && this.options.check(),
      send: (text) => this.say(text),
      stop: () => this.run?.controller.abort(),
      typed: (text) => drafts.set(this.conversation.id, text, { hasBegun: library.has(this.conversation.id) }),
    });
    this.tray = new Tray();
    this.welcome();
    byId("new-chat").addEventListener("click", () => this.startAnew());
    connectCodeDialog({ nextBody: () => this.nextBody(), needsKey, check: () => this.options.check() });
    this.conversation = new Conversation(newRecord(openId.get()));
    this.panel = new Panel({ library, open: (id) => this.open(id) });
    library.addEventListener("change", ({ detail }) => this.follow(detail));
  }

  /** Show the conversation that this tab last showed. */
  start() {
    return this.open(this.conversation.id);
  }

  get run() {
    return this.runs.get(this.conversation.id);
  }

  get isElsewhere() {
    return this.library.isAnsweredElsewhere(this.conversation.id);
  }

  get canAsk() {
    return this.server.isReady && !this.run && !this.isElsewhere;
  }

  /** Show whether messages can be sent now, and why not; `limit` is the context's length in tokens. */
  setServer(server) {
    this.server = server;
    byId("chat-model").textContent = server.model;
    this.buttons();
  }

  focus() {
    // On a phone the keyboard would cover half of the page.
    if (matchMedia("(hover: hover)").matches && !document.querySelector("dialog[open]")) this.composer.focus();
  }

  /** Take what the server's model takes besides text, and how it samples unless told otherwise. */
  setAbilities({ input_modalities: modalities, sampling_defaults: defaults }) {
    this.tray.takesImages = Boolean(modalities?.includes("image"));
    this.options.showDefaults(defaults ?? {});
  }

  buttons() {
    this.composer.note(this.isElsewhere ? { text: "Another tab is waiting for an answer in this conversation." } : this.server.note);
    this.composer.update({ isRunning: Boolean(this.run) });
    this.composer.count(this.conversation.messages, { isRunning: Boolean(this.run), limit: this.server.limit });
    byId("new-chat").disabled = !this.conversation.all.length;
  }

  welcome() {
    const ideas = IDEAS.map((text) =>
      h("button", { type: "button", class: "idea", onclick: () => this.composer.propose(text) }, text));
    byId("welcome").append(h("p", { class: "big" }, "What would you like to know?"), h("div", { class: "ideas" }, ...ideas));
  }

  // --- which conversation

  async open(id) {
    // A new one is there at once: what is typed meanwhile would be lost.
    const record = (this.library.has(id) && (await this.library.get(id))) || newRecord(id);
    openId.set(id);
    this.conversation = new Conversation(record);
    this.composer.text = drafts.get(id);
    this.tray.take();
    this.panel.mark(id);
    this.draw();
    this.follower.toEnd();
    this.focus();
  }

  startAnew() {
    return this.open(newId());
  }

  /** Take over what another tab, or the list, has changed. */
  async follow({ id }) {
    const run = this.runs.get(id);
    const isGone = !this.library.has(id);
    if (run && isGone) this.drop(run);
    if (isGone) drafts.set(id, "", { hasBegun: true });
    if (id !== this.conversation.id || !this.conversation.all.length) return;
    if (isGone) return void this.startAnew();
    const record = await this.library.get(id);
    if (id !== this.conversation.id || !record || this.run) return;
    const before = this.conversation.path.join();
    this.conversation.record = record;
    if (this.conversation.path.join() !== before) return void this.draw();
    this.conversation.messages.forEach((message, index) => (this.views[index].message = message));
    this.show();
    this.buttons();
  }

  drop(run) {
    run.isDropped = true;
    this.runs.delete(run.conversation.id);
    run.controller.abort();
    this.library.endAnswer(run.conversation.id);
    // A piece of the answer may have been on its way to the database.
    this.library.remove(run.conversation.id);
  }

  // --- asking

  say(text) {
    this.conversation.add({ role: "user", content: text, ...attached(this.tray.take()) });
    this.ask();
    drafts.set(this.conversation.id, "", { hasBegun: true });
  }

  /** Ask for an answer to the last message shown. */
  ask() {
    return this.receive(this.conversation.add({ role: "assistant", content: "", reasoning: "" }));
  }

  /** Return whether it can be asked now; otherwise show why not. */
  mayAsk() {
    if (!this.canAsk) this.composer.pointOut();
    return this.canAsk && this.options.check();
  }

  /** Ask again: another version, unless this one never came to anything. */
  regenerate() {
    if (!this.mayAsk()) return;
    const { conversation } = this;
    const message = conversation.messages.at(-1);
    if (message.content || message.calls) {
      conversation.record.head = message.parent;
      return void this.ask();
    }
    Object.assign(message, { reasoning: "", stats: null });
    this.receive(message);
  }

  resume() {
    if (this.mayAsk()) this.receive(this.conversation.messages.at(-1), { isContinued: true });
  }

  edit(index, text) {
    if (!this.server.isReady || this.isElsewhere) return void this.composer.pointOut();
    if (!this.options.check()) return;
    const { conversation, run } = this;
    if (run) {
      this.runs.delete(conversation.id);
      run.controller.abort();
    }
    const { parent, attachments } = conversation.all[index];
    conversation.add({ role: "user", content: text, ...attached(attachments) }, parent);
    this.ask();
    this.composer.focus();
  }

  /** Receive the answer to what comes before a message into it, or the rest of what it has. */
  async receive(message, { isContinued = false } = {}) {
    const { conversation, library } = this;
    const messages = isContinued ? conversation.messages : conversation.messages.slice(0, -1);
    const body = conversation.body({ model: this.server.model, options: this.chosen, messages });
    if (isContinued) Object.assign(body, { continue_final_message: true, add_generation_prompt: false });
    const run = { conversation, message, controller: new AbortController(), isDropped: false };
    this.runs.set(conversation.id, run);
    let saved = performance.now();
    const changed = () => {
      if (run.isDropped) return;
      if (performance.now() - saved > SAVE_EVERY) {
        saved = performance.now();
        library.save(conversation.record);
      }
      if (this.run === run) this.redraw();
    };
    const received = receive(message, body, { signal: run.controller.signal, changed });
    library.save(conversation.record);
    library.beginAnswer(conversation.record);
    this.draw();
    this.follower.toEnd();
    announce("The model answers");
    await received;
    if (run.isDropped) return;
    if (message.error) this.onFailure();
    if (this.runs.get(conversation.id) === run) this.runs.delete(conversation.id);
    // The other tabs have the whole answer before they may ask for another.
    library.save(conversation.record).then(() => this.runs.has(conversation.id) || library.endAnswer(conversation.id));
    if (conversation !== this.conversation) return;
    this.show();
    this.buttons();
    announce(message.error ? message.error.title : `The answer is there: ${plural(message.stats.tokens, "token")}`);
    if (message.error?.status === 401) this.onUnauthorized();
  }

  // --- showing

  draw() {
    const { conversation } = this;
    byId("welcome").hidden = conversation.all.length > 0;
    this.views = conversation.path.map((index) => {
      const message = conversation.all[index];
      const versions = this.versions(index);
      return message.role === "user"
        ? userMessage(message, { edit: (text) => this.edit(index, text), versions })
        : new AnswerView(message, { regenerate: () => this.regenerate(), resume: () => this.resume(), versions });
    });
    this.list.replaceChildren(...this.views.map(({ node }) => node));
    this.views.slice(0, -1).forEach((view) => view.update?.({ streaming: false, last: false }));
    this.show();
    this.buttons();
  }

  /** Return where a message is among its versions, and how to show another; null if it is the only one. */
  versions(index) {
    const { conversation } = this;
    const all = conversation.versions(index);
    if (all.length < 2) return null;
    const at = all.indexOf(index);
    return {
      at,
      count: all.length,
      show: (step) => {
        if (this.run || this.isElsewhere) return;
        conversation.show(all[at + step]);
        this.library.save(conversation.record);
        this.draw();
        // The same arrow, of the version that is shown now.
        const place = conversation.path.indexOf(all[at + step]);
        const [back, forth] = this.views[place].node.querySelectorAll(".versions button");
        (step < 0 ? (back.disabled ? forth : back) : forth.disabled ? back : forth).focus();
      },
    };
  }

  /** Render the last answer again, at most once a frame, and scroll with it unless the reader has scrolled up. */
  redraw() {
    this.frame ??= requestAnimationFrame(() => this.show());
  }

  show() {
    if (this.frame) cancelAnimationFrame(this.frame);
    this.frame = null;
    const isRunning = Boolean(this.run);
    this.follower.follow(() => this.views.at(-1)?.update?.({ streaming: isRunning || this.isElsewhere, last: true }));
    if (isRunning) this.composer.count(this.conversation.messages, { isRunning, limit: this.server.limit });
  }

  /** Return the body of the request that sending would make, or of the last one if nothing is typed. */
  nextBody() {
    const { messages } = this.conversation;
    const typed = this.composer.text;
    const said = typed ? [...messages, { role: "user", content: typed, ...attached(this.tray.all) }] : messages.slice(0, messages.findLastIndex(({ role }) => role === "user") + 1);
    if (!said.length) said.push({ role: "user", content: "Hello!" });
    return this.conversation.body({ model: this.server.model, options: this.chosen, messages: said });
  }
}
