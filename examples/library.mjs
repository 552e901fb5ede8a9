// Answers a question over passages with the default model: the library call of the README.
import { Engine } from "block-attention";

const engine = await Engine.load({ threads: 1 }); // with your own model: Engine.load({ model: "folder or .gguf" })
try {
  const documents = [
    {
      title: "Into the Wild",
      text: "Into the Wild is a 2007 American adventure drama film directed by Sean Penn and starring Emile Hirsch and Catherine Keener.",
    },
    {
      title: "Sean Penn",
      text: "Sean Penn (born 17 August 1960 in Santa Monica) is an American film director. He is the son of actress Eileen Ryan and director Leo Penn.",
    },
  ];
  const question = "Who is the mother of the director of film Into the Wild?";
  for await (const event of engine.generate({ question, documents }, { maxTokens: 60 })) {
    if (event.kind !== "prompt") process.stdout.write(event.text);
    if (event.kind === "done") {
      const { promptTokens, cachedTokens } = event.result.usage;
      console.log(`\n${promptTokens} tokens in, ${cachedTokens} of them from the store`);
    }
  }
} finally {
  await engine[Symbol.asyncDispose](); // in TypeScript: await using engine = await Engine.load();
}
