// One operation: what it takes, what it answers, and how to ask for it.

import { highlight } from "../chat/highlight.js";
import { h } from "../lib/dom.js";
import { codeBox } from "../lib/code_box.js";
import { curl } from "./examples.js";
import { unfolding } from "./schema.js";

export function drawOperation({ path, method, operation, item, schemas, model }) {
  const node = h("details", { class: "card operation" }, h("summary", {},
    h("span", { class: `method ${method}` }, method.toUpperCase()), h("code", {}, path),
    h("span", { class: "about" }, operation.summary ?? "")));
  const draw = () => {
    if (node.childElementCount > 1) return;
    node.append(h("div", { class: "inside" },
      ...(operation.description ?? "").split(/\n{2,}/).filter(Boolean).map((text) => h("p", {}, text)),
      ...drawParameters([...(item.parameters ?? []), ...(operation.parameters ?? [])].map((one) => schemas.resolve(one)), schemas),
      ...drawBody(operation.requestBody, schemas),
      ...drawResponses(operation.responses ?? {}, schemas),
      ...drawExample(curl({ path, method, operation, schemas, model }))));
  };
  node.addEventListener("toggle", draw);
  return node;
}

function drawParameters(parameters, schemas) {
  if (!parameters.length) return [];
  return [h("h3", {}, "Parameters"), h("ul", { class: "fields" }, ...parameters.map((one) => h("li", {},
    h("div", { class: "field" }, h("code", {}, one.name), h("span", { class: "type" }, `${schemas.type(one.schema)}, in the ${one.in}`),
      one.required ? h("span", { class: "required" }, "required") : null),
    one.description ? h("p", { class: "small" }, one.description) : null)))];
}

function drawBody(body, schemas) {
  const [kind, content] = Object.entries(body?.content ?? {})[0] ?? [];
  if (!kind) return [];
  return [h("h3", {}, "Body"), h("p", { class: "small" }, kind), unfolding(schemas.type(content.schema), () => schemas.draw(content.schema))];
}

function drawResponses(responses, schemas) {
  return [h("h3", {}, "Answers"), h("ul", { class: "answers" }, ...Object.entries(responses).map(([status, response]) => {
    const { description, content } = schemas.resolve(response);
    const schema = Object.values(content ?? {})[0]?.schema;
    const hasFields = schema && schemas.inner(schema).length > 0;
    return h("li", {}, h("code", {}, status), h("div", {}, h("span", {}, description ?? ""),
      hasFields ? unfolding(schemas.type(schema), () => schemas.draw(schema)) : null));
  }))];
}

function drawExample(text) {
  const { node, code } = codeBox("curl", "Example");
  code.replaceChildren(highlight(text, "sh"));
  return [h("h3", {}, "Example"), node];
}
