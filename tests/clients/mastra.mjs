// Asks the agent of kluster.mjs in this folder, as Mastra runs it.
import { agent } from "./kluster.mjs";

console.log(JSON.stringify({ kind: "text", answer: (await agent.generate("What is breakfast?")).text }));
let text = "";
for await (const piece of (await agent.stream("Stream!")).textStream) text += piece;
console.log(JSON.stringify({ kind: "stream", answer: text }));
process.exit(0);
