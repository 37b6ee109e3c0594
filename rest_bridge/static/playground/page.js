// The page: reads the form, sends the request, shows the answer. Text is only ever inserted as text.

import { asCurl, asGrpc, asPython } from "./copies.js";
import { FormError, bodyOf, eventsOf, membersOf, toolNames } from "./request.js";
import { Answer, element, fieldFor, showFacts, showTurn } from "./view.js";

const TOOLS = `[{"type": "function", "function": {
  "name": "get_weather",
  "description": "The weather in a city.",
  "parameters": {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 40}},
    "required": ["city"],
    "additionalProperties": false
  }
}}]`;
const SCHEMA = `{
  "type": "object",
  "properties": {
    "city": {"type": "string", "maxLength": 40},
    "continent": {"enum": ["Africa", "America", "Asia", "Europe", "Oceania"]}
  },
  "required": ["city", "continent"],
  "additionalProperties": false
}`;

const by = (id) => document.getElementById(id);
const base = new URL(".", document.baseURI).href;
let parameters = [];
let turns = [];
let sent = null;
let running = null;

async function start() {
  parameters = (await (await fetch("playground/parameters.json")).json()).parameters;
  for (const parameter of parameters) by("parameters").append(fieldFor(parameter));
  listen();
  await loadModels();
}

function listen() {
  by("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  by("stop").addEventListener("click", stop);
  by("clear").addEventListener("click", clear);
  by("key").addEventListener("change", loadModels);
  by("logprobs").addEventListener("change", () => { by("legend").hidden = !by("logprobs").checked; });
  by("tools").addEventListener("input", listTools);
  by("tools-example").addEventListener("click", () => { by("tools").value = TOOLS; listTools(); });
  by("schema-example").addEventListener("click", () => { by("schema").value = SCHEMA; });
  by("copy-curl").addEventListener("click", () => copy((members) => asCurl(members, base, Boolean(by("key").value))));
  by("copy-python").addEventListener("click", () => copy((members) => asPython(members, base)));
  by("copy-grpc").addEventListener("click", () => copy((members) => asGrpc(members, parameters)));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running) stop();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); send(); }
  });
  listTools();
}

async function loadModels() {
  showError("");
  try {
    const response = await fetch("v1/models", { headers: headers(), cache: "no-store" });
    const reply = await response.json();
    if (!response.ok) throw new Error(messageOf(reply));
    by("model").replaceChildren(...reply.data.map((model) => element("option", { text: model.id, value: model.id })));
  } catch (error) {
    showError(error.message);
  }
}

function listTools() {
  const modes = ["auto", "none", "required"].map((mode) => element("option", { text: mode, value: `mode:${mode}` }));
  const names = toolNames(by("tools").value).map((name) => element("option", { text: name, value: `tool:${name}` }));
  const chosen = by("tool-choice").value;
  by("tool-choice").replaceChildren(element("option", { text: "default (auto)", value: "" }), ...modes, ...names);
  by("tool-choice").value = [...modes, ...names].some((one) => one.value === chosen) ? chosen : "";
}

// The new turns: the results of the calls of the last answer, and the message.
function newTurns() {
  const results = [...by("results").querySelectorAll("input")].map((input) => (
    { role: "tool", tool_call_id: input.dataset.call, content: input.value }));
  const text = by("message").value;
  return text.trim() ? [...results, { role: "user", content: text }] : results;
}

function formWith(messages) {
  const system = by("system").value;
  const [kind, name] = by("tool-choice").value.split(/:(.*)/s);
  return {
    model: by("model").value,
    messages: system.trim() ? [{ role: "system", content: system }, ...messages] : messages,
    parameters: parameters.map((parameter) => ({ parameter, value: by(`parameter-${parameter.name}`).value })),
    logprobs: by("logprobs").checked,
    tools: by("tools").value,
    toolChoice: kind === "mode" ? { mode: name } : kind === "tool" ? { name } : null,
    schema: by("schema").value,
  };
}

async function send() {
  const added = newTurns();
  if (running || !added.length) return;
  showError("");
  let members;
  try {
    members = membersOf(formWith([...turns, ...added]));
  } catch (error) {
    if (!(error instanceof FormError)) throw error;
    showError(error.message);
    return;
  }
  sent = members;
  const answer = new Answer();
  const shown = added.map(showTurn);
  by("conversation").append(...shown, answer.node);
  setRunning(new AbortController());
  const failure = await receive(bodyOf(members), answer);
  setRunning(null);
  if (answer.isEmpty && failure) {
    for (const node of [...shown, answer.node]) node.remove();
  } else {
    turns = [...turns, ...added, answer.turn];
    by("message").value = "";
    askForResults(answer.turn.tool_calls ?? []);
  }
  by("message").focus();
}

// Shows the answer while it arrives. Returns whether it failed or was stopped.
async function receive(body, answer) {
  const { signal } = running;
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST", body, signal, cache: "no-store",
      headers: { ...headers(), "content-type": "application/json" },
    });
    if (!response.ok) throw new Error(messageOf(await response.json()));
    answer.ignored = response.headers.get("x-ignored-parameters");
    for await (const chunk of eventsOf(response)) {
      if (chunk.error) throw new Error(messageOf(chunk));
      answer.add(chunk);
      by("conversation").scrollTop = by("conversation").scrollHeight;
    }
    return false;
  } catch (error) {
    if (!signal.aborted) showError(error.message);
    else answer.stopped = true;
    return true;
  } finally {
    showFacts(by("facts"), answer);
  }
}

function askForResults(calls) {
  by("results").replaceChildren(...calls.map((call) => {
    const label = element("label", { text: `Result of ${call.function.name} ` });
    const input = element("input", { type: "text" });
    input.dataset.call = call.id;
    label.append(input);
    return label;
  }));
}

function stop() {
  running?.abort();
}

function clear() {
  stop();
  if (running) return;
  turns = [];
  sent = null;
  by("conversation").replaceChildren();
  by("results").replaceChildren();
  by("facts").replaceChildren();
  showError("");
  by("message").focus();
}

function setRunning(controller) {
  running = controller;
  by("send").disabled = Boolean(controller);
  by("stop").disabled = !controller;
  by("clear").disabled = Boolean(controller);
  by("conversation").setAttribute("aria-busy", String(Boolean(controller)));
}

// Shows and copies the request that the form would send; with no message the one that was sent last.
async function copy(write) {
  showError("");
  let text;
  try {
    const added = newTurns();
    text = write(added.length || !sent ? membersOf(formWith([...turns, ...added])) : sent);
  } catch (error) {
    showError(error.message);
    return;
  }
  by("copy").textContent = text;
  by("copy").hidden = false;
  try {
    await navigator.clipboard.writeText(text);
    by("copied").textContent = "Copied.";
  } catch {
    // Browsers give the clipboard only to pages over HTTPS or of loopback.
    getSelection().selectAllChildren(by("copy"));
    by("copied").textContent = "The text below is selected; Ctrl+C copies it.";
  }
}

function headers() {
  const key = by("key").value.trim();
  return key ? { authorization: `Bearer ${key}` } : {};
}

function messageOf(reply) {
  return reply?.error?.message ?? "The server's answer is not understood.";
}

function showError(message) {
  by("error").textContent = message;
  by("error").hidden = !message;
}

start();
