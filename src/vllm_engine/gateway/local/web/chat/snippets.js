// The next request as a program that others can run. It reads the key from the environment and never contains it.
// Of images it has the beginning only: their data is longer than everything else.

/** Asked wherever any question will do. */
export const QUESTION = "What is the capital of Japan?";

const LEFT_OUT = "Put the image's data, in Base64, in place of the …";
// What vLLM takes and OpenAI's client does not know.
const EXTRA = new Set(["top_k", "min_p", "repetition_penalty"]);

const withoutImages = (body) =>
  JSON.parse(JSON.stringify(body, (name, value) => (name === "url" && typeof value === "string" ? value.replace(/^(data:[^,]*,)[^]*/, "$1…") : value)));

/** Return a snippet's maker, which gets the body without its images' data. */
function shortened(make, comment) {
  return (url, body, needsKey) => {
    const shown = withoutImages(body);
    const isShort = JSON.stringify(shown) !== JSON.stringify(body);
    return `${isShort ? `${comment} ${LEFT_OUT}\n` : ""}${make(url, shown, needsKey)}`;
  };
}

const json = (value) => JSON.stringify(value, null, 2);
/** Quote a word for a shell. */
export const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl(url, body, needsKey) {
  const key = needsKey ? ` \\\n  -H "Authorization: Bearer $API_KEY"` : "";
  return `curl ${shell(url)} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d ${shell(json(body))}`;
}

// JSON's strings and numbers are valid Python; true, false and null are not.
function python(value, indent = "") {
  const inner = `${indent}    `;
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return value.length ? `[\n${value.map((one) => `${inner}${python(one, inner)},\n`).join("")}${indent}]` : "[]";
  if (typeof value === "object") {
    const lines = Object.entries(value).map(([name, one]) => `${inner}${JSON.stringify(name)}: ${python(one, inner)},\n`);
    return `{\n${lines.join("")}${indent}}`;
  }
  return JSON.stringify(value);
}

function openai(url, body, needsKey) {
  const base = url.replace(/\/chat\/completions$/, "");
  const key = needsKey ? 'os.environ["API_KEY"]' : '"none"';
  const known = Object.entries(body).filter(([name]) => !EXTRA.has(name));
  const extra = Object.entries(body).filter(([name]) => EXTRA.has(name));
  if (extra.length) known.push(["extra_body", Object.fromEntries(extra)]);
  const options = known.map(([name, value]) => `    ${name}=${python(value, "    ")},\n`);
  return `${needsKey ? "import os\n\n" : ""}from openai import OpenAI  # pip install openai

client = OpenAI(base_url=${JSON.stringify(base)}, api_key=${key})
answer = client.chat.completions.create(
${options.join("")})
print(answer.choices[0].message.content)`;
}

function javascript(url, body, needsKey) {
  const key = needsKey ? "\n    Authorization: `Bearer ${process.env.API_KEY}`," : "";
  return `const response = await fetch(${JSON.stringify(url)}, {
  method: "POST",
  headers: {
    "Content-Type": "application/json",${key}
  },
  body: JSON.stringify(${json(body).replaceAll("\n", "\n  ")}),
});
if (!response.ok) throw new Error(await response.text());
const answer = await response.json();
console.log(answer.choices[0].message.content);`;
}

/** Each takes the URL of chat completions, the request's body, and whether the server needs a key. */
export const snippets = {
  curl: { make: shortened(curl, "#"), language: "sh" },
  Python: { make: shortened(openai, "#"), language: "python" },
  JavaScript: { make: shortened(javascript, "//"), language: "js" },
};
