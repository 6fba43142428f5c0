// A request to paste for each operation: a body that is known to work where the route is a usual one, else its required fields.

import { QUESTION, shell } from "../chat/snippets.js";
import { address } from "../lib/api.js";

const MESSAGES = [{ role: "user", content: QUESTION }];
const AUDIO = ["/v1/audio/transcriptions", "/v1/audio/translations"];

function knownBody(path, model) {
  return {
    "/v1/chat/completions": { model, messages: MESSAGES, max_tokens: 100, stream: true },
    "/v1/chat/completions/batch": { model, messages: [MESSAGES, MESSAGES], max_tokens: 100 },
    "/v1/completions": { model, prompt: "The capital of Japan is", max_tokens: 20 },
    "/v1/responses": { model, input: QUESTION, max_output_tokens: 100 },
    "/v1/messages": { model, messages: MESSAGES, max_tokens: 100 },
    "/v1/messages/count_tokens": { model, messages: MESSAGES },
    "/v1/embeddings": { model, input: QUESTION },
    "/v1/score": { model, text_1: QUESTION, text_2: "Tokyo" },
    "/v1/rerank": { model, query: QUESTION, documents: ["Tokyo", "Rome"] },
    "/classify": { model, input: QUESTION },
    "/pooling": { model, input: QUESTION },
    "/tokenize": { model, prompt: QUESTION },
    "/detokenize": { model, tokens: [1, 2, 3] },
  }[path];
}

function sample(schemas, schema, model, name = "", depth = 0) {
  const one = schemas.resolve(schema);
  if (name === "model") return model;
  if ("const" in one) return one.const;
  if (one.default !== undefined && one.default !== null) return one.default;
  if (one.enum) return one.enum[0];
  const variant = (one.anyOf ?? one.oneOf ?? one.allOf)?.[0];
  if (variant) return depth < 6 ? sample(schemas, variant, model, name, depth + 1) : null;
  if (one.type === "array") return depth < 6 && one.items ? [sample(schemas, one.items, model, "", depth + 1)] : [];
  if (one.properties && depth < 6) {
    return Object.fromEntries((one.required ?? []).map((key) => [key, sample(schemas, one.properties[key], model, key, depth + 1)]));
  }
  return { string: "text", integer: 1, number: 1, boolean: true, object: {} }[one.type] ?? null;
}

/** Return the request as a curl command, which reads the key from the environment. */
export function curl({ path, method, operation, schemas, model }) {
  const content = operation.requestBody?.content ?? {};
  // curl sends POST by itself where there is a body.
  const verb = method === "get" || (method === "post" && Object.keys(content).length) ? "" : `-X ${method.toUpperCase()} `;
  const lines = [`curl ${verb}${shell(address(path.slice(1)))}`];
  if (operation.security?.length) lines.push('-H "Authorization: Bearer $API_KEY"');
  if (AUDIO.includes(path)) {
    lines.push(`-F ${shell(`model=${model}`)}`, "-F 'file=@speech.wav'");
  } else if (content["application/json"]) {
    const body = knownBody(path, model) ?? sample(schemas, content["application/json"].schema, model);
    lines.push("-H 'Content-Type: application/json'", `-d ${shell(JSON.stringify(body, null, 2))}`);
  }
  return lines.join(" \\\n  ");
}
