// Markdown within a line, as DOM nodes. A model's HTML is text like any other; links lead to http and https only.

import { h } from "./dom.js";

const MAX_DEPTH = 8;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const MARKS = { "**": "strong", __: "strong", "~~": "del", "*": "em", _: "em" };
const BARE_URL = /https?:\/\/[^\s<>"'`\\^{|}]+/iy;
const WORD = /[\p{L}\p{N}]/u;

/** Return the address of a link that may be followed, or null. */
export function safeUrl(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    return null;
  }
  return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
}

function link(url, ...children) {
  return h("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
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
    // What was looked for in vain once is not further on either: long texts stay linear.
    this.absent = new Set();
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
        return this.escape();
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

  lineBreak() {
    this.at += 1;
    this.plain = this.plain.trimEnd();
    return h("br");
  }

  find(mark, from) {
    if (this.absent.has(mark)) return -1;
    const found = this.text.indexOf(mark, from);
    if (found === -1) this.absent.add(mark);
    return found;
  }

  code() {
    const { text, at } = this;
    let size = 1;
    while (text[at + size] === "`") size += 1;
    const fence = "`".repeat(size);
    let end = this.find(fence, at + size);
    while (end !== -1 && (text[end + size] === "`" || text[end - 1] === "`")) {
      let past = end;
      while (text[past] === "`") past += 1;
      end = this.find(fence, past);
    }
    if (end === -1) {
      this.plain += fence;
      this.at += size;
      return undefined;
    }
    let content = text.slice(at + size, end).replaceAll("\n", " ");
    if (content.startsWith(" ") && content.endsWith(" ") && content.trim()) content = content.slice(1, -1);
    this.at = end + size;
    return h("code", {}, content);
  }

  // An image is shown as a link to it: nothing is loaded because a model says so.
  bracket(open) {
    const { text } = this;
    const middle = this.find("](", open);
    if (middle === -1) return null;
    const label = text.slice(open + 1, middle);
    if (label.includes("\n\n") || label.length > 1000) return null;
    const end = closing(text, middle + 2);
    if (end === -1) return null;
    const target = text.slice(middle + 2, end).trim().split(/\s/, 1)[0].replace(/^<|>$/g, "");
    const url = safeUrl(target);
    if (url === null) return null;
    this.at = end + 1;
    return link(url, ...inline(label || target, this.depth + 4));
  }

  angle() {
    const end = this.text.indexOf(">", this.at);
    const inner = end === -1 || end - this.at > 2000 ? "" : this.text.slice(this.at + 1, end);
    const url = /^https?:\S+$/i.test(inner) ? safeUrl(inner) : null;
    if (url === null) return null;
    this.at = end + 1;
    return link(url, inner);
  }

  bareUrl() {
    BARE_URL.lastIndex = this.at;
    const found = BARE_URL.exec(this.text);
    if (!found || WORD.test(this.text[this.at - 1] ?? "")) return null;
    let shown = found[0].replace(/[.,:;!?*_~]+$/, "");
    if (shown.endsWith(")") && !shown.includes("(")) shown = shown.slice(0, -1);
    const url = safeUrl(shown);
    if (url === null) return null;
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
    return h(MARKS[mark], {}, ...inline(text.slice(at + mark.length, end), this.depth + 1));
  }

  closer(mark, from) {
    const { text } = this;
    if (this.absent.has(`close ${mark}`)) return -1;
    for (let end = text.indexOf(mark, from); end !== -1; end = text.indexOf(mark, end + 1)) {
      let run = end;
      while (text[run] === mark[0]) run += 1;
      const size = run - end;
      const fits = mark.length === 2 ? size >= 2 : size === 1 || size === 3;
      const inWord = mark[0] === "_" && WORD.test(text[run] ?? "");
      if (fits && !inWord && !/\s/.test(text[end - 1]) && text[end - 1] !== "\\") {
        return size === 3 && mark.length === 1 ? end + 2 : end;
      }
      end = run - 1;
    }
    this.absent.add(`close ${mark}`);
    return -1;
  }
}

function closing(text, from) {
  let depth = 1;
  for (let at = from; at < text.length && at - from < 4000; at++) {
    if (text[at] === "(") depth += 1;
    else if (text[at] === ")" && --depth === 0) return at;
    else if (text[at] === "\n") return -1;
  }
  return -1;
}
