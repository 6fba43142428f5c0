// The options' form, and what they are in a request.

import { byId } from "../lib/dom.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

/** Return the part of a request's body that the options make; the system prompt is a message. */
export function bodyOf(options) {
  const body = {};
  for (const name of NUMBERS) {
    const value = Number.parseFloat(options[name]);
    if (Number.isFinite(value)) body[name] = name === "temperature" || name === "top_p" ? value : Math.trunc(value);
  }
  const stops = (options.stop ?? "").split("\n").filter((line) => line !== "");
  if (stops.length) body.stop = stops;
  if (options.json) body.response_format = { type: "json_object" };
  return body;
}

/** Show the options in the form; `changed` is called after each change to them. */
export function connectOptions(options, changed) {
  const form = byId("options-form");
  for (const field of form.elements) {
    if (field.type === "checkbox") field.checked = Boolean(options[field.name]);
    else if (field.name) field.value = options[field.name] ?? "";
  }
  const take = () => {
    for (const field of form.elements) {
      if (field.name) options[field.name] = field.type === "checkbox" ? field.checked : field.value;
    }
    changed();
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  // The reset event comes before the fields are empty.
  for (const name of ["input", "reset"]) form.addEventListener(name, () => setTimeout(take));
  const button = byId("options-button");
  const show = (open) => {
    byId("view-chat").classList.toggle("with-options", open);
    button.setAttribute("aria-expanded", String(open));
    (open ? byId("system") : button).focus();
  };
  button.addEventListener("click", () => show(button.getAttribute("aria-expanded") === "false"));
  byId("options-close").addEventListener("click", () => show(false));
  byId("options").addEventListener("keydown", (event) => event.key === "Escape" && show(false));
}
