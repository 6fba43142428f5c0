// The options' form, and what of them differs from the defaults, beside its button.

import { announce, byId, h } from "../lib/dom.js";
import { NUMBERS, chosen, problem } from "./options.js";

export class OptionsForm {
  #options;
  #changed;
  #form = byId("options-form");
  #button = byId("options-button");

  /** `changed` is called after each change to the options. */
  constructor(options, changed) {
    this.#options = options;
    this.#changed = changed;
    byId("option-numbers").append(...Object.entries(NUMBERS).map(([name, spec]) => numberField(name, spec)));
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#form.addEventListener("input", () => this.#take());
    for (const id of ["options-reset", "chosen-reset"]) byId(id).addEventListener("click", () => this.#reset());
    this.#button.addEventListener("click", () => this.#show(this.#button.getAttribute("aria-expanded") === "false"));
    byId("options-close").addEventListener("click", () => this.#show(false));
    byId("options").addEventListener("keydown", (event) => event.key === "Escape" && this.#show(false));
    this.showDefaults({});
    this.#fill();
  }

  /** Return whether all values are right; otherwise show the first that is not. */
  check() {
    const wrong = this.#fields.find(({ name }) => problem(name, this.#options));
    if (!wrong) return true;
    this.#show(true);
    wrong.focus();
    announce(`${wrong.labels[0].textContent}: ${problem(wrong.name, this.#options)}`);
    return false;
  }

  /** Show what the server takes where nothing is typed. */
  showDefaults(defaults) {
    for (const [name, { fallback = "default" }] of Object.entries(NUMBERS)) {
      byId(name).placeholder = name in defaults ? `${defaults[name]} (default)` : fallback.replace(/^./, (letter) => letter.toUpperCase());
    }
  }

  get #fields() {
    return [...this.#form.elements].filter(({ name }) => name);
  }

  #fill() {
    for (const field of this.#fields) {
      if (field.type === "checkbox") field.checked = Boolean(this.#options[field.name]);
      else field.value = this.#options[field.name] ?? "";
    }
    this.#tell();
  }

  #take() {
    for (const field of this.#fields) this.#options[field.name] = field.type === "checkbox" ? field.checked : field.value;
    this.#tell();
    this.#changed();
  }

  #reset(names = this.#fields.map(({ name }) => name)) {
    for (const name of names) delete this.#options[name];
    this.#fill();
    this.#changed();
  }

  #tell() {
    for (const field of this.#fields) {
      const told = problem(field.name, this.#options);
      const place = byId(`${field.id}-problem`);
      if (!place) continue;
      place.textContent = told;
      if (told) field.setAttribute("aria-invalid", "true");
      else field.removeAttribute("aria-invalid");
    }
    const all = chosen(this.#options);
    byId("chosen").hidden = !all.length;
    byId("chosen-list").replaceChildren(...all.map(({ name, label }) => this.#chip(name, label)));
    this.#button.textContent = all.length ? `Options (${all.length})` : "Options";
  }

  #chip(name, label) {
    const drop = () => {
      this.#reset([name]);
      (byId("chosen-list").querySelector("button") ?? this.#button).focus();
    };
    const isWrong = Boolean(problem(name, this.#options));
    return h("li", {}, h("span", { class: isWrong ? "wrong" : undefined }, label),
      h("button", { type: "button", "aria-label": `Reset ${label}`, title: "Back to the default", onclick: drop }, "×"));
  }

  #show(open) {
    byId("view-chat").classList.toggle("with-options", open);
    this.#button.setAttribute("aria-expanded", String(open));
    (open ? byId("system") : this.#button).focus();
  }
}

function numberField(name, { label, isWhole }) {
  // Not type=number: browsers drop what is no number, and it could not be named.
  return h("div", {}, h("label", { for: name }, label),
    h("input", { id: name, name, inputmode: isWhole ? "numeric" : "decimal", "aria-describedby": `${name}-problem`, spellcheck: "false" }),
    h("p", { class: "wrong", id: `${name}-problem` }));
}
