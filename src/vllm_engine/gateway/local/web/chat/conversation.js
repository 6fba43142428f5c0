// A conversation as a tree: each message follows an earlier one, and one path from the first to the last is shown.

import { sent } from "./content.js";
import { bodyOf } from "./options.js";

export class Conversation {
  constructor(record) {
    this.record = record;
  }

  get id() {
    return this.record.id;
  }

  get all() {
    return this.record.messages;
  }

  /** Return the indexes of what is shown, from the first message to the last. */
  get path() {
    const path = [];
    for (let at = this.record.head; at !== null; at = this.all[at].parent) path.push(at);
    return path.reverse();
  }

  get messages() {
    return this.path.map((index) => this.all[index]);
  }

  /** Add a message after another and show it. */
  add(message, parent = this.record.head) {
    this.all.push({ parent, ...message });
    this.record.head = this.all.length - 1;
    this.record.updated = Date.now();
    return this.all.at(-1);
  }

  /** Return the indexes of the messages that follow the same one: versions of each other. */
  versions(index) {
    const { parent, role } = this.all[index];
    return this.all.flatMap((one, at) => (one.parent === parent && one.role === role ? [at] : []));
  }

  /** Show a message and what was said last after it. */
  show(index) {
    let head = index;
    for (let next = index; next !== -1; next = this.all.findLastIndex(({ parent }) => parent === head)) head = next;
    this.record.head = head;
  }

  /** Return the body of a request for the answer to these messages. */
  body({ model, options, messages = this.messages }) {
    const { system } = options;
    return {
      model,
      messages: [
        ...(system?.trim() ? [{ role: "system", content: system }] : []),
        ...answered(messages),
      ],
      ...bodyOf(options),
    };
  }
}

/** Return the messages as a request has them, without each question that got no answer, but for the last: a model takes turns. */
function answered(messages) {
  const all = messages.map(sent);
  return all.filter((one, index) => one && (one.role === "assistant" || index === all.length - 1 || (messages[index + 1].role === "assistant" && all[index + 1])));
}
