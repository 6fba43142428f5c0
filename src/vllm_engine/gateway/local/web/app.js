// Runs the page: which view is shown, what is asked of the server and how often, theme and key.

import { ApiError, base, getJson, keyring } from "./lib/api.js";
import { ChatView } from "./chat/chat.js";
import { openLibrary } from "./conversations/library.js";
import { announce, byId, setText } from "./lib/dom.js";
import { ReferenceView } from "./reference/reference.js";
import { short, takesRequests } from "./status/start.js";
import { StatusView } from "./status/status.js";

const SOON = 1000;
const LATER = 5000;
const THEMES = { auto: "as the system", light: "light", dark: "dark" };

const known = { health: null, version: null, model: null, history: null, needsKey: false };
const lacksKey = () => known.needsKey && !keyring.has;

const status = new StatusView({ askForKey });
const reference = new ReferenceView({ askForKey });
const chat = new ChatView({ library: await openLibrary(), onUnauthorized: () => askForKey("The server refused this key."), onFailure: () => poll.soon(), needsKey: () => known.needsKey });

// --- views

const VIEWS = ["chat", "status", "api"];
const isShown = (view) => !byId(`view-${view}`).hidden;

function wantedView() {
  const named = location.hash.slice(1);
  if (VIEWS.includes(named)) return named;
  return new URL("docs", base).pathname === location.pathname ? "api" : null;
}

function showView() {
  const wanted = wantedView();
  if (!wanted && !known.health) return;
  const view = wanted ?? (takesRequests(known.health) ? "chat" : "status");
  const changed = !isShown(view);
  for (const name of VIEWS) {
    byId(`view-${name}`).hidden = name !== view;
    if (name === view) byId(`to-${name}`).setAttribute("aria-current", "page");
    else byId(`to-${name}`).removeAttribute("aria-current");
  }
  if (changed && view !== "chat") poll.soon();
  if (changed && view === "chat") chat.focus();
}
addEventListener("hashchange", showView);

// --- what the server says

const poll = {
  timer: null,
  busy: false,
  again: false,
  soon() {
    clearTimeout(this.timer);
    if (this.busy) this.again = true;
    else this.now();
  },
  async now() {
    this.busy = true;
    this.again = false;
    let wait = LATER;
    try {
      const { health, needs_key: needsKey } = await getJson("ui/state");
      known.needsKey = needsKey;
      await learn(health);
      if (health.state !== "ready" && health.state !== "idle") wait = SOON;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401) askForKey("The server refused this key.");
      else if (error.status === 0 && !isLeaving()) learnNothing();
    } finally {
      this.busy = false;
      // Hidden pages ask nothing; they ask at once when they are shown again.
      if (!document.hidden) this.timer = setTimeout(() => this.now(), this.again ? 0 : wait);
    }
  },
};
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(poll.timer) : poll.soon()));

// A page that is left has its requests cut off, which says nothing of the server.
let left = -Infinity;
const isLeaving = () => document.hidden || performance.now() - left < LATER;
for (const event of ["beforeunload", "pagehide"]) addEventListener(event, () => (left = performance.now()));

async function learn(health) {
  const before = known.health?.state;
  known.health = health;
  // What is stopped for being idle comes back as it was.
  if (before !== health.state && !["idle", "waking"].includes(health.status)) known.version = known.model = null;
  show();
  if (before && before !== health.state) announce(`The engine's state: ${short(health).text}`);
  if (lacksKey()) {
    if (!before) askForKey();
    await showReference();
    return;
  }
  known.version ??= await getJson("version");
  if (takesRequests(health) && !known.model) known.model = await listedModel();
  if (isShown("status")) {
    const [history, report] = await Promise.all([getJson("ui/history"), getJson("ui/status")]);
    known.history = history;
    status.showHistory(history);
    status.showReport(report);
  }
  show();
  await showReference();
}

async function listedModel() {
  try {
    return (await getJson("v1/models")).data[0];
  } catch (error) {
    // With IDLE_IS_READY=0 an idle engine's models are not listed.
    if (!(error instanceof ApiError && error.status === 503)) throw error;
    return null;
  }
}

async function showReference() {
  if (isShown("api")) await reference.refresh({ state: known.health.state, model: modelName(), lacksKey: lacksKey() });
}

const modelName = () => known.model?.id ?? known.health.model ?? "";

function learnNothing() {
  known.health = { ...known.health, state: "offline", error: null };
  show();
}

function show() {
  const { health } = known;
  const name = modelName();
  const { text, tone } = short(health);
  byId("key-button").hidden = !known.needsKey;
  const pill = byId("pill");
  pill.dataset.tone = tone;
  setText(pill.querySelector("span"), text);
  document.title = name ? `${name} – ${text}` : "vllm-engine";
  status.showState(health, name);
  status.showClients(known.model?.id, known.needsKey);
  status.showFacts({ ...known, needsKey: lacksKey() });
  chat.setServer({
    isReady: takesRequests(health) && Boolean(known.model), model: name, limit: known.model?.max_model_len ?? null, note: note(health),
  });
  if (known.version) chat.setAbilities(known.version);
  showView();
}

function note(health) {
  if (takesRequests(health)) {
    if (!lacksKey() && health.status !== "ready") return { text: "The engine is idle. A message starts it, and is answered once it is ready." };
    return lacksKey() ? { text: "This server asks for an API key.", help: { label: "Enter the key", run: () => askForKey() } } : null;
  }
  const text = { starting: "The model is still loading.", failed: "The engine cannot run.", offline: "The server cannot be reached." }[health.state] ??
    "The engine cannot answer just now.";
  return { text, help: { label: "See its status", href: "#status" } };
}

// --- key

const dialog = byId("key-dialog");

function askForKey(problem = "") {
  byId("key-problem").textContent = problem;
  byId("key-forget").hidden = !keyring.has;
  if (!dialog.open) dialog.showModal();
}

byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const before = keyring.has;
  keyring.set(byId("key").value.trim());
  try {
    known.version = await getJson("version");
  } catch (error) {
    if (!before || error.status === 401) keyring.set("");
    byId("key-problem").textContent = error.status === 401 ? "The server refused this key." : error.title;
    return;
  }
  byId("key").value = "";
  dialog.close();
  poll.soon();
});
byId("key-cancel").addEventListener("click", () => dialog.close());
byId("key-forget").addEventListener("click", () => {
  keyring.set("");
  known.version = known.model = known.history = null;
  status.showReport(null);
  dialog.close();
  show();
  showReference();
});
byId("key-button").addEventListener("click", () => askForKey());

// --- theme

const themeButton = byId("theme-button");

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const label = `Theme: ${THEMES[theme]}`;
  themeButton.setAttribute("aria-label", label);
  themeButton.title = label;
}

themeButton.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % names.length];
  setTheme(next);
  try {
    localStorage.setItem("vllm-engine.theme", next);
  } catch {
    // Then it lasts as long as the page.
  }
});
setTheme(document.documentElement.dataset.theme ?? "auto");

// --- start

await chat.start();
showView();
poll.soon();
