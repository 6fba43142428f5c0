// The options of the chat: what each may be, and what they are in a request. Their values are kept as they are typed.

/** The numbers, with vLLM's limits; `above` is a limit that does not belong to them. */
export const NUMBERS = {
  temperature: { label: "Temperature", min: 0, max: 2 },
  top_p: { label: "Top p", above: 0, max: 1 },
  top_k: { label: "Top k", min: -1, isWhole: true },
  min_p: { label: "Min p", min: 0, max: 1 },
  repetition_penalty: { label: "Repetition penalty", above: 0 },
  presence_penalty: { label: "Presence penalty", min: -2, max: 2 },
  frequency_penalty: { label: "Frequency penalty", min: -2, max: 2 },
  max_tokens: { label: "Max tokens", min: 1, isWhole: true, fallback: "no limit" },
  seed: { label: "Seed", isWhole: true, fallback: "random" },
};

const OTHERS = { system: "System prompt", stop: "Stop at", json: "JSON mode", schema: "JSON schema", logprobs: "Token probabilities" };

const typed = (options, name) => String(options[name] ?? "").trim();
const stops = (options) => String(options.stop ?? "").split("\n").filter((line) => line !== "");

/** Say what is wrong with a value; empty if nothing is. */
export function problem(name, options) {
  const text = typed(options, name);
  if (!text) return "";
  if (name === "schema") return schemaProblem(text);
  const limits = NUMBERS[name];
  if (!limits) return "";
  const value = Number(text);
  const { min = -Infinity, max = Infinity, above = -Infinity, isWhole } = limits;
  const isRight = Number.isFinite(value) && value >= min && value <= max && value > above && !(isWhole && !Number.isSafeInteger(value));
  if (isRight) return "";
  const digits = isWhole && Number.isInteger(value) && !Number.isSafeInteger(value) ? " with at most 15 digits" : "";
  return `Must be ${wanted(limits)}${digits}, not “${text.slice(0, 20)}”.`;
}

function wanted({ min, max, above, isWhole }) {
  const kind = isWhole ? "a whole number" : "a number";
  if (above !== undefined) return `${kind} above ${above}${max === undefined ? "" : ` and at most ${max}`}`;
  if (max !== undefined) return `${kind} from ${min} to ${max}`;
  return min === undefined ? kind : `${kind} of at least ${min}`;
}

function schemaProblem(text) {
  try {
    const schema = JSON.parse(text);
    return schema && typeof schema === "object" && !Array.isArray(schema) ? "" : "Must be a JSON object, such as {\"type\": \"object\"}.";
  } catch (error) {
    return `Not JSON: ${error.message}`;
  }
}

/** Return those that are not at their default, each with its name and what to show of it. */
export function chosen(options) {
  const found = [];
  for (const [name, label] of Object.entries(OTHERS)) {
    if (typed(options, name) && options[name] !== false) found.push({ name, label });
  }
  for (const [name, { label }] of Object.entries(NUMBERS)) {
    const text = typed(options, name);
    if (text) found.push({ name, label: `${label} ${text.length > 12 ? `${text.slice(0, 12)}…` : text}` });
  }
  return found;
}

/** Return the part of a request's body that the options make; the system prompt is a message. */
export function bodyOf(options) {
  const body = {};
  for (const name of Object.keys(NUMBERS)) {
    if (typed(options, name) && !problem(name, options)) body[name] = Number(typed(options, name));
  }
  if (stops(options).length) body.stop = stops(options);
  if (options.json) body.response_format = { type: "json_object" };
  if (typed(options, "schema") && !problem("schema", options)) {
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(options.schema) } };
  }
  if (options.logprobs) Object.assign(body, { logprobs: true, top_logprobs: 5 });
  return body;
}
