// Runs Vercel's AI SDK with kluster.mjs of this folder: each kind of call, on the model that is given.
import { Output, generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import { kluster, model as byDefault } from "./kluster.mjs";

const [id, tools] = process.argv.slice(2);
const model = id ? kluster(id) : byDefault;
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

const calls = {
  text: async () => (await generateText({ ...common, prompt: "What is breakfast?", maxOutputTokens: 200 })).text,
  stream: streamed,
  object: async () =>
    (await generateText({ ...common, prompt: "name: Lisbon, country: Portugal", output: Output.object({ schema: city }) }))
      .output,
};
if (tools === "tools") {
  const ask = { ...common, prompt: "What is the weather in Lisbon?", tools: { weather }, stopWhen: isStepCount(3) };
  calls.tools = async () => (await generateText(ask)).text;
}
for (const [kind, call] of Object.entries(calls)) console.log(JSON.stringify({ kind, answer: await call() }));
