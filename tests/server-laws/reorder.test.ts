import { expect, test } from "vitest";
import { HttpClient } from "./http-client.js";
import { ServerUnderTest } from "./server-under-test.js";

interface ChatAnswer {
  readonly choices: readonly { readonly message: { readonly content: string } }[];
  readonly usage: {
    readonly prompt_tokens: number;
    readonly prompt_tokens_details: { readonly cached_tokens: number };
  };
  readonly block_attention: {
    readonly mode: string;
    readonly blocks: readonly { readonly id: string; readonly tokens: number; readonly hit: boolean }[];
  };
}

const passages = [
  "Selma was a Swedish novelist. She was born in Värmland.\n",
  "Edvard was a Norwegian composer. He was born in Bergen.\n",
  "Frida was a Mexican painter. She was born in Mexico City.\n",
];
const question = "Where was Edvard born?";

const parts = (texts: readonly string[]) => [
  { role: "user", content: [...texts, question].map((text) => ({ type: "text", text })) },
];

test("serve: passages as content parts, asked again in the reverse order, are not computed again", async () => {
  await using server = await ServerUnderTest.start();
  using client = new HttpClient(server);
  const ask = (messages: unknown, documents?: unknown) =>
    client.json<ChatAnswer>({
      path: "/v1/chat/completions",
      body: { messages, ...(documents === undefined ? {} : { documents }), temperature: 0, max_tokens: 16 },
    });

  const first = await ask(parts(passages));
  const again = await ask(parts([...passages].reverse()));
  const same = await ask(parts(passages));

  expect(first.block_attention.mode).toBe("block");
  expect(first.usage.prompt_tokens_details.cached_tokens).toBe(0);
  expect(first.block_attention.blocks.every(({ hit }) => !hit)).toBe(true);
  const idsOf = ({ block_attention }: ChatAnswer) => block_attention.blocks.map(({ id }) => id);
  const passageIds = idsOf(first).slice(-passages.length);
  expect(idsOf(again).slice(-passages.length)).toEqual(passageIds.reverse());
  // What the template puts before the first passage is a block of its own, and a hit as well.
  expect(again.block_attention.blocks.map(({ hit }) => hit)).toEqual(again.block_attention.blocks.map(() => true));
  const localTokens = again.block_attention.blocks.reduce((sum, { tokens }) => sum + tokens, 0);
  expect(again.usage.prompt_tokens_details.cached_tokens).toBe(localTokens);
  expect(again.usage.prompt_tokens).toBe(first.usage.prompt_tokens);
  expect(again.usage.prompt_tokens - localTokens).toBeGreaterThan(0);
  // Reused or computed: the answer is the same.
  expect(same.choices).toEqual(first.choices);

  const documents = passages.map((text, i) => ({ title: `Title ${i}`, text }));
  const messages = [{ role: "user", content: question }];
  const rag = await ask(messages, documents);
  const ragAgain = await ask(messages, [...documents].reverse());
  expect(rag.block_attention.blocks.filter(({ hit }) => hit).length).toBeLessThanOrEqual(1);
  expect(ragAgain.block_attention.blocks.every(({ hit }) => hit)).toBe(true);
  expect(ragAgain.block_attention.blocks.length).toBe(rag.block_attention.blocks.length);

  // A passage encoded at index time is the same block.
  const fresh = "Akira was a Japanese director. He was born in Tokyo.\n";
  const encoded = await client.json<{ blocks: { id: string; hit: boolean }[] }>({
    path: "/v1/blocks",
    body: { passages: [fresh] },
  });
  const afterwards = await ask(parts([passages[0] as string, fresh]));
  expect(afterwards.block_attention.blocks.at(-1)).toMatchObject({ id: encoded.blocks[0]?.id, hit: true });
});
