// Requests: what is under way, how they ended, why some were refused, and whose they were.

import { h } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import { table } from "./parts.js";

const ENDS = {
  complete: "answered",
  rejected: "refused by the gateway",
  client_gone: "the client left",
  upstream_broken: "the engine failed",
  failed: "a defect of the gateway",
};
const count = (number) => number.toLocaleString("en");
const sum = (rows, value) => rows.reduce((total, row) => total + value(row), 0);
const isError = ({ status, outcome }) => Number(status) >= 400 || ["upstream_broken", "failed"].includes(outcome);

export function drawTiles({ queue, totals, starts }) {
  const all = sum(totals.requests, (row) => row.api);
  const errors = sum(totals.requests.filter(isError), (row) => row.api);
  return [
    ["At the engine", count(queue.in_flight), `of ${count(queue.max_in_flight)} at once`],
    ["Waiting", count(queue.waiting), `of ${count(queue.max_queue)} at most`],
    ["Requests", count(all), "since the start"],
    ["Errors", count(errors), all ? `${percent(errors / all)} of them` : "none yet"],
    ["Engine restarts", count(starts - 1), starts === 1 ? "none yet" : `this is start ${count(starts)}`],
  ].map(([name, value, more]) => h("div", {}, h("dt", {}, name), h("dd", {}, value), h("dd", { class: "small" }, more)));
}

export function drawWork({ totals }) {
  const { requests, rejections, keys, keys_left_out: leftOut } = totals;
  const boxes = [box("By status", requests.length
    ? table("Requests by status", [["Status"], ["How it ended"], ["API", true], ["Other", true]],
      requests.map((row) => [row.status === "none" ? "–" : row.status, ENDS[row.outcome], count(row.api), count(row.other)]))
    : null, "Other: probes, metrics, this page, and addresses that are not served.")];
  if (rejections.length) {
    boxes.push(box("Refused, by reason", table("Refused requests by reason", [["Reason"], ["Requests", true]],
      rejections.map((row) => [h("code", {}, row.reason), count(row.count)]))));
  }
  if (keys.length) {
    boxes.push(box("By API key", table("Work by API key",
      [["Key"], ["Requests", true], ["Refused", true], ["Prompt tokens", true], ["Output tokens", true]],
      keys.map((row) => [h("code", {}, row.name), ...[row.requests, row.rejected, row.prompt_tokens, row.completion_tokens].map(count)])),
    leftOut ? `${count(leftOut)} more keys asked for less; all are in the metrics.` : null, "whole"));
  }
  return boxes;
}

function box(title, content, note = null, kind = "") {
  return h("section", { class: `card panel ${kind}` }, h("h3", {}, title), content ?? h("p", { class: "small" }, "No request has ended yet."),
    content && note ? h("p", { class: "small" }, note) : null);
}
