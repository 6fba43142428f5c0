// The engine's state: the progress of a start, or why it failed and what to do.

import { h, setText } from "../lib/dom.js";
import { bytes, sentence, span } from "../lib/format.js";
import { codeLink } from "./parts.js";

const WORDS = {
  starting: ["Loading the model", "Requests are answered as soon as it is loaded.", "busy"],
  ready: ["Ready", "The engine answers requests.", "good"],
  unhealthy: ["Unhealthy", "The engine does not respond as expected and is being checked.", "warn"],
  idle: ["Idle", "The engine was stopped because nobody needed it. The next request starts it again.", "quiet"],
  backoff: ["Restarting soon", "The engine died. Requests that have no answer yet wait for the next one.", "warn"],
  draining: ["Shutting down", "Running requests are finished; new ones are refused.", "warn"],
  stopped: ["Stopped", "The engine has been stopped.", "quiet"],
  failed: ["The engine cannot run", "It will not be tried again until this is changed.", "bad"],
  offline: ["The server cannot be reached", "This page tries again every few seconds.", "bad"],
};
const PHASES = {
  preparing: "Prepare",
  downloading: "Download",
  importing: "Import vLLM",
  "loading weights": "Load weights",
  compiling: "Compile",
  "profiling memory": "Profile memory",
  "capturing graphs": "Capture graphs",
  "warming up": "Warm up",
};

/** Whether requests are answered, at once or by an engine that they start. */
export const takesRequests = ({ status, state }) => state !== "offline" && ["ready", "idle", "waking"].includes(status);

/** Return text and tone for the page's head. */
export function short(health) {
  if (health.state === "starting") {
    const share = health.fraction ?? null;
    return { text: share === null ? "Loading" : `Loading ${Math.floor(share * 100)} %`, tone: "busy" };
  }
  const names = { ready: "Ready", unhealthy: "Unhealthy", backoff: "Restarting", idle: "Idle", draining: "Stopping", stopped: "Stopped", failed: "Failed", offline: "Offline" };
  return { text: names[health.state] ?? health.state, tone: WORDS[health.state]?.[2] ?? "quiet" };
}

export class StartCard {
  constructor(node) {
    this.node = node;
    this.title = h("p", { class: "big" });
    this.text = h("p", { class: "lead" });
    this.bar = h("progress", { max: "1", "aria-label": "Loading the model" });
    this.times = h("p", { class: "times" });
    this.download = h("p", { class: "times" });
    this.steps = new Map(Object.entries(PHASES).map(([phase, name]) => {
      const detail = h("span", { class: "detail" });
      return [phase, { detail, item: h("li", {}, h("i", { "aria-hidden": "true" }), h("span", {}, name), detail) }];
    }));
    this.list = h("ol", { class: "steps", "aria-label": "Phases of the start" }, ...[...this.steps.values()].map(({ item }) => item));
    this.what = h("p");
    this.remedy = h("p");
    this.code = h("span");
    this.failure = h("div", { class: "diagnosis" }, h("h2", {}, "What happened"), this.what,
      h("div", { class: "remedy" }, h("h2", {}, "What to do"), this.remedy),
      h("p", { class: "small" }, "In the documentation, Troubleshooting: ", this.code));
    this.progress = h("div", { class: "progress" }, this.bar, this.times, this.download);
    node.append(h("div", { class: "said" }, h("div", { class: "headline" }, h("i", { "aria-hidden": "true" }), h("div", {}, this.title, this.text)), this.progress, this.failure), this.list);
  }

  /** Take the engine's failures, the newest first: a start may be a restart. */
  showFailures(failures) {
    this.hasFailed = failures.length > 0;
  }

  update(health, name) {
    const [title, text, tone] = WORDS[health.state] ?? [health.state, "", "quiet"];
    this.node.dataset.tone = tone;
    setText(this.title, title);
    const starting = health.state === "starting";
    const why = starting && this.hasFailed ? "The engine failed and is started again; why is under Recent failures. " : "";
    setText(this.text, health.state === "ready" ? `${name} answers requests.` : `${why}${text}`);
    this.progress.hidden = this.list.hidden = !starting;
    if (starting) this.start(health);
    const error = health.error?.remedy !== undefined ? health.error : null;
    this.failure.hidden = !error;
    if (error) {
      setText(this.what, sentence(error.message));
      setText(this.remedy, sentence(error.remedy || "look at the server's log: its last lines say more"));
      if (this.code.textContent !== error.code) this.code.replaceChildren(codeLink(error.code));
    }
  }

  start(health) {
    const share = health.fraction ?? null;
    if (share === null) this.bar.removeAttribute("value");
    else this.bar.value = share;
    const left = health.remaining_seconds;
    const times = [share === null ? null : `${Math.floor(share * 100)} %`, `${span(health.elapsed_seconds)} so far`];
    if (left !== null && left > 0) times.push(`about ${span(left)} left`);
    else if (left !== null) times.push("longer than the last time");
    setText(this.times, times.filter(Boolean).join(" · "));
    this.showDownload(health.download);
    this.showSteps(health);
  }

  showDownload(download) {
    const shown = download && (download.bytes_total === null || download.bytes_done < download.bytes_total);
    this.download.hidden = !shown;
    if (!shown) return;
    const of = (done, total, text) => (total === null ? text(done) : `${text(done)} of ${text(total)}`);
    const parts = [`Download: ${of(download.bytes_done, download.bytes_total, bytes)}`,
      `${of(download.files_done, download.files_total, String)} files`];
    if (download.bytes_per_second) parts.push(`${bytes(download.bytes_per_second)}/s`);
    if (download.remaining_seconds !== null) parts.push(`${span(download.remaining_seconds)} left`);
    setText(this.download, parts.join(" · "));
  }

  showSteps(health) {
    let state = "done";
    for (const [phase, { item, detail }] of this.steps) {
      const current = phase === health.phase;
      if (current) state = "todo";
      item.className = current ? "current" : state;
      if (current) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
      const share = current ? health.phase_fraction : null;
      setText(detail, share === null ? "" : `${Math.floor(share * 100)} %`);
    }
  }
}
