// Markdown's blocks as DOM nodes: what models write, not all of CommonMark. See inline.js for their contents.

import { codeBox } from "../lib/code_box.js";
import { h } from "../lib/dom.js";
import { highlight } from "./highlight.js";
import { inline, mathNode } from "./inline.js";

const MAX_DEPTH = 6;
const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)/;
const QUOTE = /^ {0,3}> ?/;
const TASK = /^\[([ xX])\] +(?=\S)/;
const MATH = /^ {0,3}(?:(\$\$)|(\\\[)|\\begin\{([A-Za-z]+\*?)\})/;
const CELL = /^\s*:?-+:?\s*$/;

// Below this length the last block is rendered again with every change.
const SMALL = 4096;
const GROWTH = 1 / 32;

/**
 * Show a text in a container, which may already show its beginning.
 *
 * Blocks that have not changed keep their nodes, so that a stream does not flicker, and those that cannot change any
 * more are not parsed again. While a text grows (`isWhole` is false) a long last block waits until it has grown by a
 * fraction of itself: the cost of an answer is linear in its length, however many pieces it comes in.
 */
export function render(container, text, { isWhole = true } = {}) {
  let state = states.get(container);
  if (!state || !text.startsWith(state.text)) state = { text: "", settled: 0, last: null };
  const open = text.length - state.settled;
  if (!isWhole && open > SMALL && text.length - state.text.length < open * GROWTH) return;
  const lines = text.slice(state.settled).split("\n");
  const blocks = split(lines.map((line, index) => (line.endsWith("\r") && index < lines.length - 1 ? line.slice(0, -1) : line)));
  const nodes = [];
  let next = state.last ? state.last.nextElementSibling : container.firstElementChild;
  for (const block of blocks) {
    const old = next;
    next = old?.nextElementSibling ?? null;
    nodes.push(place(container, old, block));
  }
  while (next) {
    const old = next;
    next = old.nextElementSibling;
    old.remove();
  }
  // A block is final when the first line of the next one is complete.
  const unsettled = blocks.findLastIndex(({ at }) => at < lines.length - 1);
  if (unsettled > 0) {
    for (let at = 0; at < blocks[unsettled].at; at++) state.settled += lines[at].length + 1;
    state.last = nodes[unsettled - 1];
  }
  states.set(container, { ...state, text });
}

const states = new WeakMap();
const sources = new WeakMap();

function place(container, old, block) {
  if (old && sources.get(old) === block.source) return old;
  const node = block.make(0);
  sources.set(node, block.source);
  if (old) old.replaceWith(node);
  else container.append(node);
  return node;
}

function split(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const found = fence(lines, at) ?? math(lines, at) ?? heading(lines, at) ?? rule(lines, at) ?? quote(lines, at) ?? list(lines, at) ??
      table(lines, at) ?? paragraph(lines, at);
    blocks.push({ at, source: lines.slice(at, found.end).join("\n"), make: found.make });
    at = found.end;
  }
  return blocks;
}

const children = (lines, depth) =>
  depth >= MAX_DEPTH ? [h("p", {}, lines.join("\n"))] : split(lines).map((block) => block.make(depth + 1));

function fenceMark(line) {
  const mark = FENCE.exec(line)?.[0];
  // With further backticks on its line it is not a fence but code in a paragraph.
  return mark && !line.includes("`", mark.length) ? mark : null;
}

function fence(lines, at) {
  const open = fenceMark(lines[at]);
  if (open === null) return null;
  const mark = open.trim();
  let end = at + 1;
  const closes = (line) => line.trim().startsWith(mark) && !line.trim().replaceAll(mark[0], "");
  while (end < lines.length && !closes(lines[end])) end += 1;
  const code = lines.slice(at + 1, end).join("\n");
  const language = lines[at].slice(open.length).trim().split(/\s/, 1)[0];
  return { end: Math.min(lines.length, end + 1), make: () => codeBlock(code, language) };
}

function codeBlock(text, language) {
  const shown = language.slice(0, 24) || "text";
  const { node, code } = codeBox(shown, `Code, ${shown}`, "Copy");
  code.append(highlight(text, language));
  return node;
}

// Display math ends at its closing mark or, as in TeX, at an empty line: also where the mark is missing or yet to come.
function math(lines, at) {
  const opening = MATH.exec(lines[at]);
  if (!opening) return null;
  const [open, dollars, bracket, name] = opening;
  const close = dollars ?? (bracket ? "\\]" : `\\end{${name}}`);
  let [end, found, from] = [at, -1, open.length];
  for (; end < lines.length && lines[end].trim() && found === -1; end++, from = 0) found = lines[end].indexOf(close, from);
  const after = found === -1 ? "" : lines[end - 1].slice(found + close.length).trim();
  if (after && end === at + 1) return null;
  const text = lines.slice(at, end).join("\n").trim();
  return { end, make: () => h("p", {}, after.length > 1 ? inline(text) : mathNode(text, { isBlock: true })) };
}

function heading(lines, at) {
  const found = HEADING.exec(lines[at]);
  if (!found) return null;
  const text = lines[at].slice(found[0].length).trimEnd().replace(/(^|[ \t])#+$/, "");
  // The page has an h1 and an h2 of its own: those of a model start below.
  return { end: at + 1, make: () => h(`h${Math.min(6, found[1].length + 2)}`, {}, inline(text)) };
}

const rule = (lines, at) => (RULE.test(lines[at]) ? { end: at + 1, make: () => h("hr") } : null);

function quote(lines, at) {
  if (!QUOTE.test(lines[at])) return null;
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return { end, make: (depth) => h("blockquote", {}, children(inner, depth)) };
}

function list(lines, at) {
  const first = ITEM.exec(lines[at]);
  if (!first || first[1].length > 3) return null;
  const ordered = /\d/.test(first[2]);
  const items = [];
  let end = at;
  let width = 0;
  while (end < lines.length) {
    const line = lines[end];
    const item = ITEM.exec(line);
    const indent = line.length - line.trimStart().length;
    if (item && item[1].length < Math.max(first[1].length + 2, width) && /\d/.test(item[2]) === ordered && !RULE.test(line)) {
      width = item[0].length;
      items.push([line.slice(width)]);
    } else if (!line.trim()) {
      // Blank lines end the list unless more of it follows.
      let after = end + 1;
      while (after < lines.length && !lines[after].trim()) after += 1;
      const next = lines[after];
      const goes = next !== undefined && (next.startsWith(" ".repeat(Math.min(width, 2))) || ITEM.test(next));
      if (!goes) break;
      for (; end < after; end++) items.at(-1).push("");
      continue;
    } else if (indent >= Math.min(width, 2)) {
      items.at(-1).push(line.slice(Math.min(indent, width)));
    } else break;
    end += 1;
  }
  return { end, make: (depth) => listNode(items, ordered, first[2], depth) };
}

function listNode(items, ordered, mark, depth) {
  const loose = items.some((lines) => lines.slice(0, -1).includes(""));
  const start = Number.parseInt(mark, 10);
  const nodes = items.map((lines) => {
    const task = TASK.exec(lines[0]);
    const inner = children(task ? [lines[0].slice(task[0].length), ...lines.slice(1)] : lines, depth);
    const [first, ...others] = inner;
    return h("li", { class: task ? "task" : undefined }, task ? checkbox(task[1] !== " ") : null,
      !loose && first?.tagName === "P" ? [...first.childNodes, ...others] : inner);
  });
  return h(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? start : undefined }, nodes);
}

const checkbox = (isDone) =>
  h("input", { type: "checkbox", disabled: true, checked: isDone, "aria-label": isDone ? "Done" : "To do" });

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/);
}

const ALIGNMENTS = { "::": "center", ":": "left", "-:": "right" };

function alignment(mark) {
  const text = mark.trim();
  return ALIGNMENTS[`${text.startsWith(":") ? ":" : "-"}${text.endsWith(":") ? ":" : ""}`];
}

function table(lines, at) {
  const delimiter = lines[at + 1];
  if (!lines[at].includes("|") || !delimiter?.includes("-")) return null;
  const marks = cells(delimiter);
  if (!marks.every((mark) => CELL.test(mark)) || marks.length !== cells(lines[at]).length) return null;
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const rows = lines.slice(at + 2, end).map(cells);
  const align = marks.map(alignment);
  // Missing cells are not made: a wide head over many short rows would have more cells than characters.
  const row = (texts, tag) =>
    h("tr", {}, texts.slice(0, align.length).map((text, column) =>
      h(tag, { class: align[column], scope: tag === "th" ? "col" : undefined }, inline(text.trim().replaceAll("\\|", "|")))));
  return {
    end,
    make: () =>
      h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
        h("table", {}, h("thead", {}, row(cells(lines[at]), "th")), h("tbody", {}, rows.map((one) => row(one, "td"))))),
  };
}

function paragraph(lines, at) {
  let end = at + 1;
  const ends = (line) =>
    !line.trim() || fenceMark(line) !== null || MATH.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
  while (end < lines.length && !ends(lines[end])) end += 1;
  const text = lines.slice(at, end).map((line) => line.trim()).join("\n");
  return { end, make: () => h("p", {}, inline(text)) };
}
