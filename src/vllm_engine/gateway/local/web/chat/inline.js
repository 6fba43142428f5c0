// Markdown within a line, as DOM nodes. HTML is shown as text, math as it is written; links are http and https only.
// The scanner takes linear time: the results of searches that may come again are kept.

import { h } from "../lib/dom.js";

const MAX_DEPTH = 8;
const MAX_LABEL = 1000;
const MAX_URL = 2000;
const MAX_MATH = 1000;
// Not the brackets: models that write \( or \[ mean math, even where its end is missing.
const ESCAPABLE = /[!-'*-/:-@\\^-`{-~]/;
const MARKS = { "**": "strong", __: "strong", "~~": "del", "*": "em", _: "em" };
const BARE_URL = /https?:\/\/[^\s<>"'`\\^{|}]+/iy;
const ENDS_SENTENCE = new Set(".,:;!?*_~");
const WORD = /[\p{L}\p{N}]/u;
// Between two dollars: nothing that could be words and prices.
const CLEARLY_MATH = /^\S+$|[\\^_={}+<>]|^[^A-Za-z]*(?:[A-Za-z](?![A-Za-z])[^A-Za-z]*)*$/;
const NOT_MATH = /^\s|[\n`]|[\s\\]$/;

/** Return math as it is written: no backslash is lost, and a selection copies its source. */
export function mathNode(source, { isBlock }) {
  return h("span", { class: isBlock ? "math block" : "math" }, source);
}

/** Return the address of a link that is allowed, or null. */
export function safeUrl(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    return null;
  }
  return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
}

function link(url, children) {
  return h("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, children);
}

/** Return the nodes of a text. */
export function inline(text, depth = 0) {
  return new Scanner(text, depth).nodes();
}

class Scanner {
  constructor(text, depth) {
    this.text = text;
    this.depth = depth;
    this.at = 0;
    this.plain = "";
    this.out = [];
    this.found = new Map();
    this.unclosed = new Set();
    this.run = [0, 0];
    this.noUrlBefore = 0;
    this.destination = null;
  }

  nodes() {
    if (this.depth > MAX_DEPTH) return [this.text];
    while (this.at < this.text.length) {
      const node = this.special();
      if (node === null) {
        this.plain += this.text[this.at];
        this.at += 1;
      } else if (node !== undefined) {
        this.flush();
        this.out.push(node);
      }
    }
    this.flush();
    return this.out;
  }

  flush() {
    if (this.plain) this.out.push(this.plain);
    this.plain = "";
  }

  /** Return the node that begins here, undefined if plain text was taken, or null if there is nothing special. */
  special() {
    const { text, at } = this;
    switch (text[at]) {
      case "\\":
        return this.bracketedMath() ?? this.escape();
      case "$":
        return this.dollarMath();
      case "\n":
        return this.lineBreak();
      case "`":
        return this.code();
      case "!":
        return text[at + 1] === "[" ? this.bracket(at + 1) : null;
      case "[":
        return this.bracket(at);
      case "<":
        return this.angle();
      case "h":
      case "H":
        return this.bareUrl();
      case "*":
      case "_":
      case "~":
        return this.emphasis();
      default:
        return null;
    }
  }

  escape() {
    const next = this.text[this.at + 1] ?? "";
    if (!ESCAPABLE.test(next)) return null;
    this.plain += next;
    this.at += 2;
    return undefined;
  }

  /** Take \(…\) or \[…\]. */
  bracketedMath() {
    const open = this.text[this.at + 1];
    const close = { "(": "\\)", "[": "\\]" }[open];
    return close ? this.math(this.next(close, this.at + 2), 2, open === "[") : null;
  }

  /** Take $$…$$, or $…$ where it is clearly math and no price. */
  dollarMath() {
    const { text, at } = this;
    if (text[at + 1] === "$") {
      const node = this.math(this.next("$$", at + 2), 2, true);
      if (node) return node;
      this.plain += "$$";
      this.at += 2;
      return undefined;
    }
    const end = this.next("$", at + 1);
    const isFit = end - at < MAX_MATH && !WORD.test(text[at - 1] ?? "") && !WORD.test(text[end + 1] ?? "");
    const inner = isFit ? text.slice(at + 1, end) : "";
    return inner && !NOT_MATH.test(inner) && CLEARLY_MATH.test(inner) ? this.math(end, 1, false) : null;
  }

  math(close, size, isBlock) {
    const { text, at } = this;
    if (close === Infinity || !text.slice(at + size, close).trim()) return null;
    this.at = close + size;
    return mathNode(text.slice(at, this.at), { isBlock });
  }

  lineBreak() {
    this.at += 1;
    this.plain = this.plain.trimEnd();
    return h("br");
  }

  /** Return where a mark is next; `from` must not decrease between two calls for the same mark. */
  next(mark, from) {
    let found = this.found.get(mark) ?? -1;
    if (found < from) {
      found = this.text.indexOf(mark, from);
      if (found === -1) found = Infinity;
      this.found.set(mark, found);
    }
    return found;
  }

  /** Return the end of the run of one character that `at` is in. */
  runEnd(at) {
    const { text } = this;
    const [from, to] = this.run;
    if (at >= from && at < to) return to;
    let end = at + 1;
    while (text[end] === text[at]) end += 1;
    this.run = [at, end];
    return end;
  }

  code() {
    const { text, at } = this;
    const size = this.runEnd(at) - at;
    this.fences ??= fences(text);
    const starts = this.fences.get(size) ?? [];
    while (starts.length && starts.at(-1) < at + size) starts.pop();
    if (!starts.length) {
      this.plain += text.slice(at, at + size);
      this.at += size;
      return undefined;
    }
    const end = starts.at(-1);
    let content = text.slice(at + size, end).replaceAll("\n", " ");
    if (content.startsWith(" ") && content.endsWith(" ") && content.trim()) content = content.slice(1, -1);
    this.at = end + size;
    return h("code", {}, content);
  }

  // An image becomes a link to it: nothing is loaded because a model says so.
  bracket(open) {
    const middle = this.next("](", open);
    if (middle - open - 1 > MAX_LABEL || this.next("\n\n", open) < middle) return null;
    const { end, target, url } = this.target(middle);
    if (url === null) return null;
    this.at = end + 1;
    return link(url, inline(this.text.slice(open + 1, middle) || target, this.depth + 4));
  }

  /** Return what is in the parentheses after a label's end. */
  target(middle) {
    if (this.destination?.middle === middle) return this.destination;
    this.closings ??= closings(this.text);
    const end = this.closings.get(middle + 1) ?? Infinity;
    const isFit = end - middle < MAX_URL;
    const inner = isFit ? this.text.slice(middle + 2, end).trim() : "";
    const target = inner.split(/\s/, 1)[0].replace(/^<|>$/g, "");
    this.destination = { middle, end, target, url: isFit ? safeUrl(target) : null };
    return this.destination;
  }

  angle() {
    const end = this.next(">", this.at);
    const inner = end - this.at > MAX_URL ? "" : this.text.slice(this.at + 1, end);
    const url = /^https?:[^\s<]+$/i.test(inner) ? safeUrl(inner) : null;
    if (url === null) return null;
    this.at = end + 1;
    return link(url, inner);
  }

  bareUrl() {
    const { text, at } = this;
    if (at < this.noUrlBefore || WORD.test(text[at - 1] ?? "")) return null;
    BARE_URL.lastIndex = at;
    const found = BARE_URL.exec(text)?.[0];
    if (!found) return null;
    let size = found.length;
    while (ENDS_SENTENCE.has(found[size - 1])) size -= 1;
    let shown = found.slice(0, size);
    if (shown.endsWith(")") && !shown.includes("(")) shown = shown.slice(0, -1);
    const url = shown.length > MAX_URL ? null : safeUrl(shown);
    if (url === null) {
      this.noUrlBefore = at + found.length;
      return null;
    }
    this.at += shown.length;
    return link(url, shown);
  }

  emphasis() {
    const { text, at } = this;
    const letter = text[at];
    const mark = text[at + 1] === letter ? letter + letter : letter;
    if (!(mark in MARKS)) return null;
    const after = text[at + mark.length] ?? " ";
    const opens = !/\s/.test(after) && !(letter === "_" && WORD.test(text[at - 1] ?? ""));
    const end = opens ? this.closer(mark, at + mark.length + 1) : -1;
    if (end === -1) {
      this.plain += mark;
      this.at += mark.length;
      return undefined;
    }
    this.at = end + mark.length;
    return h(MARKS[mark], {}, inline(text.slice(at + mark.length, end), this.depth + 1));
  }

  closer(mark, from) {
    const { text } = this;
    // What was not found once is not further on either.
    if (this.unclosed.has(mark)) return -1;
    for (let end = text.indexOf(mark, from); end !== -1; end = text.indexOf(mark, end + 1)) {
      const run = this.runEnd(end);
      const size = run - end;
      const fits = mark.length === 2 ? size >= 2 : size === 1 || size === 3;
      const inWord = mark[0] === "_" && WORD.test(text[run] ?? "");
      if (fits && !inWord && !/\s/.test(text[end - 1]) && text[end - 1] !== "\\") {
        return size === 3 && mark.length === 1 ? end + 2 : end;
      }
      end = run - 1;
    }
    this.unclosed.add(mark);
    return -1;
  }
}

/** Return where each "(" has its ")", of those that have it on their line. */
function closings(text) {
  const found = new Map();
  let open = [];
  for (let at = 0; at < text.length; at++) {
    const letter = text[at];
    if (letter === "(") open.push(at);
    else if (letter === ")" && open.length) found.set(open.pop(), at);
    else if (letter === "\n") open = [];
  }
  return found;
}

/** Return where runs of backticks begin, by their length, the last of them first. */
function fences(text) {
  const found = new Map();
  for (const { 0: run, index } of text.matchAll(/`+/g)) {
    const starts = found.get(run.length) ?? [];
    starts.push(index);
    found.set(run.length, starts);
  }
  for (const starts of found.values()) starts.reverse();
  return found;
}
