// Makes the elements of the page.

const COLOURS = [[0.9, "p4"], [0.6, "p3"], [0.3, "p2"], [0.1, "p1"], [0, "p0"]];

export function element(name, { text = "", ...properties } = {}) {
  return Object.assign(document.createElement(name), properties, { textContent: text });
}

// The field of a parameter of the table. An empty one sends nothing.
export function fieldFor(parameter) {
  const id = `parameter-${parameter.name}`;
  const field = element("div");
  const control = choices(parameter) ?? element("input", {
    type: "text", autocomplete: "off", spellcheck: false, placeholder: placeholder(parameter),
  });
  control.id = id;
  control.setAttribute("aria-describedby", `${id}-meaning`);
  const facts = [parameter.meaning, parameter.range && `Range ${parameter.range}.`,
    parameter.default_text && `Default ${parameter.default_text}.`];
  field.append(
    element("label", { htmlFor: id, text: parameter.name }),
    control,
    element("p", { id: `${id}-meaning`, className: "hint", text: facts.filter(Boolean).join(" ") }),
  );
  return field;
}

function choices(parameter) {
  const values = parameter.type === "boolean" ? ["true", "false"] : parameter.values;
  if (!values.length) return null;
  const select = element("select");
  select.append(element("option", { text: "default", value: "" }),
    ...values.map((value) => element("option", { text: value, value })));
  return select;
}

function placeholder({ type, default_text: value }) {
  if (type === "array") return "a JSON array";
  return type === "object" ? '{"token id": number}' : value;
}

export function showTurn(turn) {
  const node = element("article", { className: `turn ${turn.role}` });
  node.append(element("h2", { text: turn.role }), element("div", { className: "text", text: turn.content }));
  return node;
}

// An answer that arrives in chunks.
export class Answer {
  constructor() {
    this.node = element("article", { className: "turn assistant" });
    this.node.append(element("h2", { text: "assistant" }));
    this.ignored = null;
    this.stopped = false;
    this.first = null;
    this.last = null;
    this.begun = performance.now();
    this.choices = [];
  }

  get isEmpty() {
    return !this.choices.some((choice) => choice.text || choice.calls.length);
  }

  // The first choice as a turn of the conversation.
  get turn() {
    const { text = "", calls = [] } = this.choices[0] ?? {};
    const turn = { role: "assistant", content: text };
    return calls.length ? { ...turn, tool_calls: calls } : turn;
  }

  add(chunk) {
    if (chunk.pg_metadata) this.last = chunk;
    for (const { index, delta, logprobs, finish_reason: reason } of chunk.choices) {
      const choice = this.choices[index] ??= this.open(index);
      if (delta.content || delta.tool_calls) this.first ??= performance.now();
      choice.reason = reason ?? choice.reason;
      this.addText(choice, delta.content ?? "", logprobs?.content ?? []);
      for (const part of delta.tool_calls ?? []) addCall(choice, part);
    }
  }

  open(index) {
    const node = element("div", { className: "text" });
    if (index) this.node.append(element("h2", { text: `choice ${index + 1}` }));
    this.node.append(node);
    return { node, text: "", calls: [], shown: [], reason: null };
  }

  addText(choice, text, tokens) {
    choice.text += text;
    if (tokens.length) choice.node.append(...tokens.map(scored));
    else if (text) choice.node.append(text);
  }
}

function addCall(choice, part) {
  const call = choice.calls[part.index] ??= { id: "", type: "function", function: { name: "", arguments: "" } };
  call.id ||= part.id ?? "";
  call.function.name += part.function?.name ?? "";
  call.function.arguments += part.function?.arguments ?? "";
  let shown = choice.shown[part.index];
  if (!shown) {
    shown = choice.shown[part.index] = element("pre", { className: "call" });
    choice.node.append(shown);
  }
  shown.textContent = `${call.function.name}(${call.function.arguments})`;
}

function scored({ token, logprob, top_logprobs: others = [] }) {
  const probability = Math.exp(logprob);
  const lines = others.map((one) => `${JSON.stringify(one.token)} ${percent(Math.exp(one.logprob))}`);
  const [, className] = COLOURS.find(([least]) => probability >= least);
  return element("span", { className, text: token, title: [percent(probability), ...lines].join("\n") });
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

export function showFacts(list, answer) {
  const { usage, pg_metadata: metadata } = answer.last ?? {};
  const ignored = metadata?.ignored_parameters.join(", ") || answer.ignored || "none";
  const facts = [
    ["ended with", answer.stopped ? "stopped by you" : answer.choices.map(({ reason }) => reason).join(", ")],
    ["TTFT in the browser", answer.first && `${(answer.first - answer.begun).toFixed(0)} ms`],
    ["TTFT at the server", metadata && `${metadata.timings.time_to_first_token_ms} ms`],
    ["queue", metadata && `${metadata.timings.queue_ms} ms`],
    ["prompt", usage && `${usage.prompt_tokens} tokens`],
    ["answer", usage && `${usage.completion_tokens} tokens`],
    ["speed", metadata && speed(usage.completion_tokens, metadata)],
    ["ignored parameters", !answer.isEmpty && ignored],
  ];
  list.replaceChildren(...facts.filter(([, value]) => value).map(([name, value]) => {
    const pair = element("div");
    pair.append(element("dt", { text: name }), element("dd", { text: value }));
    return pair;
  }));
}

// Tokens of a second of decode, which begins with the first token of each choice.
function speed(tokens, { timings, choices }) {
  const later = tokens - choices.length;
  return later > 0 && timings.decode_ms > 0 ? `${(1000 * later / timings.decode_ms).toFixed(1)} tokens/s` : null;
}
