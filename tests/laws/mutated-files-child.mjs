// Loads one model after the other and asks each for small answers, in a process of its own: a path a line on standard
// input, a JSON line of what came of it on standard output.
import { createInterface } from "node:readline";

/** The compiled library, as a URL. */
const { Engine } = await import(process.argv[2]);

for await (const path of createInterface({ input: process.stdin })) {
  const told = await outcomeOf(path);
  process.stdout.write(`${JSON.stringify({ ...told, peakKilobytes: process.resourceUsage().maxRSS })}\n`);
}

async function outcomeOf(path) {
  let engine;
  try {
    engine = await Engine.load({ model: path, threads: 1, storeBytes: 2 ** 26, contextBytes: 2 ** 28 });
    const options = { maxTokens: 3, temperature: 0 };
    const answers = [];
    for (const mode of ["block", "full"]) {
      const input = { blocks: ["The 12 of a\n\n  b", "é🙂 ab <s>aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] };
      answers.push((await engine.complete(input, { ...options, mode })).text);
    }
    if (engine.model.chatTemplate !== undefined) {
      answers.push((await engine.complete({ messages: [{ role: "user", content: "a" }] }, options)).text);
    }
    return { kind: "answer", answers };
  } catch (error) {
    return { kind: "error", message: String(error?.message ?? error), stack: String(error?.stack) };
  } finally {
    await engine?.[Symbol.asyncDispose]();
  }
}
