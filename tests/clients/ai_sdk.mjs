// Runs Vercel's AI SDK with kluster.mjs of this folder: each kind of call, on the model that is given.
import { Output, generateText, isStepCount, jsonSchema, streamText, tool } from "ai";

const [id, tools, api] = process.argv.slice(2);
let model;
if (api === "responses") {
  const { createOpenAI } = await import("@ai-sdk/openai");
  model = createOpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.LITELLM_MASTER_KEY }).responses(id);
} else {
  const { kluster, model: byDefault } = await import("./kluster.mjs");
  model = id ? kluster(id) : byDefault;
}
const common = { model, maxRetries: 0 };

const weather = tool({
  description: "Get the weather of a city",
  inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] }),
  execute: async ({ city }) => `Sunny in ${city}`,
});
const city = jsonSchema({
  type: "object",
  properties: { name: { type: "string" }, country: { type: "string" } },
  required: ["name", "country"],
});

async function streamed() {
  let text = "";
  const result = streamText({ ...common, prompt: "Stream!", onError: ({ error }) => { throw error; } });
  for await (const piece of result.textStream) text += piece;
  return text;
}

async function streamedObject() {
  const output = Output.object({ schema: city });
  const result = streamText({ ...common, prompt: "name: Lisbon, country: Portugal", output, onError: ({ error }) => { throw error; } });
  let last;
  for await (const part of result.partialOutputStream) last = part;
  return last;
}

async function thoughts() {
  const result = streamText({ ...common, prompt: "Stream!", onError: ({ error }) => { throw error; } });
  let text = "";
  for await (const part of result.fullStream) if (part.type === "reasoning-delta") text += part.text;
  return text;
}

const calls = {
  text: async () => (await generateText({ ...common, prompt: "What is breakfast?", maxOutputTokens: 200 })).text,
  stream: streamed,
  object: async () =>
    (await generateText({ ...common, prompt: "name: Lisbon, country: Portugal", output: Output.object({ schema: city }) }))
      .output,
};
if (api === "responses") {
  calls.reasoning = async () => (await generateText({ ...common, prompt: "What is breakfast?" })).reasoningText;
  calls.streamedReasoning = thoughts;
  calls.streamedObject = streamedObject;
}
if (tools === "tools") {
  const ask = { ...common, prompt: "What is the weather in Lisbon?", tools: { weather }, stopWhen: isStepCount(3) };
  calls.tools = async () => (await generateText(ask)).text;
}
for (const [kind, call] of Object.entries(calls)) console.log(JSON.stringify({ kind, answer: await call() }));
