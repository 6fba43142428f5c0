// How likely each token of an answer was, and what else could have been there.

import { h } from "../lib/dom.js";
import { percent } from "../lib/format.js";

const MOST = 2000;
// Not part of the message: as long as the page is open is long enough for numbers several times as long as the answer.
const known = new WeakMap();

/** Take the probabilities that came with a piece of an answer. */
export function addProbabilities(message, logprobs) {
  if (!logprobs?.content?.length) return;
  if (!known.has(message)) known.set(message, []);
  const tokens = known.get(message);
  tokens.push(...logprobs.content.slice(0, MOST - tokens.length));
}

/** Return the tokens in colours, each explained where the pointer is or the arrow keys go; null if none are known. */
export function probabilities(message) {
  const tokens = known.get(message);
  if (!tokens) return null;
  const told = h("p", { class: "small", role: "status" }, "Point at a token, or use the arrow keys.");
  const nodes = tokens.map(({ token, logprob }) => h("span", { class: `token-${grade(Math.exp(logprob))}` }, token));
  const text = h("p", { class: "tokens", tabindex: "0", role: "group", "aria-label": "Tokens" }, nodes);
  let at = -1;
  const show = (index) => {
    if (index < 0 || index >= nodes.length || index === at) return;
    nodes[at]?.classList.remove("here");
    at = index;
    nodes[at].classList.add("here");
    told.textContent = explained(tokens[at]);
  };
  text.addEventListener("pointerover", ({ target }) => show(nodes.indexOf(target)));
  text.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(at + step);
    nodes[at]?.scrollIntoView({ block: "nearest" });
  });
  return h("details", { class: "probabilities" }, h("summary", {}, "Token probabilities"), text, told);
}

const grade = (share) => (share >= 0.9 ? 0 : share >= 0.5 ? 1 : share >= 0.2 ? 2 : 3);
const shown = ({ token, logprob }) => `${JSON.stringify(token)} ${percent(Math.exp(logprob))}`;

function explained({ token, logprob, top_logprobs: top = [] }) {
  const others = top.filter((one) => one.token !== token).map(shown);
  return `${shown({ token, logprob })}${others.length ? `; else ${others.join(", ")}` : ""}`;
}
