// Encodes passages into a folder, ends, starts again and answers, once for each line of standard input ({"store"} as JSON), and says on
// standard output what came of it. Calls of the system may fail meanwhile.
import { createInterface } from "node:readline";

const [library, model] = process.argv.slice(2);
const { Engine } = await import(library);
const passages = ["One passage.\n", "Another passage, longer than the first by some words.\n"];
const options = { mode: "block", maxTokens: 4, keepPrefixes: false };

async function round(store) {
  const load = () =>
    Engine.load({
      model,
      store: `${store}?cap=1GB`,
      mode: "block",
      threads: 1,
      storeBytes: 2 ** 22,
      contextBytes: 2 ** 22,
    });
  const first = await load();
  const found = await first.encode(passages).finally(() => first[Symbol.asyncDispose]());
  const blocks = found.blocks.map(({ id, hit, durable, error }) => ({ id, hit, durable, error: error?.message }));
  const second = await load();
  const answer = await second
    .complete({ blocks: ["Read.\n", ...passages, "why"] }, options)
    .finally(() => second[Symbol.asyncDispose]());
  return { blocks, tokenIds: answer.tokenIds, hits: answer.blocks.slice(1).map(({ hit }) => hit) };
}

console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const outcome = await round(JSON.parse(line).store).catch((error) => ({ error: error.message }));
  console.log(JSON.stringify(outcome));
}
