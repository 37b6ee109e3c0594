// Writes a request as a program. No text contains the API key: the programs read LODESTREAM_API_KEY.

import { bodyOf } from "./request.js";

const OF_OPENAI = new Set([
  "model", "messages", "max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed",
  "logit_bias", "n", "stop", "logprobs", "top_logprobs", "user", "tools", "tool_choice", "response_format",
  "stream", "stream_options",
]);

export function asCurl(members, base, hasKey) {
  const key = hasKey ? `\n  -H "authorization: Bearer $LODESTREAM_API_KEY" \\` : "";
  const body = bodyOf(members).replaceAll("'", "'\\''");
  return `curl -sS -N ${base}v1/chat/completions \\${key}
  -H 'content-type: application/json' \\
  -d '${body}'
`;
}

export function asPython(members, base) {
  const known = members.filter(([name]) => OF_OPENAI.has(name));
  const others = members.filter(([name]) => !OF_OPENAI.has(name));
  const lines = known.map(([name, text]) => `    ${name}=${literal(text)},\n`);
  if (others.length) lines.push(`    extra_body=${literal(bodyOf(others))},\n`);
  return `import os

from openai import OpenAI

client = OpenAI(base_url="${base}v1", api_key=os.environ.get("LODESTREAM_API_KEY", "none"))
stream = client.chat.completions.create(
${lines.join("")})
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
        for call in choice.delta.tool_calls or []:
            print(call.function.name or "", call.function.arguments or "", end="", flush=True)
print()
`;
}

// `parameters` is the table: a field's last name is the keyword of the Python client.
export function asGrpc(members, parameters) {
  const given = new Map(members);
  const names = new Set(["Client"]);
  const lines = [];
  const add = (name, value) => lines.push(`        ${name}=${value},\n`);
  for (const [name, text] of members) {
    const parameter = parameters.find((one) => one.name === name);
    if (name === "messages") add(name, messages(text));
    else if (name === "tools") add(name, tools(text, names));
    else if (name === "tool_choice") add(name, toolChoice(text, names));
    else if (name === "response_format") add("constraint", constraint(text, given.get("whitespace"), names));
    else if (name === "logit_bias") add(name, literal(text).replace(/"(-?\d+)"(?=\s*:)/g, "$1"));
    else if (name === "model" || name === "logprobs") add(name, literal(text));
    else if (parameter && name !== "whitespace") add(parameter.field.split(".").at(-1), literal(text));
  }
  return `from inference_client import ${[...names].sort().join(", ")}

# Reads the address of the gRPC service from LODESTREAM_TARGET (127.0.0.1:50051 without it).
with Client.from_environment() as client:
    with client.stream(
${lines.join("").trimEnd()}
    ) as stream:
        answer = stream.collect()
    print(answer.text)
    for call in answer.tool_calls:
        print(call.name, call.arguments)
`;
}

// JSON as a Python literal; numbers stay as they are written.
function literal(text) {
  const words = { true: "True", false: "False", null: "None" };
  return text.replace(/"(?:[^"\\]|\\.)*"|\b(?:true|false|null)\b/g, (part) =>
    part.startsWith('"') ? JSON.stringify(JSON.parse(part)) : words[part]);
}

function messages(text) {
  const turns = JSON.parse(text).map(({ tool_calls: calls, ...turn }) => ({
    ...turn,
    content: turn.content ?? "",
    ...(calls && { tool_calls: calls.map(({ id, function: called }) => ({ id, ...called })) }),
  }));
  return literal(JSON.stringify(turns));
}

function tools(text, names) {
  names.add("Tool");
  const made = JSON.parse(text).map(({ function: tool }) => {
    const fields = ["name", "description", "parameters", "strict"].filter((name) => tool[name] != null);
    return `Tool(${fields.map((name) => `${name}=${literal(JSON.stringify(tool[name]))}`).join(", ")})`;
  });
  return `[${made.join(", ")}]`;
}

function toolChoice(text, names) {
  const choice = JSON.parse(text);
  if (typeof choice === "string") return literal(text);
  names.add("ToolChoice");
  return `ToolChoice(${JSON.stringify(choice.function.name)})`;
}

function constraint(text, whitespace, names) {
  names.add("JsonSchema");
  const schema = literal(JSON.stringify(JSON.parse(text).json_schema.schema));
  return `JsonSchema(${schema}${whitespace ? `, whitespace=${whitespace}` : ""})`;
}
