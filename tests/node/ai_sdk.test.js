// The AI SDK with its provider for servers that speak OpenAI's dialect, against both servers.
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  APICallError,
  Output,
  generateObject,
  generateText,
  stepCountIs,
  streamObject,
  streamText,
  tool,
} from "ai";

import { City, MODEL, Place, QUESTION, collect, say, scripted, servers } from "./servers.js";

function connect(server) {
  return createOpenAICompatible({
    name: "lodestream",
    baseURL: server.url,
    apiKey: "pg_any",
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
}

function weather(execute) {
  return tool({ description: "Tells the weather.", inputSchema: Place, execute });
}

for (const server of servers) {
  describe(`the AI SDK on ${server.name}`, () => {
    const provider = connect(server);
    const ask = (more) => ({
      model: provider(MODEL),
      messages: QUESTION,
      seed: 7,
      maxOutputTokens: 12,
      maxRetries: 0,
      ...more,
    });

    test("a stream joined is the whole answer, with the same usage", async () => {
      const whole = await generateText(ask());
      const stream = streamText(ask());
      const pieces = await collect(stream.textStream);

      assert.equal(pieces.join(""), whole.text);
      assert.equal(await stream.finishReason, whole.finishReason);
      const usage = await stream.usage;
      assert.ok(usage.inputTokens > 0 && usage.outputTokens > 0);
      assert.deepEqual([usage.inputTokens, usage.outputTokens], [
        whole.usage.inputTokens,
        whole.usage.outputTokens,
      ]);
    });

    test("text completions stream", async () => {
      const options = { model: provider.completionModel(MODEL), prompt: "The Rhine is", maxOutputTokens: 6 };
      const stream = streamText({ ...options, temperature: 0, maxRetries: 0 });

      assert.ok((await collect(stream.textStream)).join("").length > 0);
      assert.equal(await stream.finishReason, "length");
    });

    test("a demanded call is streamed, and made", async () => {
      const places = [];
      const execute = async (place) => {
        places.push(place);
        return "rain";
      };
      const stream = streamText(
        ask({ maxOutputTokens: 256, tools: { weather: weather(execute) }, toolChoice: "required" }),
      );
      const parts = await collect(stream.fullStream);
      const calls = parts.filter((part) => part.type === "tool-call");
      const results = parts.filter((part) => part.type === "tool-result");

      assert.ok(calls.length > 0);
      assert.deepEqual(calls.map((made) => made.input), places);
      assert.deepEqual(results.map((result) => result.output), places.map(() => "rain"));
      places.forEach((place) => Place.strict().parse(place));
      assert.ok(parts.some((part) => part.type === "tool-input-delta"));
      assert.equal(await stream.finishReason, "tool-calls");
    });

    test("a named tool is called", async () => {
      const { toolCalls } = await generateText(
        ask({
          maxOutputTokens: 80,
          tools: { weather: weather(), other: tool({ inputSchema: City }) },
          toolChoice: { type: "tool", toolName: "weather" },
        }),
      );

      assert.deepEqual(toolCalls.map((made) => made.toolName), ["weather"]);
      Place.strict().parse(toolCalls[0].input);
    });

    test("objects follow their schema, by either way of asking", async () => {
      const one = await generateObject(ask({ maxOutputTokens: 60, schema: City }));
      const other = await generateText(ask({ maxOutputTokens: 60, output: Output.object({ schema: City }) }));

      City.strict().parse(one.object);
      assert.deepEqual(other.output, one.object);
      assert.deepEqual(one.warnings ?? [], []);
    });

    test("an object is streamed", async () => {
      const stream = streamObject(ask({ maxOutputTokens: 60, schema: City }));
      const partial = await collect(stream.partialObjectStream);

      assert.ok(partial.length > 0);
      assert.deepEqual(partial.at(-1), City.strict().parse(await stream.object));
    });

    test("a bad value is an APICallError that says which", async () => {
      await assert.rejects(generateText(ask({ temperature: 9 })), (error) => {
        assert.ok(APICallError.isInstance(error));
        assert.equal(error.statusCode, 400);
        assert.equal(error.isRetryable, false);
        const { code, param, type } = error.data.error;
        assert.deepEqual([code, param, type], ["invalid_value", "temperature", "invalid_request_error"]);
        return true;
      });
    });

    test("a model that is not served is an APICallError with 404", async () => {
      await assert.rejects(generateText(ask({ model: provider("gpt-5") })), (error) => {
        assert.ok(APICallError.isInstance(error));
        assert.equal(error.statusCode, 404);
        assert.equal(error.data.error.code, "model_not_found");
        return true;
      });
    });
  });
}

describe("the AI SDK on an engine with scripted answers", () => {
  const provider = connect(scripted);
  const options = { model: provider(MODEL), maxOutputTokens: 200, maxRetries: 0 };

  test("text of many bytes a character arrives whole", async () => {
    const text = "Grüße vom Rhein 🌊, 河, and back.";
    const stream = streamText({ ...options, messages: say(text) });

    assert.equal((await collect(stream.textStream)).join(""), text);
    assert.equal(await stream.finishReason, "stop");
  });

  test("it goes on with the result until the model answers", async () => {
    const call = JSON.stringify({ name: "weather", arguments: { city: "Bonn", unit: "C" } });
    // The last script in the conversation is the one that counts.
    const tools = { weather: weather(async ({ city }) => `@say<<It rains in ${city}.>>`) };
    const stream = streamText({ ...options, messages: say(call), tools, stopWhen: stepCountIs(3) });
    await stream.consumeStream();
    const steps = await stream.steps;

    assert.deepEqual(steps.map((step) => step.finishReason), ["tool-calls", "stop"]);
    assert.deepEqual(steps[0].toolCalls[0].input, { city: "Bonn", unit: "C" });
    assert.equal(await stream.text, "It rains in Bonn.");
    assert.ok((await stream.totalUsage).outputTokens > 0);
  });

  test("the very object is generated", async () => {
    const city = { name: "Köln", on_the_rhine: true };
    const { object } = await generateObject({ ...options, messages: say(JSON.stringify(city)), schema: City });

    assert.deepEqual(object, city);
  });
});
