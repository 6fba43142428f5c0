// A JSON schema as a list of fields; what is inside one is drawn when it is opened, as schemas may contain themselves.

import { h } from "../lib/dom.js";

const json = (value) => JSON.stringify(value);

export class Schemas {
  constructor(components) {
    this.components = components;
  }

  /** Follow a reference, which is a path into the document. */
  resolve(part) {
    const path = part?.$ref?.startsWith("#/components/") ? part.$ref.split("/").slice(2) : null;
    if (!path) return part ?? {};
    return path.reduce((at, name) => at?.[name.replaceAll("~1", "/").replaceAll("~0", "~")], this.components) ?? {};
  }

  /** What a value may be, in a few words. */
  type(schema) {
    if (schema === true || schema === undefined) return "anything";
    if (schema.$ref) return schema.$ref.split("/").pop();
    if ("const" in schema) return json(schema.const);
    if (schema.enum) return schema.enum.map(json).join(" or ");
    const variants = schema.anyOf ?? schema.oneOf ?? schema.allOf;
    if (variants) return few([...new Set(variants.map((one) => this.type(one)))]);
    if (schema.type === "array") return schema.items ? `array of ${this.type(schema.items)}` : "array";
    const type = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type;
    return [type ?? "anything", schema.format].filter(Boolean).join(", ");
  }

  /** The schemas with fields that a value of this one may have, by name. */
  inner(schema, seen = new Set()) {
    if (!schema || typeof schema !== "object" || seen.has(schema)) return [];
    seen.add(schema);
    const resolved = this.resolve(schema);
    if (resolved.properties) return [[schema.$ref ? this.type(schema) : resolved.title ?? "object", resolved]];
    const parts = [...(resolved.anyOf ?? resolved.oneOf ?? resolved.allOf ?? []), resolved.items];
    return parts.flatMap((part) => this.inner(part, seen));
  }

  /** All fields of a schema, or of each of its variants. */
  draw(schema) {
    const inner = this.inner(schema);
    if (!inner.length) return h("p", { class: "small" }, this.type(schema));
    return h("div", {}, ...inner.map(([name, one]) => h("div", {},
      inner.length > 1 ? h("p", { class: "variant" }, name) : null,
      this.fields(one))));
  }

  fields(schema) {
    const required = new Set(schema.required ?? []);
    const entries = Object.entries(schema.properties);
    // What must be given comes first; otherwise the order is the document's.
    entries.sort(([a], [b]) => required.has(b) - required.has(a));
    return h("ul", { class: "fields" }, ...entries.map(([name, one]) => h("li", {},
      h("div", { class: "field" }, h("code", {}, name), h("span", { class: "type" }, this.type(one)),
        required.has(name) ? h("span", { class: "required" }, "required") : null,
        ...limits(one).map((limit) => h("span", { class: "type" }, limit))),
      one.description ? h("p", { class: "small" }, one.description) : null,
      this.inner(one).length ? unfolding("Fields", () => this.draw(one)) : null)));
  }
}

// A message may be of a dozen kinds: all of them are under Fields.
const few = (names) => (names.length > 4 ? `${names.slice(0, 2).join(" or ")} or ${names.length - 2} others` : names.join(" or "));

function limits(schema) {
  const found = [];
  if (schema.default !== undefined && schema.default !== null) found.push(`default ${json(schema.default)}`);
  const names = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<", minLength: "length ≥", maxLength: "length ≤" };
  for (const one of [schema, ...(schema.anyOf ?? [])]) {
    for (const [name, sign] of Object.entries(names)) if (one[name] !== undefined) found.push(`${sign} ${one[name]}`);
  }
  return found;
}

/** A part that is made when it is opened for the first time. */
export function unfolding(title, make) {
  const node = h("details", {}, h("summary", {}, title));
  node.addEventListener("toggle", () => node.childElementCount === 1 && node.append(make()));
  return node;
}
