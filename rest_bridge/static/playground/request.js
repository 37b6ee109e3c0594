// The request body, as a list of [name, JSON text]. Texts keep numbers as they were typed: a seed may have 64 bits.

export class FormError extends Error {}

export function membersOf(form) {
  const members = [["model", quote(form.model)], ["messages", JSON.stringify(form.messages)]];
  for (const { parameter, value } of form.parameters) {
    if (value.trim()) members.push([parameter.name, valueText(parameter, value.trim())]);
  }
  if (form.logprobs) members.push(["logprobs", "true"]);
  if (form.tools.trim()) members.push(["tools", checked("Tools", form.tools)]);
  if (form.toolChoice) members.push(["tool_choice", choiceText(form.toolChoice)]);
  if (form.schema.trim()) members.push(["response_format", formatText(checked("JSON schema", form.schema))]);
  members.push(["stream", "true"], ["stream_options", '{"include_usage": true}']);
  return members;
}

export function bodyOf(members) {
  return `{${members.map(([name, text]) => `${quote(name)}: ${text}`).join(", ")}}`;
}

// The names of the functions in the tools' text; none while the text is unfinished.
export function toolNames(text) {
  try {
    return JSON.parse(text).map((tool) => tool.function.name);
  } catch {
    return [];
  }
}

// Yields the data of each server-sent event of a response: the object in it, until [DONE].
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The connection ended before the answer did.");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function valueText(parameter, value) {
  if (parameter.type === "string") return quote(value);
  if (parameter.type === "array" || parameter.type === "object") return checked(parameter.name, value);
  // The server names the field and its range where the text is not a number.
  return isJson(value) ? value : quote(value);
}

function choiceText(choice) {
  if (["auto", "none", "required"].includes(choice.mode)) return quote(choice.mode);
  return `{"type": "function", "function": {"name": ${quote(choice.name)}}}`;
}

function formatText(schema) {
  return `{"type": "json_schema", "json_schema": {"name": "answer", "schema": ${schema}}}`;
}

function checked(name, text) {
  try {
    JSON.parse(text);
  } catch (error) {
    throw new FormError(`${name}: the text is not JSON: ${error.message}`);
  }
  return text.trim();
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function quote(text) {
  return JSON.stringify(text);
}
