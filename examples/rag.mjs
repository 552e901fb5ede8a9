// Index time and question time: passages are encoded once, then found again in whatever order retrieval returns them.
import { Engine } from "block-attention";

const passages = [
  {
    title: "The Lost Daughter",
    text: "The Lost Daughter is a 2021 American drama film directed by Maggie Gyllenhaal and starring Olivia Colman and Dakota Johnson.",
  },
  {
    title: "Maggie Gyllenhaal",
    text: "Maggie Gyllenhaal (born 16 November 1977 in New York City) is an American film director. She is the daughter of screenwriter Naomi Foner and director Stephen Gyllenhaal.",
  },
  { title: "Frida Kahlo", text: "Frida Kahlo was a Mexican painter. She was born in Mexico City." },
];

const engine = await Engine.load({ threads: 1 }); // a model this small gains nothing from more
try {
  const index = await engine.encode(passages);
  console.log(`indexed: ${index.blocks.map(({ tokens }) => tokens).join(" + ")} tokens`);

  const orders = [
    [0, 1, 2],
    [2, 1, 0],
    [1, 2, 0],
  ];
  for (const order of orders) {
    const documents = order.map((i) => passages[i]);
    const { text, usage, blocks } = await engine.complete(
      { question: "Who is the mother of the director of film The Lost Daughter?", documents },
      { maxTokens: 60 },
    );
    const hits = blocks.filter(({ hit }) => hit).length;
    console.log(`order ${order.join(" ")}: ${text}`);
    console.log(
      `  ${hits} of ${blocks.length} blocks and ${usage.cachedTokens} of ${usage.promptTokens} tokens from the store`,
    );
  }
} finally {
  await engine[Symbol.asyncDispose]();
}
