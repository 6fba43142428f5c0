// The list of conversations: find, open, rename, delete, export and import.

import { announce, byId, h, icon, store } from "../lib/dom.js";
import { PLACE } from "./library.js";
import { exportFile, importFile } from "./transfer.js";

const PAGE = 100;
const IS_OPEN = `${PLACE} list`;
const WIDE = matchMedia("(min-width: 1100px)");

export class Panel {
  #library;
  #open;
  #current = null;
  #found = null;
  #shown = PAGE;
  #renaming = null;
  #drawn = "";
  #list = byId("conversations-list");
  #search = byId("conversations-search");

  /** `open` is called with the id of the conversation to show. */
  constructor({ library, open }) {
    this.#library = library;
    this.#open = open;
    this.#connect();
    library.addEventListener("change", () => this.#draw());
    // Where it would cover the conversation, it comes only when it is asked for.
    const fit = () => this.#toggle(WIDE.matches && store.get(IS_OPEN, true));
    WIDE.addEventListener("change", fit);
    fit();
  }

  /** Mark the conversation that is shown. */
  mark(id) {
    this.#current = id;
    this.#draw();
  }

  #connect() {
    const button = byId("conversations-button");
    const show = (isOpen) => {
      store.set(IS_OPEN, isOpen);
      this.#toggle(isOpen);
      (isOpen ? this.#search : button).focus();
    };
    button.addEventListener("click", () => show(button.getAttribute("aria-expanded") === "false"));
    byId("conversations-close").addEventListener("click", () => show(false));
    byId("conversations").addEventListener("keydown", (event) => {
      // In a search that has text it empties that.
      if (event.key !== "Escape" || event.target.value) return;
      event.stopPropagation();
      show(false);
    });
    this.#search.addEventListener("input", () => this.#find());
    byId("export").addEventListener("click", () => this.#export());
    const file = byId("import-file");
    byId("import").addEventListener("click", () => file.click());
    file.addEventListener("change", async () => {
      const [chosen] = file.files;
      if (chosen) this.#say(await importFile(chosen, this.#library));
      // So that the same file can be chosen again.
      file.value = "";
    });
  }

  #toggle(isOpen) {
    byId("view-chat").classList.toggle("with-list", isOpen);
    byId("conversations-button").setAttribute("aria-expanded", String(isOpen));
    if (isOpen) this.#draw();
  }

  async #find() {
    const text = this.#search.value.trim();
    const found = text ? await this.#library.search(text) : null;
    if (text !== this.#search.value.trim()) return;
    this.#found = found;
    this.#shown = PAGE;
    this.#draw();
  }

  #draw() {
    // What is typed as a name is not thrown away because another tab has said something.
    if (this.#renaming) return;
    byId("conversations-kept").hidden = this.#library.isLasting;
    const wanted = this.#library.list().filter(({ id }) => !this.#found || this.#found.has(id));
    // Drawn again only if it differs: who is about to press a button presses it.
    const state = JSON.stringify([this.#current, this.#shown, Boolean(this.#found), wanted.map(({ id, title }) => [id, title, this.#note(id)])]);
    if (state === this.#drawn) return;
    this.#drawn = state;
    const focused = document.activeElement?.closest?.("#conversations-list li");
    const label = focused && document.activeElement.dataset.does;
    this.#list.replaceChildren(...wanted.slice(0, this.#shown).map((one) => this.#item(one)));
    if (focused) this.#list.querySelector(`[data-id="${CSS.escape(focused.dataset.id)}"] [data-does="${label}"]`)?.focus();
    byId("conversations-none").hidden = wanted.length > 0;
    byId("conversations-none").textContent = this.#found ? "None has this text." : "None yet. They are kept in this browser only.";
    const more = byId("conversations-more");
    more.hidden = wanted.length <= this.#shown;
    more.onclick = () => {
      this.#shown += PAGE;
      this.#draw();
    };
    byId("export").disabled = wanted.length === 0;
  }

  #note(id) {
    if (this.#library.isAnsweredElsewhere(id)) return "Answering in another tab";
    return this.#library.isAnsweredHere(id) ? "Answering" : null;
  }

  #item({ id, title, updated }) {
    const note = this.#note(id);
    const act = (does, draw, run) =>
      h("button", { type: "button", class: "icon", "data-does": does, "aria-label": `${does}: ${title}`, title: does, onclick: run }, icon(draw));
    return h("li", { "data-id": id },
      h("button", {
        type: "button", class: "conversation", "data-does": "Open", "aria-current": id === this.#current ? "true" : null,
        title: `${title}\n${new Date(updated).toLocaleString()}`,
        onclick: () => this.#choose(id),
      }, h("span", {}, title), note ? h("span", { class: "small" }, note) : null),
      act("Rename", "M4 20h4L19 9l-4-4L4 16z", () => this.#rename(id, title)),
      act("Delete", "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13", () => this.#delete(id, title)));
  }

  #choose(id) {
    this.#say("");
    if (!WIDE.matches) this.#toggle(false);
    this.#open(id);
  }

  #rename(id, title) {
    this.#drawn = "";
    const field = h("input", { "aria-label": `New name of ${title}`, maxlength: "200" });
    field.value = title;
    this.#renaming = id;
    let isOver = false;
    const end = async (name) => {
      if (isOver) return;
      isOver = true;
      this.#renaming = null;
      const record = name === null ? null : await this.#library.get(id);
      if (record) await this.#library.save(Object.assign(record, { name }));
      this.#draw();
      this.#list.querySelector(`[data-id="${CSS.escape(id)}"] [data-does="Rename"]`)?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      end(event.key === "Enter" ? field.value.trim() : null);
    });
    field.addEventListener("blur", () => end(field.value.trim() === title ? null : field.value.trim()));
    this.#list.querySelector(`[data-id="${CSS.escape(id)}"]`).replaceChildren(field);
    field.select();
  }

  async #delete(id, title) {
    const record = await this.#library.get(id);
    const wasShown = id === this.#current;
    await this.#library.remove(id);
    const undo = h("button", { type: "button", class: "plain" }, "Undo");
    undo.addEventListener("click", async () => {
      await this.#library.save(record);
      this.#say("");
      if (wasShown) this.#open(id);
      this.#list.querySelector(`[data-id="${CSS.escape(id)}"] [data-does="Open"]`)?.focus();
    });
    this.#say(`Deleted “${title}”.`, undo);
    undo.focus();
  }

  async #export() {
    const records = await this.#library.all();
    const wanted = records.filter(({ id }) => !this.#found || this.#found.has(id));
    exportFile(wanted, `conversations-${new Date().toISOString().slice(0, 10)}.json`);
  }

  #say(text, ...more) {
    const note = byId("conversations-note");
    note.hidden = !text;
    note.replaceChildren(h("span", {}, text), ...more);
    if (text) announce(text);
  }
}
