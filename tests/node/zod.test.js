// Types of zod as `response_format` of OpenAI's own package: accepted, answered, parsed and validated.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import { MODEL, QUESTION, servers } from "./servers.js";
import { types } from "./zod_types.js";

// Types that cannot be used fully, with the reason: `sdk`, the package makes no schema of them; `refused`, by
// the service; `invalid`, the schema allows more than zod takes.
const limits = JSON.parse(readFileSync(new URL("./zod_limits.json", import.meta.url), "utf8"));

// Types whose answers end by themselves, whatever a small model makes of them.
const SHORT = [
  ...["boolean", "enum", "native enum", "literals", "bounded int", "string of a length", "regex", "uuid"],
  ...["iso date", "discriminated union", "strict object"],
];

function parse(server, type, more) {
  const client = new OpenAI({ baseURL: server.url, apiKey: "pg_any", maxRetries: 0, timeout: 60_000 });
  const response_format = zodResponseFormat(type, "answer");
  const options = { model: MODEL, messages: QUESTION, seed: 7, max_tokens: 1024, response_format, ...more };
  return client.chat.completions.parse(options);
}

describe("zod on simulated", () => {
  test("the matrix has its size", () => {
    assert.ok(Object.keys(types).length >= 63);
    for (const names of Object.values(limits)) {
      assert.deepEqual(Object.keys(names).filter((name) => !(name in types)), []);
    }
  });

  for (const [name, type] of Object.entries(types)) {
    test(name, async () => {
      if (name in limits.sdk) {
        assert.throws(() => zodResponseFormat(type, "answer"));
      } else if (name in limits.refused) {
        await assert.rejects(parse(servers[0], type), OpenAI.BadRequestError);
      } else if (name in limits.invalid) {
        await assert.rejects(parse(servers[0], type), z.ZodError);
      } else {
        const reply = await parse(servers[0], type);
        type.parse(JSON.parse(reply.choices[0].message.content));
        assert.ok("value" in reply.choices[0].message.parsed);
      }
    });
  }
});

describe("zod on llama_cpp", () => {
  for (const name of SHORT.filter((name) => name in types)) {
    for (const temperature of [0, 1.5]) {
      test(`${name} at ${temperature}`, async () => {
        const reply = await parse(servers[1], types[name], { temperature });
        types[name].parse(JSON.parse(reply.choices[0].message.content));
      });
    }
  }
});
