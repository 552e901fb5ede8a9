// In-context learning: every demonstration is a block, so another choice or order of them is computed already.
// The embedded model knows nothing but reading: what to see here is the blocks, not the answer.
import { DEMONSTRATION_RULES, Engine, segmentDemonstrations } from "block-attention";

const demonstrations = [
  "\n\nQ: True and False is\nA: False",
  "\n\nQ: True or False is\nA: True",
  "\n\nQ: not False is\nA: True",
];

const engine = await Engine.load({ threads: 1 }); // a model this small gains nothing from more
try {
  for (const order of [
    [0, 1, 2],
    [2, 0],
    [1, 2, 0],
  ]) {
    const prompt = `Evaluate the expression.${order.map((i) => demonstrations[i]).join("")}\n\nQ: not True is\nA:`;
    const { blocks } = segmentDemonstrations(prompt, DEMONSTRATION_RULES.bbh);
    const { usage } = await engine.complete({ blocks: blocks.map(({ text }) => text) }, { maxTokens: 4 });
    console.log(
      `${order.length} demonstrations: ${blocks.length} blocks, ${usage.cachedTokens} of ${usage.promptTokens} tokens from the store`,
    );
  }
} finally {
  await engine[Symbol.asyncDispose]();
}
