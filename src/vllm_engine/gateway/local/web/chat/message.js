// One message of the conversation, as nodes.

import { isAttachment } from "../attachments/attachment.js";
import { attachmentItem } from "../attachments/tray.js";
import { copy, h } from "../lib/dom.js";
import { duration, number, plural } from "../lib/format.js";
import { callsText, parts } from "./content.js";
import { render } from "./markdown.js";
import { probabilities } from "./probabilities.js";

/** Arrows between the versions of a message. */
function arrows(versions) {
  if (!versions) return null;
  const { at, count, show } = versions;
  const arrow = (name, sign, step) =>
    h("button", { type: "button", class: "plain", "aria-label": `${name} version`, disabled: at + step < 0 || at + step >= count, onclick: () => show(step) }, sign);
  return h("span", { class: "versions", role: "group", "aria-label": "Versions" },
    arrow("Previous", "‹", -1), h("span", {}, `${at + 1}/${count}`), arrow("Next", "›", 1));
}

function action(text, run) {
  const button = h("button", { type: "button", class: "plain" }, text);
  button.addEventListener("click", () => run(button));
  return button;
}

export function userMessage(message, { edit, versions }) {
  const body = h("div", { class: "body" }, message.content);
  const actions = h("div", { class: "actions" }, arrows(versions), action("Edit", () => startEdit()), action("Copy", (button) => copy(message.content, button)));
  const attached = (message.attachments ?? []).filter(isAttachment).map((one) => attachmentItem(one));
  const item = h("li", { class: "user" }, h("h2", { class: "unseen" }, "You"),
    attached.length ? h("ul", { class: "attached", "aria-label": "Attachments" }, attached) : null, body, actions);

  function startEdit() {
    const field = h("textarea", { "aria-label": "Edit your message", rows: "3", dir: "auto" });
    field.value = message.content;
    const leave = () => {
      form.replaceWith(body);
      actions.hidden = false;
      actions.querySelector(":scope > .plain").focus();
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
  return { node: item };
}

/** An answer; `update` shows the message as it is now. */
export class AnswerView {
  constructor(message, { regenerate, resume, versions }) {
    this.message = message;
    Object.assign(this, { regenerate, resume, versions });
    this.thought = h("summary");
    this.thinking = h("div", { class: "markdown" });
    this.reasoning = h("details", { class: "reasoning", hidden: true }, this.thought, this.thinking);
    this.text = h("div", { class: "markdown" });
    this.foot = h("div", { class: "foot" });
    this.node = h("li", { class: "assistant" }, h("h2", { class: "unseen" }, "Model"), this.reasoning, this.text, this.foot);
  }

  update({ streaming, last }) {
    const { message } = this;
    const { reasoning, text, isThinking } = parts(message);
    const calls = callsText(message);
    this.node.classList.toggle("streaming", streaming);
    this.node.classList.toggle("waiting", streaming && !text && !reasoning && !calls);
    this.reasoning.hidden = !reasoning;
    if (reasoning) {
      const isOver = !streaming || (!isThinking && Boolean(text || calls));
      this.thought.textContent = isOver ? "Reasoning" : "Reasoning …";
      render(this.thinking, reasoning, { isWhole: isOver });
    }
    render(this.text, text, { isWhole: !streaming });
    if (calls) {
      this.calls ??= h("div", { class: "markdown calls" });
      this.foot.before(this.calls);
      render(this.calls, calls, { isWhole: !streaming });
    }
    if (streaming) this.foot.replaceChildren();
    else this.finish(last);
  }

  finish(last) {
    const { message } = this;
    const foot = [probabilities(message)].filter(Boolean);
    if (message.error) {
      foot.push(h("div", { class: "failure", role: "alert" }, h("strong", {}, message.error.title),
        message.error.message ? h("span", {}, message.error.message) : null,
        message.error.advice ? h("span", {}, message.error.advice) : null));
    }
    const { text } = parts(message);
    const isPart = text && (message.error || ["stopped", "interrupted", "length"].includes(message.ended));
    if (!text && !message.calls) foot.push(h("p", { class: "small" }, "Without an answer, this question is left out of later requests."));
    const actions = h("div", { class: "actions" }, arrows(this.versions));
    if (text) actions.append(action("Copy", (button) => copy(text, button)));
    if (last && isPart) actions.append(action("Continue", this.resume));
    if (last) actions.append(action(message.error || message.ended === "interrupted" || !message.content ? "Try again" : "Regenerate", this.regenerate));
    actions.append(...stats(message));
    foot.push(actions);
    this.foot.replaceChildren(...foot);
  }
}

function stats({ stats: counted, ended, error }) {
  const words = [];
  if (counted?.tokens) words.push(`${counted.exact ? "" : "about "}${plural(counted.tokens, "token")}`);
  if (counted?.ttft) words.push(`first after ${duration(counted.ttft)}`);
  if (counted?.rate) words.push(`${number(counted.rate)} tokens/s`);
  const ends = { length: "ended at the token limit", stopped: "stopped", interrupted: "interrupted", tool_calls: "ended to call a tool", content_filter: "filtered" };
  // An error says more.
  if (ended in ends && !error) words.push(ends[ended]);
  return words.length ? [h("span", { class: "stats" }, words.join(" · "))] : [];
}
