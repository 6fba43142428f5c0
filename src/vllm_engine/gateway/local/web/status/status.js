// The status view: state, clients, plots, what operators ask, and what runs.

import { Chart } from "./chart.js";
import { address } from "../lib/api.js";
import { byId, h } from "../lib/dom.js";
import { duration, number, percent, span } from "../lib/format.js";
import { ClientsCard } from "./clients.js";
import { drawFailures } from "./failures.js";
import { drawMachine } from "./machine.js";
import { Part } from "./parts.js";
import { drawSettings } from "./settings.js";
import { StartCard } from "./start.js";
import { drawTiles, drawWork } from "./work.js";

const CHARTS = [
  {
    title: "Tokens per second", format: (value) => number(value), least: 1,
    lines: [{ name: "generated", column: "generated_per_second" }, { name: "prompts", column: "prompt_per_second" }],
  },
  {
    title: "Requests", format: (value) => number(value, 0), least: 4,
    lines: [{ name: "running", column: "running" }, { name: "waiting", column: "waiting" }],
  },
  {
    title: "KV cache in use", about: "share of the cache's blocks", format: percent, top: 1,
    lines: [{ name: "in use", column: "kv_cache" }],
  },
  {
    title: "Time to first token", format: duration, least: 0.01,
    lines: [{ name: "mean", column: "ttft_mean" }, { name: "95th percentile", column: "ttft_p95" }],
  },
  {
    title: "Time between tokens", format: duration, least: 0.01,
    lines: [{ name: "mean", column: "itl_mean" }, { name: "95th percentile", column: "itl_p95" }],
  },
];

// Id, the fields of `/ui/status` that are drawn there, and how.
const PARTS = [
  ["tiles", ["queue", "totals", "starts"], drawTiles],
  ["work", ["totals"], drawWork],
  ["failures", ["failures"], drawFailures],
  ["machine", ["gpus", "memory", "storage"], drawMachine],
  ["settings", ["settings"], drawSettings],
  ["links", ["is_metrics_public"], drawLinks],
];

export class StatusView {
  constructor({ askForKey }) {
    this.card = new StartCard(byId("state"));
    this.charts = CHARTS.map((one) => new Chart(one));
    byId("plots").append(...this.charts.map(({ node }) => node));
    this.clients = new ClientsCard(byId("clients"));
    this.parts = PARTS.map(([id, fields, draw]) => ({ part: new Part(byId(id), draw), fields }));
    this.facts = new Part(byId("facts"), ({ known, needsKey }) => this.drawFacts(known, needsKey));
    this.askForKey = askForKey;
  }

  showState(health, name) {
    this.card.update(health, name);
  }

  showHistory(history) {
    byId("plots-part").hidden = history.running.every((value) => value === null);
    for (const chart of this.charts) chart.update(history);
  }

  /** Show what `/ui/status` said; null without a key. */
  showReport(report) {
    for (const id of ["report-part", "settings-part"]) byId(id).hidden = !report;
    this.card.showFailures(report?.failures ?? []);
    if (!report) return;
    for (const { part, fields } of this.parts) part.update(Object.fromEntries(fields.map((field) => [field, report[field]])));
  }

  showClients(model, needsKey) {
    byId("clients-part").hidden = !model;
    if (model) this.clients.update(model, needsKey);
  }

  /** Show what is known; `version`, `model` and `history` may be null. */
  showFacts({ health, version, model, history, needsKey }) {
    const facts = [["Model", model?.id ?? health?.model]];
    if (model && model.id !== health?.model) facts.push(["Loaded from", health?.model]);
    if (version) {
      const build = [version.build_sha, version.build_time].filter((part) => part && part !== "dev").join(", ");
      facts.push(
        ["Revision", version.model_revision],
        ["Context", model?.max_model_len ? `${model.max_model_len.toLocaleString("en")} tokens` : null],
        ["Data type", version.dtype],
        ["Device", version.device],
        ["Frontend", version.frontend],
        ["vLLM", version.vllm],
        ["vllm-engine", build ? `${version.version} (${build})` : version.version],
        ["Python", `${version.python}, engine ${version.engine_python}`],
      );
    }
    if (history) {
      facts.push(["Up for", span(history.uptime_seconds)], ["Engine starts", String(history.starts)]);
    }
    const known = facts.filter(([, value]) => value);
    this.facts.update({ known, needsKey });
  }

  drawFacts(known, needsKey) {
    const enter = () => h("button", { type: "button", class: "plain", onclick: () => this.askForKey() }, "Enter the API key");
    return [...known, ...(needsKey ? [["More", enter()]] : [])].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
  }
}

function drawLinks({ is_metrics_public: isPublic }) {
  const links = [["API reference", "docs"], ["Readiness", "healthz"]];
  if (isPublic) links.push(["Metrics", "metrics"]);
  return links.map(([name, path]) => h("a", { href: address(path) }, name));
}
