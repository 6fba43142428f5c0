// The API reference: what /openapi.json describes, to read and to search.

import { ApiError, base, getJson } from "../lib/api.js";
import { byId, h, saveJson, setText } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { drawOperation } from "./operation.js";
import { Schemas } from "./schema.js";

const GROUPS = { model: "The model", server: "This server", page: "This page" };
const METHODS = ["get", "post", "put", "patch", "delete", "head", "options"];
// What most people look for comes first.
const FIRST = ["/v1/chat", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/v1/", "/"];
const rank = ({ path }) => FIRST.findIndex((start) => path.startsWith(start));

export class ReferenceView {
  constructor({ askForKey }) {
    this.askForKey = askForKey;
    this.shown = null;
    this.node = byId("api");
  }

  /** Ask for the document if it is not known, or may say more in this state of the engine. */
  async refresh({ state, model, lacksKey }) {
    const wanted = lacksKey ? "a key" : `${state} ${model}`;
    if (wanted === this.shown) return;
    this.shown = wanted;
    if (lacksKey) {
      this.node.replaceChildren(h("p", { class: "lead" }, "The reference asks for a key, as the API does."),
        h("button", { type: "button", class: "primary", onclick: () => this.askForKey() }, "Enter the API key"));
      return;
    }
    Object.assign(this, { state, model });
    await this.load();
  }

  async load() {
    try {
      this.node.replaceChildren(...this.draw(await getJson("openapi.json")));
    } catch (error) {
      this.shown = null;
      if (!(error instanceof ApiError) || error.status === 401) throw error;
      this.node.replaceChildren(h("p", { class: "lead" }, `${error.title}. ${error.advice}`));
    }
  }

  draw(description) {
    const schemas = new Schemas(description.components ?? {});
    const all = Object.entries(description.paths).flatMap(([path, item]) => METHODS.filter((method) => item[method]).map((method) => {
      const operation = item[method];
      const node = drawOperation({ path, method, operation, item, schemas, model: this.model });
      return { path, node, tag: operation.tags?.[0], words: `${method} ${path} ${operation.summary ?? ""}`.toLowerCase() };
    }));
    const groups = Object.entries(GROUPS).map(([tag, title]) => {
      const members = all.filter((one) => (one.tag ?? "server") === tag).sort((a, b) => rank(a) - rank(b));
      return { members, node: h("section", {}, h("h2", {}, title), ...members.map(({ node }) => node)) };
    }).filter(({ members }) => members.length);
    const found = h("p", { class: "small", role: "status" });
    const search = h("input", { type: "search", id: "api-search", placeholder: "Path, method or name", autocomplete: "off", spellcheck: "false",
      oninput: (event) => filter(event.currentTarget.value) });
    const filter = (text) => {
      const words = text.toLowerCase().split(/\s+/).filter(Boolean);
      for (const one of all) one.node.hidden = !words.every((word) => one.words.includes(word));
      for (const { members, node } of groups) node.hidden = members.every((one) => one.node.hidden);
      setText(found, plural(all.filter((one) => !one.node.hidden).length, "operation"));
    };
    filter("");
    return [
      h("p", { class: "lead" }, "What this server really answers, at ", h("code", {}, base.href), "."),
      ...this.note(description.info["x-note"]),
      h("div", { class: "search" }, h("label", { for: "api-search" }, "Find"), search,
        h("button", { type: "button", class: "plain", onclick: () => saveJson("openapi.json", description, 2) }, "Download openapi.json")),
      found,
      ...groups.map(({ node }) => node),
    ];
  }

  note(text) {
    if (!text) return [];
    const again = h("button", { type: "button", class: "plain", onclick: () => this.load() }, "Ask again");
    return [h("div", { class: "note" }, h("p", {}, text), this.state === "ready" ? again : null)];
  }
}
