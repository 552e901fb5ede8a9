import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { temporaryFolder } from "../../src/files/test-files.suite.js";
import { projectRoot } from "../build-dist.js";
import { ServerUnderTest } from "../server-laws/server-under-test.js";
import { installed, startRedis, TestServer, whyNoRedis } from "../test-server.js";

const haproxy = installed(["haproxy"], "-v");
const whyNot = whyNoRedis ?? (haproxy === undefined ? "haproxy is not installed" : undefined);

const timeout = 180_000;

test("deploy/haproxy.cfg: passages come back to their replica, or to the other one", { timeout }, async (context) => {
  if (whyNot !== undefined) return context.skip(whyNot);
  const { port } = await startRedis();
  const start = () => ServerUnderTest.start({ args: ["--store", `redis://127.0.0.1:${port}`, "--mode", "block"] });
  await using first = await start();
  await using second = await start();
  const path = join(await temporaryFolder(), "haproxy.cfg");
  const proxy = await TestServer.start(haproxy as string, (at) => {
    const text = readFileSync(join(projectRoot, "deploy", "haproxy.cfg"), "utf8")
      .replace("bind :8000", `bind 127.0.0.1:${at}`)
      .replace("127.0.0.1:8081", `127.0.0.1:${first.port}`)
      .replace("127.0.0.1:8082", `127.0.0.1:${second.port}`);
    writeFileSync(path, text);
    return ["-f", path, "-db"];
  });
  /** Asks over a passage of its own, and says which replica served it, by its counted prompts. */
  const ask = async (n: number, affinity?: string) => {
    const documents = [{ text: `Passage ${n}: ${"it goes on and on about one thing. ".repeat(4)}` }];
    const answer = await fetch(`http://127.0.0.1:${proxy.port}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", ...(affinity && { "x-block-affinity": affinity }) },
      body: JSON.stringify({ messages: [{ role: "user", content: "What?" }], documents, max_tokens: 1 }),
    });
    const { block_attention } = (await answer.json()) as {
      block_attention: { blocks: { hit: boolean; id: string }[] };
    };
    expect(answer.status).toBe(200);
    return { affinity: answer.headers.get("x-block-affinity") ?? "", blocks: block_attention.blocks };
  };
  const counts = async () => {
    const of = async (server: ServerUnderTest) =>
      (await server.metrics()).sum("block_attention_store_hits_total") +
      (await server.metrics()).sum("block_attention_store_misses_total");
    return [await of(first), await of(second)] as const;
  };
  const places = new Map<number, number>();
  let before = await counts();
  const placeOf = async () => {
    const after = await counts();
    const place = after[0] > before[0] ? 0 : 1;
    before = after;
    return place;
  };
  for (let n = 0; n < 12; n++) {
    const { affinity } = await ask(n);
    const place = await placeOf();
    places.set(n, place);
    expect(affinity).toMatch(/^[0-9A-F]{40}$/);
    // Again, by the passage alone, and by what the answer named with another passage.
    await ask(n);
    expect(await placeOf()).toBe(place);
    expect((await ask(100 + n, affinity)).affinity).toBe(affinity);
    expect(await placeOf()).toBe(place);
  }
  expect(new Set(places.values()).size).toBe(2);
  // The other one never saw these passages: it has them of the store.
  const [gone] = [...places].find(([, place]) => place === 0) as [number, number];
  await expect
    .poll(async () => (await first.metrics()).sum("block_attention_store_tier_events_total"))
    .toBeGreaterThan(0);
  await first[Symbol.asyncDispose]();
  const { blocks } = await ask(gone);
  expect(blocks.map(({ hit }) => hit)).not.toContain(false);
});
