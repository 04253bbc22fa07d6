// Runs @elizaos/plugin-openai in an AgentRuntime, with the .env of this folder, and prints what each model answers.
import dotenv from "dotenv";
dotenv.config({ quiet: true });

const { AgentRuntime, ModelType } = await import("@elizaos/core");
const { openaiPlugin } = await import("@elizaos/plugin-openai");

const character = { name: "Cook", bio: "A cook", system: "You are a cook.", plugins: ["@elizaos/plugin-openai"] };
const runtime = new AgentRuntime({ character });
// What a model answers is logged to the database; none is needed for that.
runtime.adapter = new Proxy({}, { get: () => async () => null });
await runtime.registerPlugin(openaiPlugin);

const imageUrl = `data:image/png;base64,${process.env.SQUARE}`;
const asked = {
  TEXT_SMALL: { prompt: "What is a small breakfast?" },
  TEXT_LARGE: { prompt: "What is a large breakfast?" },
  OBJECT_SMALL: { prompt: "A JSON object about breakfast" },
  TEXT_EMBEDDING: { text: "breakfast" },
  IMAGE_DESCRIPTION: { imageUrl, prompt: "What is in this image?" },
};
for (const [kind, params] of Object.entries(asked)) {
  try {
    console.log(JSON.stringify({ kind, answer: await runtime.useModel(ModelType[kind], params) }));
  } catch (error) {
    console.log(JSON.stringify({ kind, error: error.message }));
  }
}
const { textStream } = await openaiPlugin.models[ModelType.TEXT_SMALL](runtime, { prompt: "Stream!", stream: true });
let streamed = "";
for await (const piece of textStream) streamed += piece;
console.log(JSON.stringify({ kind: "STREAM", answer: streamed }));
process.exit(0);
