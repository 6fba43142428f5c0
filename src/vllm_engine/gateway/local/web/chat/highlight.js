// Highlights code: comments, strings, numbers and keywords, well enough for reading.

import { h } from "../lib/dom.js";

const WORDS = {
  c: "auto bool break case catch char class const constexpr continue default delete do double else enum explicit extern false float for friend goto if inline int long namespace new nullptr operator private protected public return short signed sizeof static struct switch template this throw true try typedef typename union unsigned using virtual void volatile while",
  go: "break case chan const continue default defer else fallthrough false for func go goto if import interface map nil package range return select struct switch true type var",
  java: "abstract boolean break byte case catch char class const continue default do double else enum extends false final finally float for if implements import instanceof int interface long new null package private protected public record return short static super switch this throw throws true try var void while",
  js: "as async await break case catch class const continue debugger default delete do else enum export extends false finally for from function get if implements import in instanceof interface let new null of private public readonly return set static super switch this throw true try type typeof undefined var void while yield",
  json: "true false null",
  python: "False None True and as assert async await break case class continue def del elif else except finally for from global if import in is lambda match nonlocal not or pass raise return try while with yield self",
  rust: "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true type unsafe use where while",
  sh: "case do done elif else esac export fi for function if in local return set then until while echo cd exit",
  sql: "add all alter and as asc between by case create delete desc distinct drop else end exists from group having in index inner insert into is join key left like limit not null on or order outer primary right select set table then union unique update values when where with",
  yaml: "true false null yes no on off",
};
const ALIASES = {
  bash: "sh", "c++": "c", cpp: "c", cs: "java", csharp: "java", h: "c", javascript: "js", jsx: "js", kotlin: "java",
  golang: "go", mjs: "js", py: "python", python3: "python", rs: "rust", shell: "sh", toml: "yaml", ts: "js", tsx: "js",
  typescript: "js", yml: "yaml", zsh: "sh", console: "sh",
};
const HASH = new Set(["python", "sh", "yaml"]);

const STRING = /"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*'|`(?:[^`\\]|\\[^])*`/y;
const QUOTES = new Set("\"'`");
const TRIPLE = /"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)/y;
const NUMBER = /\b(?:0[xX][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\b/y;
const NAME = /[A-Za-z_$][\w$]*/y;
const COMMENTS = {
  hash: /#[^\n]*/y,
  slash: /\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)/y,
  dash: /--[^\n]*/y,
};

/** Finds strings as a sticky pattern does; where one has no end, the next quote before that end has none either. */
class Strings {
  lastIndex = 0;
  #endless = {};

  exec(code) {
    const quote = code[this.lastIndex];
    if (this.lastIndex < (this.#endless[quote] ?? 0)) return null;
    STRING.lastIndex = this.lastIndex;
    const found = STRING.exec(code);
    if (!found && QUOTES.has(quote)) {
      const end = quote === "`" ? -1 : code.indexOf("\n", this.lastIndex);
      this.#endless[quote] = end === -1 ? code.length : end;
    }
    return found;
  }
}

function rules(language) {
  const comment = HASH.has(language) ? COMMENTS.hash : language === "sql" ? COMMENTS.dash : COMMENTS.slash;
  const found = [["comment", comment], ["string", new Strings()], ["number", NUMBER]];
  if (language === "python") found.splice(1, 0, ["string", TRIPLE]);
  return found;
}

/** Return a fragment with the code; unknown languages are plain. */
export function highlight(code, name) {
  const fragment = document.createDocumentFragment();
  const lower = name.toLowerCase();
  const language = ALIASES[lower] ?? lower;
  if (!Object.hasOwn(WORDS, language)) {
    fragment.append(code);
    return fragment;
  }
  const words = new Set(WORDS[language].split(" "));
  const wanted = rules(language);
  let plain = "";
  const put = (kind, text) => {
    if (plain) fragment.append(plain);
    plain = "";
    fragment.append(h("span", { class: kind }, text));
  };
  let at = 0;
  while (at < code.length) {
    const found = first(wanted, code, at) ?? word(code, at, words, language);
    if (found?.kind) put(found.kind, found.text);
    else plain += found?.text ?? code[at];
    at += found?.text.length ?? 1;
  }
  if (plain) fragment.append(plain);
  return fragment;
}

function first(wanted, code, at) {
  for (const [kind, pattern] of wanted) {
    pattern.lastIndex = at;
    const found = pattern.exec(code);
    if (found?.[0]) return { kind, text: found[0] };
  }
  return null;
}

function word(code, at, words, language) {
  NAME.lastIndex = at;
  const text = NAME.exec(code)?.[0];
  if (!text) return null;
  if (words.has(language === "sql" ? text.toLowerCase() : text)) return { kind: "keyword", text };
  return { kind: code[at + text.length] === "(" ? "call" : null, text };
}
