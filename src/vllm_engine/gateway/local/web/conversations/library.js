// All conversations of this browser with this server, in step with the other tabs that show them.

import { base } from "../lib/api.js";
import { openDatabase } from "./database.js";
import { leaveBehind, takeUp } from "./leftovers.js";
import { titleOf } from "./record.js";

/** Names everything that is stored: several servers may stand behind one address, each with its own prefix. */
export const PLACE = `vllm-engine.chat ${base.pathname}`;

const BEAT = 1000;
// Browsers let a tab in the background act once a minute at the least.
const SILENCE = 90_000;

export async function openLibrary() {
  const database = await openDatabase(PLACE);
  const changed = await takeUp(PLACE, database);
  return new Library(database, await database.summaries(), changed);
}

/** Tells of changes with the event "change", whose detail is { id, isElsewhere }. */
class Library extends EventTarget {
  #database;
  #summaries;
  // The records that this tab has at hand: one object for each conversation.
  #live = new Map();
  #channel = new BroadcastChannel(PLACE);
  #heard = new Map();
  #answering = new Map();
  #unwritten = new Map();
  #isLeaving = false;
  #failed = false;

  /** `changed` are the ids of what another tab may show as it was before. */
  constructor(database, summaries, changed) {
    super();
    this.#database = database;
    this.#summaries = new Map(summaries.map((one) => [one.id, one]));
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#channel.postMessage({ kind: "hello" });
    for (const id of changed) this.#tellOthers(id);
    setInterval(() => this.#beat(), BEAT);
    addEventListener("pagehide", () => this.#leave());
    // Brought back from the browser's memory, it has missed what other tabs said.
    addEventListener("pageshow", (event) => event.persisted && location.reload());
  }

  /** Return whether what is said now is still there after a reload. */
  get isLasting() {
    return this.#database.isLasting && !this.#failed;
  }

  /** Return id, title and time of each, the newest first. */
  list() {
    return [...this.#summaries.values()].sort((one, other) => other.updated - one.updated);
  }

  has(id) {
    return this.#summaries.has(id);
  }

  /** Return the record, undefined if there is none; whoever asks gets the same object until another tab changes it. */
  async get(id) {
    if (!this.#live.has(id)) {
      const record = await this.#database.get(id);
      if (record && !this.#live.has(id)) this.#live.set(id, record);
    }
    return this.#live.get(id);
  }

  async all() {
    const records = new Map();
    await this.#database.each((record) => records.set(record.id, record));
    for (const [id, record] of this.#live) records.set(id, record);
    return [...records.values()];
  }

  /** Return the ids of those whose title or messages have this text. */
  async search(text) {
    const wanted = text.toLowerCase();
    const has = (one) => one.toLowerCase().includes(wanted);
    const found = new Set();
    const look = (one) => (has(titleOf(one)) || one.messages.some(({ content }) => has(content)) ? found.add(one.id) : found.delete(one.id));
    // One after the other: with their images they may be more than memory holds.
    await this.#database.each(look);
    this.#live.forEach(look);
    return found;
  }

  async save(record) {
    if (this.#isLeaving) return;
    this.#summaries.set(record.id, { id: record.id, title: titleOf(record), updated: record.updated });
    this.#live.set(record.id, record);
    this.#unwritten.set(record.id, record);
    this.#tell(record.id, false);
    const isWritten = await this.#write(() => this.#database.put(record));
    if (isWritten) this.#unwritten.delete(record.id);
    this.#tellOthers(record.id);
  }

  async remove(id) {
    for (const kept of [this.#summaries, this.#live, this.#unwritten]) kept.delete(id);
    this.#tell(id, false);
    await this.#write(() => this.#database.delete(id));
    this.#channel.postMessage({ kind: "removed", id });
  }

  /** Say to the other tabs that this one waits for an answer in a conversation, which changes from now on. */
  beginAnswer(record) {
    this.#answering.set(record.id, record);
    this.#channel.postMessage({ kind: "answering", id: record.id });
    this.#tell(record.id, false);
  }

  endAnswer(id) {
    this.#answering.delete(id);
    this.#channel.postMessage({ kind: "answered", id });
    this.#tell(id, false);
  }

  isAnsweredHere(id) {
    return this.#answering.has(id);
  }

  isAnsweredElsewhere(id) {
    return this.#heard.has(id);
  }

  #hear({ kind, id, summary }) {
    if (kind === "hello") return this.#beat();
    if (kind === "saved") this.#summaries.set(id, summary);
    if (kind === "removed") this.#summaries.delete(id);
    if (!this.#answering.has(id) && (kind === "saved" || kind === "removed")) this.#live.delete(id);
    if (kind === "answering") {
      const isNews = !this.#heard.has(id);
      this.#heard.set(id, Date.now());
      if (!isNews) return;
    }
    if (kind === "answered") this.#heard.delete(id);
    this.#tell(id, true);
  }

  #beat() {
    for (const id of this.#answering.keys()) this.#channel.postMessage({ kind: "answering", id });
    for (const [id, at] of this.#heard) {
      if (Date.now() - at < SILENCE) continue;
      this.#heard.delete(id);
      this.#tell(id, true);
    }
  }

  #leave() {
    this.#isLeaving = true;
    leaveBehind(PLACE, new Set([...this.#unwritten.values(), ...this.#answering.values()]));
    for (const id of this.#answering.keys()) this.#channel.postMessage({ kind: "answered", id });
  }

  async #write(act) {
    try {
      await act();
      return true;
    } catch {
      // The disk is full, or the storage was taken away: from here on things last as long as the page.
      this.#failed = true;
      return false;
    }
  }

  #tellOthers(id) {
    const summary = this.#summaries.get(id);
    if (summary) this.#channel.postMessage({ kind: "saved", id, summary });
  }

  #tell(id, isElsewhere) {
    this.dispatchEvent(new CustomEvent("change", { detail: { id, isElsewhere } }));
  }
}
