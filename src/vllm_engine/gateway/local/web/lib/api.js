// Talks to the server of the page. All addresses are relative to the page, which may be behind a path prefix.

import { EventReader } from "./sse.js";

const KEY = "vllm-engine.key";

export const base = new URL("./", document.baseURI);
export const address = (path) => new URL(path, base).href;

let key = "";
try {
  key = sessionStorage.getItem(KEY) ?? "";
} catch {
  // Then it lasts as long as the page.
}

export const keyring = {
  get has() {
    return key !== "";
  },
  set(value) {
    key = value;
    try {
      if (value) sessionStorage.setItem(KEY, value);
      else sessionStorage.removeItem(KEY);
    } catch {
      // See above.
    }
  },
};

/** What went wrong with a request, for people. */
export class ApiError extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  get title() {
    const titles = {
      0: "The server could not be reached",
      400: "The server refused this request",
      401: "The API key is missing or wrong",
      404: "Not found on this server",
      413: "This conversation is too large",
      429: "Too many requests just now",
      503: "The engine cannot answer just now",
    };
    return titles[this.status] ?? (this.status ? `The server answered with an error (${this.status})` : "It failed");
  }

  get advice() {
    if (this.retryAfter !== null) return `Try again in ${this.retryAfter} second${this.retryAfter === 1 ? "" : "s"}.`;
    if (this.status === 400 && this.message.includes("context length")) return "Start a new chat, or edit a message to make it shorter.";
    return this.status === 0 ? "Is it still running?" : "";
  }
}

async function request(path, init = {}) {
  const headers = { ...init.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(address(path), { ...init, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const retry = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  throw new ApiError(response.status, said(body) ?? response.statusText, Number.isNaN(retry) ? null : retry);
}

const said = (body) => body?.error?.message ?? body?.message ?? (typeof body?.error === "string" ? body.error : null);

export const getJson = async (path) => (await request(path)).json();

/**
 * Ask for a chat completion and yield its chunks as they come.
 *
 * Throws an error that the server reports mid-stream, and for an end without [DONE] or a finish reason.
 */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const events = new EventReader();
  let isWhole = false;
  for (;;) {
    const { done, value } = await read(reader);
    if (done) break;
    for (const data of events.push(value)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.code || 500, said(chunk) ?? "");
      isWhole ||= Boolean(chunk.choices?.[0]?.finish_reason);
      yield chunk;
    }
  }
  if (!isWhole) throw new ApiError(0, "The answer was cut off.");
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The connection was lost.");
  }
}
