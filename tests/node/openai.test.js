// OpenAI's own package for Node, unchanged, against both servers.
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";

import { City, MODEL, Place, ask, collect, say, scripted, servers } from "./servers.js";

const WEATHER = zodFunction({ name: "weather", description: "Tells the weather.", parameters: Place });

function connect(server) {
  return new OpenAI({ baseURL: server.url, apiKey: "pg_any", maxRetries: 0, timeout: 60_000 });
}

for (const server of servers) {
  describe(`openai on ${server.name}`, () => {
    const client = connect(server);

    test("a stream joined is the whole answer, and ends with its usage", async () => {
      const whole = await client.chat.completions.create(ask());
      const options = { stream: true, stream_options: { include_usage: true } };
      const chunks = await collect(await client.chat.completions.create(ask(options)));
      const choices = chunks.flatMap((chunk) => chunk.choices);

      assert.equal(choices[0].delta.role, "assistant");
      assert.equal(choices.map((c) => c.delta.content ?? "").join(""), whole.choices[0].message.content);
      assert.equal(choices.at(-1).finish_reason, whole.choices[0].finish_reason);
      assert.deepEqual(chunks.at(-1).choices, []);
      assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
    });

    test("usage adds up", async () => {
      const { usage } = await client.chat.completions.create(ask({ n: 2 }));

      assert.ok(usage.prompt_tokens > 0 && usage.completion_tokens > 0);
      assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
      assert.ok(usage.prompt_tokens_details.cached_tokens >= 0);
    });

    test("the stream helper folds choices with their log probabilities", async () => {
      const options = ask({ n: 2, logprobs: true, top_logprobs: 2 });
      const whole = await client.chat.completions.create(options);
      const folded = await client.chat.completions.stream(options).finalChatCompletion();

      for (const [index, choice] of whole.choices.entries()) {
        assert.equal(folded.choices[index].message.content, choice.message.content);
        assert.deepEqual(folded.choices[index].logprobs.content, choice.logprobs.content);
      }
    });

    test("text completions stream", async () => {
      const options = { model: MODEL, prompt: "The Rhine is", max_tokens: 6, temperature: 0 };
      const whole = await client.completions.create(options);
      const chunks = await collect(await client.completions.create({ ...options, stream: true }));

      assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), whole.choices[0].text);
    });

    test("a demanded call is streamed piece by piece", async () => {
      const stream = client.chat.completions.stream(
        ask({ max_tokens: 256, tools: [WEATHER], tool_choice: "required" }),
      );
      const pieces = [];
      stream.on("tool_calls.function.arguments.delta", (event) => pieces.push(event.arguments_delta));
      const completion = await stream.finalChatCompletion();
      const [choice] = completion.choices;
      const calls = choice.message.tool_calls;

      assert.equal(choice.finish_reason, "tool_calls");
      assert.equal(choice.message.content, null);
      assert.equal(pieces.join(""), calls.map((call) => call.function.arguments).join(""));
      for (const call of calls) {
        assert.equal(call.function.name, "weather");
        Place.strict().parse(call.function.parsed_arguments);
      }
    });

    test("runTools calls the function that was named", async () => {
      const places = [];
      const tool = zodFunction({
        name: "weather",
        parameters: Place,
        function: (place) => {
          places.push(place);
          return "rain";
        },
      });
      const named = { type: "function", function: { name: "weather" } };
      const runner = client.chat.completions.runTools(
        ask({ max_tokens: 80, tools: [tool], tool_choice: named, stream: true }),
      );

      assert.equal(await runner.finalFunctionToolCallResult(), "rain");
      assert.equal(places.length, 1);
      Place.strict().parse(places[0]);
    });

    test("replies are parsed into the schema that was sent", async () => {
      const options = ask({ max_tokens: 60, response_format: zodResponseFormat(City, "city") });
      const whole = await client.chat.completions.parse(options);
      const stream = client.chat.completions.stream(options);
      const streamed = await stream.finalChatCompletion();

      City.strict().parse(whole.choices[0].message.parsed);
      assert.deepEqual(streamed.choices[0].message.parsed, whole.choices[0].message.parsed);
    });

    test("a bad value is a BadRequestError that names it, whole or streamed", async () => {
      for (const stream of [false, true]) {
        await assert.rejects(client.chat.completions.create(ask({ temperature: 9, stream })), (error) => {
          assert.ok(error instanceof OpenAI.BadRequestError);
          assert.deepEqual([error.status, error.code, error.param], [400, "invalid_value", "temperature"]);
          assert.equal(error.type, "invalid_request_error");
          assert.ok(error.requestID);
          return true;
        });
      }
    });

    test("what cannot be honoured is refused by name", async () => {
      await assert.rejects(client.chat.completions.create(ask({ modalities: ["audio"] })), (error) => {
        assert.ok(error instanceof OpenAI.BadRequestError);
        assert.deepEqual([error.code, error.param], ["unsupported_parameter", "modalities"]);
        return true;
      });
    });

    test("a schema that cannot be enforced is refused where it says so", async () => {
      const schema = { type: "object", properties: { x: { type: "nothing" } } };
      const response_format = { type: "json_schema", json_schema: { name: "bad", schema } };
      await assert.rejects(client.chat.completions.create(ask({ response_format })), (error) => {
        assert.ok(error instanceof OpenAI.BadRequestError);
        assert.ok(error.param.startsWith("response_format.json_schema.schema"));
        return true;
      });
    });

    test("a model that is not served is a NotFoundError", async () => {
      await assert.rejects(client.chat.completions.create(ask({ model: "gpt-5" })), (error) => {
        assert.ok(error instanceof OpenAI.NotFoundError);
        assert.equal(error.code, "model_not_found");
        return true;
      });
    });

    test("what has no effect is named in a header", async () => {
      const { response } = await client.chat.completions.create(ask({ store: true })).withResponse();

      assert.equal(response.headers.get("x-ignored-parameters"), "store");
    });

    test("models are listed", async () => {
      const models = await collect(client.models.list());

      assert.deepEqual(models.map((model) => model.id), [MODEL]);
    });
  });
}

describe("openai on an engine with scripted answers", () => {
  const client = connect(scripted);
  const call = (place) => JSON.stringify({ name: "weather", arguments: place });

  test("text of many bytes a character arrives whole", async () => {
    const text = "Grüße vom Rhein 🌊, 河, and back.";
    const stream = client.chat.completions.stream(ask({ messages: say(text), max_tokens: 100 }));
    const chunks = await collect(stream);

    assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), text);
    assert.ok(chunks.length > 4);
    assert.equal((await stream.finalChatCompletion()).choices[0].finish_reason, "stop");
  });

  test("two calls that the model chose to make", async () => {
    const places = [{ city: "Bonn", unit: "C" }, { city: "Basel", unit: "F" }];
    const messages = say(places.map(call).join("\n"));
    const stream = client.chat.completions.stream(ask({ messages, tools: [WEATHER], max_tokens: 200 }));
    const [choice] = (await stream.finalChatCompletion()).choices;
    const calls = choice.message.tool_calls;

    assert.equal(choice.finish_reason, "tool_calls");
    assert.deepEqual(calls.map((made) => made.function.parsed_arguments), places);
    assert.equal(new Set(calls.map((made) => made.id)).size, 2);
  });

  test("runTools goes on with the result until the model answers", async () => {
    const place = { city: "Bonn", unit: "C" };
    const tool = zodFunction({
      name: "weather",
      parameters: Place,
      // The last script in the conversation is the one that counts.
      function: ({ city }) => `@say<<It rains in ${city}.>>`,
    });
    const options = ask({ messages: say(call(place)), tools: [tool], max_tokens: 200 });
    for (const stream of [false, true]) {
      const runner = client.chat.completions.runTools({ ...options, stream });

      assert.equal(await runner.finalContent(), "It rains in Bonn.");
      const roles = runner.messages.map((message) => message.role);
      assert.deepEqual(roles, ["user", "assistant", "tool", "assistant"]);
      const usage = await runner.totalUsage();
      // A stream has usage only on request.
      assert.equal(usage.completion_tokens > 0, !stream);
    }
  });

  test("the very object is parsed", async () => {
    const city = { name: "Köln", on_the_rhine: true };
    const completion = await client.chat.completions.parse(
      ask({
        messages: say(JSON.stringify(city)),
        max_tokens: 100,
        response_format: zodResponseFormat(City, "city"),
      }),
    );

    assert.deepEqual(completion.choices[0].message.parsed, city);
    assert.equal(completion.choices[0].finish_reason, "stop");
  });

  test("a reply that was cut off is not parsed", async () => {
    const options = ask({ max_tokens: 2, response_format: zodResponseFormat(City, "city") });

    await assert.rejects(client.chat.completions.parse(options), OpenAI.LengthFinishReasonError);
  });

  test("a failure inside a stream is an APIError", async () => {
    const messages = [{ role: "user", content: "@sim(fail_at=3) hello" }];
    const stream = await client.chat.completions.create(ask({ messages, stream: true }));

    await assert.rejects(collect(stream), (error) => {
      assert.ok(error instanceof OpenAI.APIError);
      assert.equal(error.code, "internal_error");
      return true;
    });
  });
});
