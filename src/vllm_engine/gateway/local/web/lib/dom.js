// Builds nodes one by one; text is always text: nothing on this page parses markup.

// A child may be an array of children.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  // One by one: a long answer has more nodes than a call can have arguments.
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

export const h = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);

export const svg = (tag, properties = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), properties, children);

/** A picture of one line, for a button that has a name. */
export const icon = (d) => svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d }));

export const byId = (id) => document.getElementById(id);

/** Change text only if it differs: nothing is read out twice, and no selection is lost. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function announce(text) {
  byId("announcer").textContent = text;
}

/** Copy, and confirm it on the button for a moment. */
export async function copy(text, button) {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    if (!copyOldWay(text)) return;
  }
  button.textContent = "Copied";
  announce("Copied");
  setTimeout(() => (button.textContent = said), 1500);
}

// Without HTTPS, except on localhost, browsers have no navigator.clipboard.
function copyOldWay(text) {
  const field = h("textarea", { class: "unseen", "aria-hidden": "true" });
  field.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

/** Offer a value as a JSON file. */
export function saveJson(name, value, indent) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(value, null, indent)], { type: "application/json" }));
  h("a", { href: url, download: name }).click();
  // Some browsers begin to read it only later.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Storage that may be blocked, full, or have data of an older page; what cannot be stored is lost on reload. */
const jsonIn = (find) => {
  const attempt = (act, otherwise) => {
    try {
      return act(find());
    } catch {
      return otherwise;
    }
  };
  return {
    get: (key, fallback) => attempt((place) => JSON.parse(place.getItem(key)), null) ?? fallback,
    set: (key, value) => attempt((place) => place.setItem(key, JSON.stringify(value))),
    remove: (key) => attempt((place) => place.removeItem(key)),
    keys: (start) => attempt((place) => Object.keys(place).filter((key) => key.startsWith(start)), []),
  };
};
export const store = jsonIn(() => localStorage);
/** Lasts as long as the tab, and is its own. */
export const tabStore = jsonIn(() => sessionStorage);
