// Markdown's blocks, as DOM nodes: what models write, not the whole of CommonMark. See inline.js for what is in them.

import { copy, h } from "./dom.js";
import { highlight } from "./highlight.js";
import { inline } from "./inline.js";

const MAX_DEPTH = 6;
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)/;
const QUOTE = /^ {0,3}> ?/;
const CELL = /^\s*:?-+:?\s*$/;

/** Show a text in a container; blocks that are as they were keep their nodes, so that a stream does not flicker. */
export function render(container, text) {
  const blocks = split(text.replaceAll("\r\n", "\n").split("\n"));
  blocks.forEach((block, index) => {
    const old = container.children[index];
    if (old && sources.get(old) === block.source) return;
    const node = block.make(0);
    sources.set(node, block.source);
    if (old) old.replaceWith(node);
    else container.append(node);
  });
  while (container.children.length > blocks.length) container.lastElementChild.remove();
}

const sources = new WeakMap();

function split(lines) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const found = fence(lines, at) ?? heading(lines, at) ?? rule(lines, at) ?? quote(lines, at) ?? list(lines, at) ??
      table(lines, at) ?? paragraph(lines, at);
    blocks.push({ source: lines.slice(at, found.end).join("\n"), make: found.make });
    at = found.end;
  }
  return blocks;
}

const children = (lines, depth) =>
  depth >= MAX_DEPTH ? [h("p", {}, lines.join("\n"))] : split(lines).map((block) => block.make(depth + 1));

function fence(lines, at) {
  const open = FENCE.exec(lines[at]);
  if (!open) return null;
  const mark = open[1];
  let end = at + 1;
  const closes = (line) => line.trim().startsWith(mark) && !line.trim().replaceAll(mark[0], "");
  while (end < lines.length && !closes(lines[end])) end += 1;
  const code = lines.slice(at + 1, end).join("\n");
  return { end: Math.min(lines.length, end + 1), make: () => codeBlock(code, open[2].trim().split(/\s/, 1)[0]) };
}

function codeBlock(code, language) {
  const shown = language.slice(0, 24);
  const button = h("button", { type: "button", class: "plain" }, "Copy");
  button.addEventListener("click", () => copy(code, button));
  return h(
    "div",
    { class: "code" },
    h("div", { class: "code-head" }, h("span", {}, shown || "text"), button),
    h("pre", { tabindex: "0", role: "region", "aria-label": `Code, ${shown || "text"}` },
      h("code", {}, highlight(code, language))),
  );
}

function heading(lines, at) {
  const found = HEADING.exec(lines[at]);
  if (!found) return null;
  const text = found[2].trimEnd().replace(/(^|[ \t])#+$/, "");
  // The page has an h1 and an h2 of its own: a model's begin below.
  return { end: at + 1, make: () => h(`h${Math.min(6, found[1].length + 2)}`, {}, ...inline(text)) };
}

const rule = (lines, at) => (RULE.test(lines[at]) ? { end: at + 1, make: () => h("hr") } : null);

function quote(lines, at) {
  if (!QUOTE.test(lines[at])) return null;
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return { end, make: (depth) => h("blockquote", {}, ...children(inner, depth)) };
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
      // A blank line ends the list unless something of it follows.
      const next = lines.slice(end).find((later) => later.trim());
      const goes = next !== undefined && (next.startsWith(" ".repeat(Math.min(width, 2))) || ITEM.test(next));
      if (!goes) break;
      items.at(-1).push("");
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
    const inner = children(lines, depth);
    if (!loose && inner[0]?.tagName === "P") inner.splice(0, 1, ...inner[0].childNodes);
    return h("li", {}, ...inner);
  });
  return h(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? start : undefined }, ...nodes);
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split("|");
}

function table(lines, at) {
  const delimiter = lines[at + 1];
  if (!lines[at].includes("|") || !delimiter?.includes("-")) return null;
  const marks = cells(delimiter);
  if (!marks.every((mark) => CELL.test(mark)) || marks.length !== cells(lines[at]).length) return null;
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const rows = lines.slice(at + 2, end).map(cells);
  const align = marks.map((mark) => (mark.trim().endsWith(":") ? "right" : undefined));
  const row = (texts, tag) =>
    h("tr", {}, ...align.map((side, column) =>
      h(tag, { class: side, scope: tag === "th" ? "col" : undefined }, ...inline((texts[column] ?? "").trim()))));
  return {
    end,
    make: () =>
      h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
        h("table", {}, h("thead", {}, row(cells(lines[at]), "th")), h("tbody", {}, ...rows.map((one) => row(one, "td"))))),
  };
}

function paragraph(lines, at) {
  let end = at + 1;
  const ends = (line) =>
    !line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
  while (end < lines.length && !ends(lines[end])) end += 1;
  const text = lines.slice(at, end).map((line) => line.trim()).join("\n");
  return { end, make: () => h("p", {}, ...inline(text)) };
}
