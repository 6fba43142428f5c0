// A conversation as it is stored and exported: a list of messages, each naming the earlier one that it follows.

import { isAttachment } from "../attachments/attachment.js";

const ROLES = ["user", "assistant"];
const ENDS = ["stop", "length", "stopped", "interrupted", "content_filter", "tool_calls"];

/** Bounds of what is kept, and taken from a file. */
export const MOST = { conversations: 5000, messages: 10_000, text: 4_000_000, calls: 1000, attachments: 100, name: 200, error: 10_000 };

/** Something in a file that is not as it should be; the message says where, what was found and what was expected. */
export class FormatError extends Error {}

// crypto.randomUUID is there with HTTPS and on localhost only.
export const newId = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export function newRecord(id = newId()) {
  const now = Date.now();
  return { id, name: "", created: now, updated: now, head: null, messages: [] };
}

/** Return the name that was given, or the beginning of the first question. */
export function titleOf({ name, messages }) {
  const first = messages.find(({ role, content }) => role === "user" && content.trim())?.content ?? "";
  return name || first.trim().split("\n", 1)[0].slice(0, 80) || "New chat";
}

/** Return a copy of what came from outside with what a conversation has, and no more; throws a FormatError. */
export function checkRecord(value, at) {
  const { id, name, created, updated, head, messages } = object(value, at);
  if (!Array.isArray(messages)) throw wrong(`${at}.messages`, messages, "a list");
  if (messages.length > MOST.messages) throw wrong(`${at}.messages`, messages.length, `at most ${MOST.messages} messages`);
  if (messages.length ? !isIndex(head, messages.length) : head !== null) throw wrong(`${at}.head`, head, messages.length ? "the index of a message" : "null without messages");
  return {
    id: text(id, `${at}.id`, 64),
    name: text(name ?? "", `${at}.name`, MOST.name),
    created: number(created, `${at}.created`),
    updated: number(updated, `${at}.updated`),
    head,
    messages: messages.map((message, index) => checkMessage(message, index, `${at}.messages[${index}]`)),
  };
}

function checkMessage(value, index, at) {
  const { parent, role, content, attachments, reasoning, calls, ended, error, stats } = object(value, at);
  if (parent !== null && !isIndex(parent, index)) throw wrong(`${at}.parent`, parent, "null or the index of an earlier message");
  if (!ROLES.includes(role)) throw wrong(`${at}.role`, role, ROLES.join(" or "));
  const message = { parent, role, content: text(content, `${at}.content`, MOST.text) };
  if (attachments) message.attachments = checkAttachments(attachments, `${at}.attachments`);
  if (reasoning) message.reasoning = text(reasoning, `${at}.reasoning`, MOST.text);
  if (calls) message.calls = checkCalls(calls, `${at}.calls`);
  if (ENDS.includes(ended)) message.ended = ended;
  if (error) message.error = checkError(error, `${at}.error`);
  if (stats) message.stats = checkStats(stats);
  return message;
}

function checkAttachments(value, at) {
  if (!Array.isArray(value) || value.length > MOST.attachments || !value.every(isAttachment)) throw wrong(at, value, "a list of text files and images as this page makes them");
  return value.map(({ kind, name, text: content, url }) => (kind === "text" ? { kind, name, text: content } : { kind, name, url }));
}

function checkCalls(value, at) {
  if (!Array.isArray(value) || value.length > MOST.calls) throw wrong(at, value, `a list of at most ${MOST.calls}`);
  return value.filter(Boolean).map((call, index) => ({
    name: text(object(call, `${at}[${index}]`).name, `${at}[${index}].name`, MOST.name),
    arguments: text(call.arguments, `${at}[${index}].arguments`, MOST.text),
  }));
}

function checkError(value, at) {
  const error = { status: number(object(value, at).status ?? 0, `${at}.status`) };
  for (const name of ["title", "message", "advice"]) error[name] = text(value[name] ?? "", `${at}.${name}`, MOST.error);
  return error;
}

function checkStats(value) {
  const stats = { exact: value.exact === true };
  for (const name of ["tokens", "ttft", "rate", "total"]) stats[name] = Number.isFinite(value[name]) ? value[name] : null;
  return stats;
}

const isIndex = (value, end) => Number.isInteger(value) && value >= 0 && value < end;

function object(value, at) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw wrong(at, value, "an object");
  return value;
}

function text(value, at, most) {
  if (typeof value !== "string") throw wrong(at, value, "a text");
  if (value.length > most) throw wrong(at, `${value.length} characters`, `at most ${most}`);
  return value;
}

function number(value, at) {
  if (!Number.isFinite(value) || value < 0) throw wrong(at, value, "a number from 0 on");
  return value;
}

export function wrong(at, got, wanted) {
  const shown = typeof got === "string" ? got : (JSON.stringify(got) ?? "missing");
  return new FormatError(`${at} is ${shown.length > 60 ? `${shown.slice(0, 60)} …` : shown}, but has to be ${wanted}.`);
}
