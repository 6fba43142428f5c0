// Loaded before anything is painted, so that the page does not flash in another theme.
try {
  const chosen = localStorage.getItem("vllm-engine.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be blocked; then it is the system's theme.
}
