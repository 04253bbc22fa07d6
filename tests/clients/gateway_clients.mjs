// Asks the gateway at BASE_URL as the AI SDK's own OpenAI provider (with and without /responses) and LangChain.js do.
import { createOpenAI } from "@ai-sdk/openai";
import { HumanMessage } from "@langchain/core/messages";
import { tool as lcTool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { Output, generateText, isStepCount, jsonSchema, streamText, tool } from "ai";

const [id] = process.argv.slice(2);
const baseURL = process.env.BASE_URL;
const print = (client, kind, answer) => console.log(JSON.stringify({ client, kind, answer }));

const schema = {
  type: "object",
  properties: { name: { type: "string" }, country: { type: "string" } },
  required: ["name", "country"],
  additionalProperties: false,
};
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const FACTS = "name: Lisbon, country: Portugal";
const WEATHER = "What is the weather in Lisbon?";

const provider = createOpenAI({ baseURL, apiKey: "any" });
const weather = tool({
  description: "Get the weather of a city",
  inputSchema: jsonSchema(parameters),
  execute: async ({ city }) => `Sunny in ${city}`,
});
for (const [client, model] of [["ai-sdk chat", provider.chat(id)], ["ai-sdk responses", provider.responses(id)]]) {
  const common = { model, maxRetries: 0 };
  const whole = await generateText({ ...common, prompt: "What is breakfast?", maxOutputTokens: 200 });
  print(client, "text", whole.text);
  print(client, "reasoning", whole.reasoningText ?? "");
  let text = "";
  const stream = streamText({ ...common, prompt: "Stream!", onError: ({ error }) => { throw error; } });
  for await (const piece of stream.textStream) text += piece;
  print(client, "stream", text);
  print(client, "usage", (await stream.totalUsage).totalTokens);
  const output = Output.object({ schema: jsonSchema(schema) });
  print(client, "object", (await generateText({ ...common, prompt: FACTS, output })).output);
  const tools = { ...common, prompt: WEATHER, tools: { weather }, stopWhen: isStepCount(3) };
  print(client, "tools", (await generateText(tools)).text);
  text = "";
  for await (const piece of streamText(tools).textStream) text += piece;
  print(client, "streamed tools", text);
}

for (const useResponsesApi of [false, true]) {
  const client = useResponsesApi ? "langchain.js responses" : "langchain.js chat";
  const model = new ChatOpenAI({ model: id, apiKey: "any", maxRetries: 0, useResponsesApi, configuration: { baseURL } });
  print(client, "text", (await model.invoke("What is breakfast?")).text);
  let text = "";
  for await (const chunk of await model.stream("Stream!")) text += chunk.text;
  print(client, "stream", text);
  print(client, "object", await model.withStructuredOutput(schema, { name: "city", method: "jsonSchema" }).invoke(FACTS));
  const lc = lcTool(({ city }) => `Sunny in ${city}`, { name: "weather", description: "Get the weather", schema: parameters });
  const messages = [new HumanMessage(WEATHER)];
  const bound = model.bindTools([lc]);
  const first = await bound.invoke(messages);
  messages.push(first, await lc.invoke(first.tool_calls[0]));
  print(client, "tools", (await bound.invoke(messages)).text);
}
