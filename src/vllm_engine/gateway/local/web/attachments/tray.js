// What is attached to the message that is being written: chosen, pasted or dropped.

import { announce, byId, h } from "../lib/dom.js";
import { bytes } from "../lib/format.js";
import { AttachError, MOST, readFile } from "./attachment.js";

const hasFiles = ({ types }) => [...types].includes("Files");

/** Return an attachment as a list's item; `remove` is missing once it is sent. */
export function attachmentItem({ kind, name, text, url }, remove) {
  const picture = kind === "image" ? h("img", { src: url, alt: "" }) : null;
  const size = kind === "text" ? h("span", { class: "size" }, bytes(new Blob([text]).size)) : null;
  return h("li", { title: name }, picture, h("span", { class: "name" }, name), size,
    remove ? h("button", { type: "button", "aria-label": `Remove ${name}`, onclick: remove }, "×") : null);
}

export class Tray {
  #all = [];
  #takesImages = false;
  #reading = 0;
  #read = Promise.resolve();
  #list = byId("attached");
  #files = byId("attach-files");

  constructor() {
    const place = byId("view-chat");
    byId("attach").addEventListener("click", () => this.#files.click());
    this.#files.addEventListener("change", () => {
      this.#addLater([...this.#files.files]);
      this.#files.value = "";
    });
    byId("prompt").addEventListener("paste", (event) => {
      // Programs that copy formatted text add a picture of it.
      const files = [...event.clipboardData.files];
      if (!files.length || event.clipboardData.types.includes("text/plain")) return;
      event.preventDefault();
      this.#addLater(files);
    });
    const mark = (isOver) => place.classList.toggle("dropping", isOver);
    place.addEventListener("dragover", (event) => {
      if (!hasFiles(event.dataTransfer)) return;
      event.preventDefault();
      mark(true);
    });
    place.addEventListener("dragleave", (event) => mark(place.contains(event.relatedTarget)));
    place.addEventListener("drop", (event) => {
      mark(false);
      if (!hasFiles(event.dataTransfer)) return;
      event.preventDefault();
      this.#addLater([...event.dataTransfer.files]);
    });
  }

  set takesImages(takesImages) {
    this.#takesImages = takesImages;
    const label = takesImages ? "Attach images or text files" : "Attach text files";
    byId("attach").setAttribute("aria-label", label);
    byId("attach").title = label;
  }

  get all() {
    return [...this.#all];
  }

  /** Whether files are being read: they belong to the next message. */
  get isReading() {
    return this.#reading > 0;
  }

  /** Return what is attached, and begin anew. */
  take() {
    const taken = this.#all;
    this.#all = [];
    this.#draw();
    return taken;
  }

  // One after another: they keep the order in which they came.
  #addLater(files) {
    this.#reading += 1;
    this.#read = this.#read.then(() => this.#add(files)).finally(() => (this.#reading -= 1));
  }

  async #add(files) {
    const problems = [];
    for (const file of files) {
      try {
        if (this.#all.length >= MOST.count) throw new AttachError(`A message may have ${MOST.count} attachments.`);
        const read = await readFile(file, { takesImages: this.#takesImages });
        this.#all.push(read);
        announce(`Attached ${read.name}`);
      } catch (error) {
        if (!(error instanceof AttachError)) throw error;
        problems.push(error.message);
      }
    }
    this.#draw(problems);
    byId("prompt").focus();
  }

  #draw(problems = []) {
    const remove = (one) => () => {
      this.#all.splice(this.#all.indexOf(one), 1);
      this.#draw();
      byId("prompt").focus();
    };
    this.#list.replaceChildren(...this.#all.map((one) => attachmentItem(one, remove(one))));
    this.#list.hidden = !this.#all.length;
    const place = byId("attach-problem");
    place.textContent = [...new Set(problems)].join(" ");
    place.hidden = !problems.length;
  }
}
