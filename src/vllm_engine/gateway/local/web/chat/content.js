// What is in a message: taken from the stream, parted for the reader, and put into the next request.

import { withAttachments } from "../attachments/attachment.js";
import { MOST } from "../conversations/record.js";
import { fenced } from "../lib/fence.js";

const OPEN = "<think>";
const CLOSE = "</think>";
const FENCE = /^ {0,3}(?:`{3}|~{3})/gm;

/** Add what came of an answer; returns whether it was part of one. */
export function addDelta(message, delta) {
  const reasoning = delta.reasoning_content ?? delta.reasoning ?? "";
  message.reasoning += reasoning;
  message.content += delta.content ?? "";
  for (const { index = 0, function: called } of delta.tool_calls ?? []) {
    if (!(index >= 0 && index < MOST.calls)) continue;
    message.calls ??= [];
    const call = (message.calls[index] ??= { name: "", arguments: "" });
    call.name = (call.name + (called?.name ?? "")).slice(0, MOST.name);
    call.arguments += called?.arguments ?? "";
  }
  return Boolean(reasoning || delta.content || delta.tool_calls?.length);
}

/**
 * Return an answer's reasoning and its text.
 *
 * Without a reasoning parser vLLM leaves the reasoning in the content, as <think>…</think>; templates that put the
 * opening tag into the prompt leave only the closing one. Only tags that begin the content or stand at an edge of a
 * line outside of code count.
 */
export function parts({ content, reasoning = "" }) {
  const inner = thought(content);
  return inner ? { reasoning: reasoning + inner.reasoning, text: inner.text, isThinking: inner.isOpen } : { reasoning, text: content, isThinking: false };
}

function thought(content) {
  const start = content.length - content.trimStart().length;
  const isOpened = content.startsWith(OPEN, start);
  // Its first letters: what it will be shows with the next ones.
  if (!isOpened && content.length > start && OPEN.startsWith(content.slice(start))) return { reasoning: "", text: "", isOpen: true };
  const from = isOpened ? start + OPEN.length : 0;
  const end = isOpened ? content.indexOf(CLOSE, from) : loneClose(content);
  if (end === -1 && !isOpened) return null;
  if (end === -1) return { reasoning: withoutBegun(content.slice(from)).trim(), text: "", isOpen: true };
  return { reasoning: content.slice(from, end).trim(), text: content.slice(end + CLOSE.length).trimStart(), isOpen: false };
}

/** Return where a closing tag without an opening one is, or -1. */
function loneClose(content) {
  const end = content.indexOf(CLOSE);
  if (end === -1 || content.slice(0, end).includes(OPEN)) return -1;
  const before = content.slice(content.lastIndexOf("\n", end - 1) + 1, end);
  const after = content.slice(end + CLOSE.length).split("\n", 1)[0];
  const isAtEdge = !before.trim() || (!after.trim() && content.length > end + CLOSE.length);
  const isInCode = (content.slice(0, end).match(FENCE) ?? []).length % 2 === 1;
  return isAtEdge && !isInCode ? end : -1;
}

/** Leave out a closing tag of which only the first letters have come. */
function withoutBegun(text) {
  const at = text.lastIndexOf("<");
  return at !== -1 && text.length - at < CLOSE.length && CLOSE.startsWith(text.slice(at)) ? text.slice(0, at) : text;
}

/** Return an answer's tool calls as Markdown. */
export function callsText({ calls = [] }) {
  return calls.filter(Boolean)
    .map((call) => `Tool call \`${call.name.replace(/[`\n]/g, "")}\`\n\n${fenced(indented(call.arguments), "~", "json")}`)
    .join("\n\n");
}

function indented(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

/** Return a message as a request has it, without reasoning; null if there is nothing to send. */
export function sent(message) {
  const text = message.role === "assistant" ? parts(message).text : message.content;
  if (!text) return null;
  return { role: message.role, content: message.attachments ? withAttachments(text, message.attachments) : text };
}
