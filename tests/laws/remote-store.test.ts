import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createConnection, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { S3 } from "@aws-sdk/client-s3";
import { Redis } from "iovalkey";
import { expect, onTestFinished, test, vi } from "vitest";
import type { EngineOptions } from "../../src/engine/engine-options.js";
import { temporaryFolder } from "../../src/files/test-files.suite.js";
import { architectureModels } from "../models/architecture-models.js";
import { Random } from "../models/random.js";
import type { RandomModelShape } from "../models/random-shape.js";
import { startRedis, startS3, type TestServer, whyNoRedis, whyNoS3 } from "../test-server.js";
import { copiesEnded, expectIdle, LawModels, lawEngine, noEnd } from "./law-models.js";
import { answers, promptsOf } from "./store-prompts.js";

const models = new LawModels();
/** Servers of others share the cores. */
const timeout = 180_000;
const model = () => models.huggingFace({ architecture: "llama", seed: 71 });
const f16 = (store: EngineOptions["store"]) => lawEngine(model(), { kvType: "f16", store });

/** Keeps what is told of servers that fail, alone. */
const outagesInto = (warnings: string[]) => (warning: string) => {
  if (/^Blocks are neither/.test(warning)) warnings.push(warning);
};

/** A server whose answers can be stopped in their midst. */
interface Place {
  readonly server: TestServer;
  /** As --store has it. */
  readonly url: (port: number, timeoutMs?: number) => string;
  readonly keys: () => Promise<string[]>;
  readonly read: (key: string) => Promise<Buffer>;
  readonly write: (key: string, bytes: Buffer) => Promise<void>;
}

async function redisPlace(...args: readonly string[]): Promise<Place> {
  const server = await startRedis(...args);
  const client = new Redis(server.port, "127.0.0.1", { lazyConnect: true });
  client.on("error", () => undefined);
  onTestFinished(() => client.disconnect());
  return {
    server,
    url: (port, timeoutMs = 20_000) => `redis://127.0.0.1:${port}?timeout=${timeoutMs}`,
    keys: () => client.keys("*"),
    read: async (key) => (await client.getBuffer(key)) as Buffer,
    // Of no bytes: a value of another type.
    write: async (key, bytes) =>
      void (bytes.length > 0 ? await client.set(key, bytes) : await client.multi().del(key).rpush(key, "x").exec()),
  };
}

async function s3Place(): Promise<Place> {
  const server = await startS3();
  const endpoint = `http://127.0.0.1:${server.port}`;
  vi.stubEnv("AWS_ACCESS_KEY_ID", "test");
  vi.stubEnv("AWS_SECRET_ACCESS_KEY", "secret");
  onTestFinished(() => void vi.unstubAllEnvs());
  const Bucket = "blocks";
  const client = new S3({ endpoint, region: "us-east-1", forcePathStyle: true });
  onTestFinished(() => client.destroy());
  await client.createBucket({ Bucket });
  return {
    server,
    url: (port, timeoutMs = 20_000) =>
      `s3://${Bucket}/some/prefix?region=us-east-1&endpoint=http://127.0.0.1:${port}&timeout=${timeoutMs}`,
    keys: async () => ((await client.listObjectsV2({ Bucket })).Contents ?? []).map(({ Key = "" }) => Key),
    read: async (Key) => Buffer.from(await (await client.getObject({ Bucket, Key })).Body!.transformToByteArray()),
    write: async (Key, Body) => void (await client.putObject({ Bucket, Key, Body })),
  };
}

/** Hands bytes on, and closes connections after so many of the server's. */
async function cutProxy(port: number) {
  const sockets = new Set<Socket>();
  const state = { mostBytes: Number.POSITIVE_INFINITY };
  const proxy = createServer((client) => {
    const server = createConnection(port, "127.0.0.1");
    let numBytes = 0;
    for (const one of [client, server]) {
      sockets.add(one);
      one.on("error", () => undefined).on("close", () => [client, server].map((other) => other.destroy()));
    }
    client.pipe(server);
    server.on("data", (bytes) => {
      client.write(bytes.subarray(0, Math.max(0, state.mostBytes - numBytes)));
      numBytes += bytes.length;
      if (numBytes > state.mostBytes) client.end();
    });
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    for (const one of sockets) one.destroy();
    proxy.close();
  });
  return { port: (proxy.address() as { port: number }).port, state };
}

const places = [
  ["redis", redisPlace, whyNoRedis],
  ["s3", s3Place, whyNoS3],
] as const;

for (const [name, place, whyNot] of places) {
  const law = test.skipIf(whyNot !== undefined);
  const title = whyNot === undefined ? name : `${name} (skipped: ${whyNot})`;
  const prompts = promptsOf(new Random(6, "remote"));

  /** A place that holds all blocks of some prompts, and their answers. */
  async function filled(...args: readonly string[]) {
    const opened = await place(...args);
    const url = opened.url(opened.server.port);
    await using first = await f16(url);
    const wanted = await answers(first, prompts);
    await copiesEnded(first);
    expect(first.stats().store.tiers[0]).toMatchObject({ name, drops: 0, losses: 0 });
    return { ...opened, urlOf: opened.url, url, wanted: wanted.map(({ tokenIds }) => tokenIds) };
  }

  const tokensOf = (found: Awaited<ReturnType<typeof answers>>) => found.map(({ tokenIds }) => tokenIds);

  law(`${title}: the next process has all blocks and whole pages`, { timeout }, async () => {
    const { server, url, keys } = await place();
    for (const architecture of ["llama", "gemma3_text", "qwen3_moe"]) {
      const path = models.huggingFace({ ...(architectureModels[architecture] as RandomModelShape), seed: 72 });
      const store = url(server.port);
      await using fresh = await lawEngine(path, { kvType: "f16" });
      const wanted = await answers(fresh, prompts, 'lead="Read this:\\n"');
      {
        await using first = await lawEngine(path, { kvType: "f16", store });
        expect(await answers(first, prompts, 'lead="Read this:\\n"')).toEqual(wanted);
      }
      const numKeys = (await keys()).length;
      await using second = await lawEngine(path, { kvType: "f16", store });
      const found = await answers(second, prompts, 'lead="Read this:\\n"');
      expect(tokensOf(found)).toEqual(tokensOf(wanted));
      expect(found.flatMap(({ hits }) => hits)).not.toContain(false);
      // A page that was not full when it was written is not found by its id.
      for (const [i, { cached }] of found.entries()) {
        const numTokens = prompts[i]!.blockTokenIds.flat().length;
        expect(cached).toBeGreaterThanOrEqual(numTokens - 6);
      }
      await copiesEnded(second);
      expect(second.stats().store).toMatchObject({ misses: 0, tiers: [{ losses: 0, saves: 0 }] });
      expect(await keys()).toHaveLength(numKeys);
      expectIdle(second);
    }
  });

  law(`${title}: what is found there is kept in a nearer folder, for who has that alone`, { timeout }, async () => {
    const { url, wanted } = await filled();
    const folder = await temporaryFolder();
    {
      await using both = await f16([folder, url]);
      expect(tokensOf(await answers(both, prompts))).toEqual(wanted);
      await copiesEnded(both);
    }
    await using last = await f16(folder);
    const found = await answers(last, prompts);
    expect(tokensOf(found)).toEqual(wanted);
    expect(found.flatMap(({ hits }) => hits)).not.toContain(false);
  });

  law(`${title}: damaged, cut and foreign objects are misses, and are replaced`, { timeout }, async () => {
    const { url, wanted, keys, read, write } = await filled();
    const all = (await keys()).sort();
    const random = new Random(3, "damage");
    for (const [i, key] of all.entries()) {
      const bytes = await read(key);
      const at = random.below(bytes.length);
      bytes[at] = (bytes[at] as number) ^ (1 << random.below(8));
      const other = await read(all[(i + 1) % all.length] as string);
      const instead = [bytes, bytes.subarray(0, at), other, Buffer.from("foreign"), Buffer.alloc(0)];
      await write(key, instead[i % instead.length] as Buffer);
    }
    {
      await using second = await f16(url);
      expect(tokensOf(await answers(second, prompts))).toEqual(wanted);
      await copiesEnded(second);
      expect(second.stats().store.tiers[0]?.losses).toBeGreaterThan(3);
      expectIdle(second);
    }
    await using third = await f16(url);
    const found = await answers(third, prompts);
    expect(tokensOf(found)).toEqual(wanted);
    expect(found.flatMap(({ hits }) => hits)).not.toContain(false);
  });

  law(`${title}: one that is killed, stopped or cut in mid-answer fails no request`, { timeout }, async () => {
    const { server, wanted, urlOf } = await filled();
    const proxy = await cutProxy(server.port);
    const warnings: string[] = [];
    const through = urlOf(proxy.port, 1000);
    const fresh = () => lawEngine(model(), { kvType: "f16", store: through, onWarning: outagesInto(warnings) });
    proxy.state.mostBytes = 1000;
    {
      await using engine = await fresh();
      expect(tokensOf(await answers(engine, prompts))).toEqual(wanted);
      // After a pause it is tried again, and fails again.
      expect(warnings.length).toBeGreaterThan(0);
    }
    proxy.state.mostBytes = Number.POSITIVE_INFINITY;
    {
      await using engine = await fresh();
      server.signal("SIGSTOP");
      expect(tokensOf(await answers(engine, prompts))).toEqual(wanted);
      expect(warnings.pop()).toContain("no answer within");
      server.signal("SIGCONT");
      // Passed by until a probe is answered.
      let numTries = 0;
      const isBack = async () => {
        const [other] = promptsOf(new Random(numTries++, "new"));
        await answers(engine, [other!]);
        await copiesEnded(engine);
        return engine.stats().store.tiers[0]!.saves;
      };
      await expect.poll(isBack, { timeout: 60_000 }).toBeGreaterThan(0);
    }
    await using engine = await fresh();
    await server.kill();
    expect(tokensOf(await answers(engine, prompts))).toEqual(wanted);
    expect(warnings.pop()).toContain(`127.0.0.1:${proxy.port}`);
  });
}

const redisTest = test.skipIf(whyNoRedis !== undefined);

redisTest("redis: a full server is read from, and a wrong password fails no request", async () => {
  const { server, url: urlOf } = await redisPlace("--maxmemory-policy", "noeviction");
  const url = urlOf(server.port);
  const first = await f16(url);
  const wanted = (await answers(first, promptsOf(new Random(6, "remote")))).map(({ tokenIds }) => tokenIds);
  await first[Symbol.asyncDispose]();
  const client = new Redis(server.port, "127.0.0.1");
  onTestFinished(() => client.disconnect());
  await client.config("SET", "maxmemory", "1");
  {
    await using second = await f16(url);
    const found = await answers(second, promptsOf(new Random(6, "remote")));
    expect(found.map(({ tokenIds }) => tokenIds)).toEqual(wanted);
    expect(found.flatMap(({ hits }) => hits)).not.toContain(false);
    await answers(second, promptsOf(new Random(7, "remote")));
    await copiesEnded(second);
    expect(second.stats().store.tiers[0]).toMatchObject({ saves: 0, losses: 0 });
    expect(second.stats().store.tiers[0]?.drops).toBeGreaterThan(0);
    expect((await second.encode(["not there yet"])).blocks).toMatchObject([{ durable: false }]);
  }
  await client.config("SET", "maxmemory", "0");
  await client.config("SET", "requirepass", "right:@word");
  const warnings: string[] = [];
  for (const [password, isHit] of [
    ["secretwrong", false],
    [encodeURIComponent("right:@word"), true],
  ] as const) {
    const store = url.replace("redis://", `redis://:${password}@`);
    await using engine = await lawEngine(model(), { kvType: "f16", store, onWarning: outagesInto(warnings) });
    const found = await answers(engine, promptsOf(new Random(6, "remote")));
    expect(found.map(({ tokenIds }) => tokenIds)).toEqual(wanted);
    expect(found[0]?.hits[0]).toBe(isHit);
  }
  expect(warnings).toHaveLength(1);
  expect(warnings.join()).not.toMatch(/secretwrong|right/);
});

async function requireKeysHide(kind: "a folder" | "redis"): Promise<void> {
  const folder = await temporaryFolder();
  const place = kind === "redis" ? await redisPlace() : undefined;
  const store = place ? place.url(place.server.port) : join(folder, "blocks");
  const prompts = promptsOf(new Random(8, "keys"));
  const files = async (): Promise<Buffer[]> => {
    if (place) return await Promise.all((await place.keys()).map(place.read));
    const entries = readdirSync(join(store, "blocks"), { recursive: true, withFileTypes: true });
    return entries.filter((one) => one.isFile()).map(({ parentPath, name }) => readFileSync(join(parentPath, name)));
  };
  const [old, newest] = ["11".repeat(32), "22".repeat(32)];
  const warnings: string[] = [];
  const run = async (...keys: readonly string[]) => {
    const key = join(folder, "key");
    writeFileSync(key, keys.join("\n"));
    const query = keys.length === 0 ? "" : `${place ? "&" : "?"}key=${key}`;
    await using engine = await lawEngine(model(), {
      ...{ kvType: "f16", store: store + query },
      onWarning: (warning) => void (/cannot be read/.test(warning) && warnings.push(warning)),
    });
    // A folder keeps new blocks once all its files have been looked at: this waits for it.
    await engine.encode(["first"]);
    const found = await answers(engine, prompts);
    await copiesEnded(engine);
    const { losses } = engine.stats().store.tiers[0]!;
    const hits = found.flatMap((one) => one.hits);
    return { tokens: found.map(({ tokenIds }) => tokenIds), hits, losses };
  };
  const first = await run(old);
  for (const bytes of await files()) expect(bytes.includes("block-kv")).toBe(false);
  const again = async (...keys: readonly string[]) => {
    const { tokens, hits, losses } = await run(...keys);
    expect(tokens).toEqual(first.tokens);
    return { isHit: !hits.includes(false), losses };
  };
  expect(await again(old)).toEqual({ isHit: true, losses: 0 });
  expect(await again(newest, old)).toEqual({ isHit: true, losses: 0 });
  expect(warnings).toEqual([]);
  // The old key is lost: what it encrypted is written anew.
  expect((await again(newest)).isHit).toBe(false);
  expect(warnings).toHaveLength(1);
  expect(await again(newest)).toEqual({ isHit: true, losses: 0 });
  if (kind === "redis") {
    // Who has no key leaves what others share as it is.
    expect((await again()).isHit).toBe(false);
    expect(await again(newest)).toEqual({ isHit: true, losses: 0 });
  }
}

const keysHide = "with keys holds nothing that others read, and another key's blocks are misses";
test(`store: a folder ${keysHide}`, () => requireKeysHide("a folder"));
redisTest(`store: redis ${keysHide}`, () => requireKeysHide("redis"));

test.each([
  ["Redis", whyNoRedis, () => redisPlace()],
  ["S3", whyNoS3, s3Place],
] as const)(
  "store: documents on %s are every process's, and deleting one deletes what others have kept of it",
  async (_, reason, open) => {
    if (reason !== undefined) return expect(reason).toBeTruthy();
    const { server, url, keys } = await open();
    const store = url(server.port);
    const documents = ["one", "two"].map((name) => ({
      id: name,
      text: `The ${name} of all of them.`,
      metadata: { name },
    }));
    const asked = { mode: "full", maxTokens: 70, logitBias: noEnd } as const;
    const question = "Which one is it?";
    {
      await using first = await f16(store);
      await first.encode(documents);
      // Pages that saw both, and some that saw the second alone.
      await first.complete({ question, documents }, asked);
      await first.complete({ question, documents: documents.slice(1) }, asked);
    }
    await using second = await f16(store);
    const listed = (await second.documents()).map(({ id, metadata }) => [id, metadata]);
    expect(listed.sort()).toEqual(documents.map(({ id, metadata }) => [id, metadata]));
    const before = (await keys()).length;
    expect(await second.deleteDocument("one", { salt: "theirs" })).toBe(false);
    expect(await second.deleteDocument("one")).toBe(true);
    expect((await second.documents()).map(({ id }) => id)).toEqual(["two"]);
    // Its entry, its block, and pages of the first prompt; the second's stay.
    expect(before - (await keys()).length).toBeGreaterThan(2);
    await using third = await f16(store);
    const cached = async (some: typeof documents) =>
      (await third.complete({ question, documents: some }, asked)).usage.reused.prefix;
    // What stands before the documents alone; and the second document after that.
    const beginning = await cached(documents);
    expect(await cached(documents.slice(1))).toBeGreaterThan(beginning);
    const { blocks } = await third.encode(documents);
    expect(blocks.map((one) => one.error === undefined && one.hit)).toEqual([false, true]);
  },
  timeout,
);
