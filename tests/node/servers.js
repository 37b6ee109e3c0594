// The addresses of the servers that run.sh started, and the requests for each of them.
import { z } from "zod";

export const MODEL = "smollm2-135m-instruct";

export const servers = [
  { name: "simulated", url: address("LODESTREAM_SIMULATED_URL") },
  { name: "llama_cpp", url: address("LODESTREAM_LLAMA_CPP_URL") },
];

// The simulated engine's answers are scripted, so the whole answer is known in advance.
export const scripted = servers[0];

export const City = z.object({
  name: z.enum(["Bonn", "Basel", "Köln"]),
  on_the_rhine: z.boolean(),
});

export const Place = z.object({ city: z.enum(["Bonn", "Basel"]), unit: z.enum(["C", "F"]) });

export const QUESTION = [{ role: "user", content: "Name a city on the Rhine." }];

// A short request, the same at every call.
export function ask(more) {
  return { model: MODEL, messages: QUESTION, seed: 7, max_tokens: 12, ...more };
}

// A question that the simulated engine answers with exactly this.
export function say(text) {
  return [{ role: "user", content: `@say<<${text}>>` }];
}

export async function collect(stream) {
  const items = [];
  for await (const item of stream) {
    items.push(item);
  }
  return items;
}

function address(variable) {
  const url = process.env[variable];
  if (!url) {
    throw new Error(`${variable} is not set; tests/node/run.sh starts the servers and sets it`);
  }
  return `${url}/v1`;
}
