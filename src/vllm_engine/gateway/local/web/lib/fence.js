// Markdown's code fences.

/** Return a text in a fence of this mark that nothing in the text closes. */
export function fenced(text, mark, language = "") {
  // Not Math.max(...): a text may have more runs than a call can have arguments.
  const longest = (text.match(new RegExp(`${mark}+`, "g")) ?? []).reduce((most, { length }) => Math.max(most, length), 2);
  const fence = mark.repeat(longest + 1);
  return `${fence}${language}\n${text}\n${fence}`;
}
