// Loaded before anything is painted, so that a chosen theme does not flash in.
try {
  const chosen = localStorage.getItem("vllm-engine.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be forbidden; then the system's theme it is.
}
