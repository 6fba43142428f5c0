// One message of the conversation, as nodes.

import { copy, h } from "../lib/dom.js";
import { duration, number, plural } from "../lib/format.js";
import { render } from "./markdown.js";

function action(text, run) {
  const button = h("button", { type: "button", class: "plain" }, text);
  button.addEventListener("click", () => run(button));
  return button;
}

export function userMessage(message, { edit }) {
  const body = h("div", { class: "body" }, message.content);
  const actions = h("div", { class: "actions" }, action("Edit", () => startEdit()), action("Copy", (button) => copy(message.content, button)));
  const item = h("li", { class: "user" }, h("h2", { class: "unseen" }, "You"), body, actions);

  function startEdit() {
    const field = h("textarea", { "aria-label": "Edit your message", rows: "3" });
    field.value = message.content;
    const leave = () => {
      form.replaceWith(body);
      actions.hidden = false;
      actions.firstElementChild.focus();
    };
    const form = h("form", { class: "edit" }, field,
      h("div", { class: "row" }, h("span", { class: "grow" }), action("Cancel", leave), h("button", { class: "primary" }, "Send again")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value.trim()) edit(field.value.trim());
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    actions.hidden = true;
    body.replaceWith(form);
    field.focus();
  }
  return item;
}

/** An answer; `update` shows the message as it is now. */
export class AnswerView {
  constructor(message, { regenerate }) {
    this.message = message;
    this.regenerate = regenerate;
    this.thought = h("summary");
    this.thinking = h("div", { class: "markdown" });
    this.reasoning = h("details", { class: "reasoning", hidden: true }, this.thought, this.thinking);
    this.text = h("div", { class: "markdown" });
    this.foot = h("div", { class: "foot" });
    this.node = h("li", { class: "assistant" }, h("h2", { class: "unseen" }, "Model"), this.reasoning, this.text, this.foot);
  }

  update({ streaming, last }) {
    const { message } = this;
    this.node.classList.toggle("streaming", streaming);
    this.node.classList.toggle("waiting", streaming && !message.content && !message.reasoning);
    this.reasoning.hidden = !message.reasoning;
    if (message.reasoning) {
      const over = Boolean(message.content) || !streaming;
      this.thought.textContent = over ? "Reasoning" : "Reasoning …";
      render(this.thinking, message.reasoning, { isWhole: over });
    }
    render(this.text, message.content, { isWhole: !streaming });
    if (streaming) this.foot.replaceChildren();
    else this.finish(last);
  }

  finish(last) {
    const { message } = this;
    const parts = [];
    if (message.error) {
      parts.push(h("div", { class: "failure", role: "alert" }, h("strong", {}, message.error.title),
        message.error.message ? h("span", {}, message.error.message) : null,
        message.error.advice ? h("span", {}, message.error.advice) : null));
    }
    const actions = h("div", { class: "actions" });
    if (message.content) actions.append(action("Copy", (button) => copy(message.content, button)));
    if (last) actions.append(action(message.error ? "Try again" : "Regenerate", this.regenerate));
    actions.append(...stats(message));
    parts.push(actions);
    this.foot.replaceChildren(...parts);
  }
}

function stats({ stats: counted, ended }) {
  const words = [];
  if (counted?.tokens) words.push(`${counted.exact ? "" : "about "}${plural(counted.tokens, "token")}`);
  if (counted?.ttft) words.push(`first after ${duration(counted.ttft)}`);
  if (counted?.rate) words.push(`${number(counted.rate)} tokens/s`);
  const ends = { length: "ended at the token limit", stopped: "stopped", content_filter: "filtered" };
  if (ended in ends) words.push(ends[ended]);
  return words.length ? [h("span", { class: "stats" }, words.join(" · "))] : [];
}
