// What the machine has and what of it is in use: GPUs, main memory, the cache's disk.

import { h } from "../lib/dom.js";
import { dash, percent, size } from "../lib/format.js";
import { meter } from "./parts.js";

const share = (used, total) => (used === null || !total ? null : used / total);

export function drawMachine({ gpus, memory, storage }) {
  const nodes = (gpus ?? []).map(drawGpu);
  if (gpus?.length === 0) nodes.push(h("div", { class: "device" }, h("h3", {}, "GPU"), h("p", { class: "small" }, "The NVIDIA driver does not answer.")));
  if (memory) {
    const used = memory.total_bytes - memory.available_bytes;
    nodes.push(h("div", { class: "device" }, h("h3", {}, "Main memory"),
      meter("In use", share(used, memory.total_bytes), `${size(used)} of ${size(memory.total_bytes)}`, { warns: true }),
      h("p", { class: "small" }, `Engine ${memory.engine_bytes === null ? dash : size(memory.engine_bytes)}, gateway ${size(memory.gateway_bytes)} resident`)));
  }
  if (storage) {
    const used = storage.size_bytes - storage.free_bytes;
    nodes.push(h("div", { class: "device" }, h("h3", {}, "Disk"),
      meter("In use", share(used, storage.size_bytes), `${size(used)} of ${size(storage.size_bytes)}`, { warns: true }),
      h("p", { class: "small" }, `${size(storage.free_bytes)} free for CACHE_DIR, `, h("code", {}, storage.folder))));
  }
  return nodes;
}

function drawGpu(gpu) {
  const more = [gpu.temperature_celsius === null ? null : `${gpu.temperature_celsius} °C`, gpu.power_watts === null ? null : `${Math.round(gpu.power_watts)} W`];
  return h("div", { class: "device" }, h("h3", {}, `GPU ${gpu.index}: ${gpu.name}`),
    meter("Memory", share(gpu.memory_used_bytes, gpu.memory_total_bytes),
      gpu.memory_total_bytes === null ? dash : `${size(gpu.memory_used_bytes)} of ${size(gpu.memory_total_bytes)}`),
    meter("Busy", gpu.utilization, gpu.utilization === null ? dash : percent(gpu.utilization)),
    h("p", { class: "small" }, more.filter(Boolean).join(", ")));
}
