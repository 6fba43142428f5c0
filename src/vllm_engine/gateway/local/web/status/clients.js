// How to reach this server: its base URL, and programs to paste. They read the key from the environment.

import { highlight } from "../chat/highlight.js";
import { QUESTION, shell, snippets } from "../chat/snippets.js";
import { address } from "../lib/api.js";
import { codeBox } from "../lib/code_box.js";
import { copy, h } from "../lib/dom.js";

const MESSAGES = [{ role: "user", content: QUESTION }];
const quoted = (text) => JSON.stringify(text);
const key = (needsKey) => (needsKey ? 'os.environ["API_KEY"]' : '"none"');
const imports = (needsKey) => (needsKey ? "import os\n\n" : "");

function environment(base, model, needsKey) {
  return `# Read by OpenAI's SDKs and by most programs that use them
export OPENAI_BASE_URL=${shell(base)}
export OPENAI_API_KEY=${needsKey ? '"$API_KEY"' : "none"}
export OPENAI_MODEL=${shell(model)}`;
}

function langchain(base, model, needsKey) {
  return `${imports(needsKey)}from langchain_openai import ChatOpenAI  # pip install langchain-openai

chat = ChatOpenAI(base_url=${quoted(base)}, api_key=${key(needsKey)}, model=${quoted(model)}, max_tokens=100)
print(chat.invoke(${quoted(QUESTION)}).content)`;
}

function litellm(base, model, needsKey) {
  return `${needsKey ? "import os\n" : ""}import litellm  # pip install litellm

answer = litellm.completion(
    model=${quoted(`hosted_vllm/${model}`)},
    api_base=${quoted(base)},
    api_key=${key(needsKey)},
    messages=[{"role": "user", "content": ${quoted(QUESTION)}}],
    max_tokens=100,
)
print(answer.choices[0].message.content)`;
}

const ask = ({ make, language }) => ({
  language,
  make: (base, model, needsKey) => make(`${base}/chat/completions`, { model, messages: MESSAGES, max_tokens: 100 }, needsKey),
});
const CLIENTS = {
  ...Object.fromEntries(Object.entries(snippets).map(([name, snippet]) => [name, ask(snippet)])),
  LangChain: { make: langchain, language: "python" },
  LiteLLM: { make: litellm, language: "python" },
  Environment: { make: environment, language: "sh" },
};

export class ClientsCard {
  constructor(node) {
    this.base = address("v1");
    this.model = h("code");
    const { node: program, code } = codeBox("Ready to paste", "Program");
    this.code = code;
    this.chosen = Object.keys(CLIENTS)[0];
    this.tabs = Object.keys(CLIENTS).map((name) => h("button", { type: "button", class: "tab", onclick: () => this.choose(name) }, name));
    this.keyHint = h("p", { class: "small" }, "The programs read the key from the environment: ", h("code", {}, "export API_KEY=…"));
    node.append(
      h("dl", { class: "where" },
        h("div", {}, h("dt", {}, "Base URL"), h("dd", {}, h("code", {}, this.base), copyButton("Copy the base URL", () => this.base))),
        h("div", {}, h("dt", {}, "Model"), h("dd", {}, this.model, copyButton("Copy the model's name", () => this.model.textContent)))),
      h("div", { class: "row", role: "group", "aria-label": "Client" }, ...this.tabs),
      program,
      this.keyHint);
  }

  update(model, needsKey) {
    if (model === this.model.textContent && needsKey === this.needsKey) return;
    this.model.textContent = model;
    this.needsKey = needsKey;
    this.keyHint.hidden = !needsKey;
    this.choose(this.chosen);
  }

  choose(name) {
    this.chosen = name;
    for (const tab of this.tabs) tab.setAttribute("aria-pressed", String(tab.textContent === name));
    const { make, language } = CLIENTS[name];
    this.code.replaceChildren(highlight(make(this.base, this.model.textContent, this.needsKey), language));
  }
}

const copyButton = (label, text) =>
  h("button", { type: "button", class: "plain", "aria-label": label, onclick: (event) => copy(text(), event.currentTarget) }, "Copy");
