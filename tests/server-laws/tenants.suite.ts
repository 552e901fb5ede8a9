import { expect, test } from "vitest";
import { Random } from "../models/random.js";
import { areaUnderCurve, chanceDeviation } from "./area-under-curve.js";
import { errorFault, eventData, HttpClient } from "./http-client.js";
import { expectCleanLog, expectSettled } from "./server-laws.js";
import { ServerUnderTest } from "./server-under-test.js";

export interface TenantsSize {
  /** Passages that the other tenant has, and as many that it has not. */
  readonly numRequests: number;
  /** The most that a threshold on the time to the first token may tell the two apart; undefined: not timed. */
  readonly maxArea?: number;
}

interface Chunk {
  readonly usage?: { readonly prompt_tokens_details: { readonly cached_tokens: number } } | null;
  readonly block_attention?: {
    readonly blocks: readonly { readonly id: string; readonly hit: boolean }[];
    readonly reused: object;
    readonly misses?: readonly object[];
  };
}

const noTokens = { blocks: 0, prefix: 0, conversation: 0 };
const words = "amber birch cedar delta ember fjord grove heron inlet jetty kelp lotus maple north otter pearl".split(
  " ",
);

/** Two keys, the same passages: neither sees, hits, times or deletes what is the other's. */
export function tenantsSuite(size: TenantsSize): void {
  const keys = ["key-of-the-first-tenant-0123456789", "key-of-the-other-tenant-9876543210"] as const;

  test("serve: tenants with the same passages do not see each other's blocks", { timeout: 600_000 }, async () => {
    await using server = await ServerUnderTest.start({ keys });
    using first = new HttpClient(server, keys[0]);
    using other = new HttpClient(server, keys[1]);
    using nobody = new HttpClient(server);
    using stranger = new HttpClient(server, "key-of-nobody-at-all-5555555555555");

    const encode = (client: HttpClient, passage: string) =>
      client.json<{ blocks: { id: string; hit: boolean }[] }>({ path: "/v1/blocks", body: { passages: [passage] } });
    const shared = "A passage that both tenants have.\n";
    const firstId = (await encode(first, shared)).blocks[0]?.id ?? "";
    const otherBlock = (await encode(other, shared)).blocks[0];
    expect(otherBlock?.hit).toBe(false);
    expect(otherBlock?.id).not.toBe(firstId);
    expect((await encode(first, shared)).blocks[0]).toMatchObject({ id: firstId, hit: true });

    // To the other it is as if there were no such block: the same answer as for an id that nobody has.
    const path = `/v1/blocks/${firstId}`;
    const unknownPath = `/v1/blocks/${firstId.replace(/^./, (digit) => (digit === "0" ? "1" : "0"))}`;
    for (const method of ["GET", "DELETE"]) {
      const mine = await other.ask({ method, path });
      const unknown = await other.ask({ method, path: unknownPath });
      expect(mine.status).toBe(404);
      expect(errorFault(mine.text)).toBeUndefined();
      expect(mine.text.replaceAll(firstId, "")).toBe(unknown.text.replaceAll(unknownPath.slice(-firstId.length), ""));
    }
    expect((await first.ask({ path })).status).toBe(200);
    expect((await first.ask({ method: "DELETE", path })).status).toBeLessThan(300);
    expect((await first.ask({ path })).status).toBe(404);
    expect((await other.ask({ path: `/v1/blocks/${otherBlock?.id}` })).status).toBe(200);

    const response = { input: "Which?", max_output_tokens: 1 };
    const { id } = await first.json<{ id: string }>({ path: "/v1/responses", body: response });
    const next = { path: "/v1/responses", body: { ...response, previous_response_id: id } };
    for (const [client, status] of [
      [other, 404],
      [first, 200],
    ] as const) {
      expect((await client.ask(next)).status).toBe(status);
      expect((await client.ask({ path: `/v1/responses/${id}/input_items` })).status).toBe(status);
      expect((await client.ask({ path: `/v1/responses/${id}` })).status).toBe(status);
      expect((await client.ask({ method: "DELETE", path: `/v1/responses/${id}` })).status).toBe(status);
    }

    for (const client of [nobody, stranger]) {
      for (const question of [
        { path },
        { path: "/metrics" },
        { path: "/v1/models" },
        { path: "/generate", body: {} },
      ]) {
        const refused = await client.ask(question);
        expect(refused.status).toBe(401);
        expect(refused.headers["www-authenticate"]).toMatch(/^Bearer/);
        expect(errorFault(refused.text)).toBeUndefined();
      }
    }
    expect((await nobody.ask({ path: "/health" })).status).toBe(200);
    expect((await nobody.ask({ path: "/ready" })).status).toBe(200);

    // What explains a miss is text of the same tenant, or none.
    const begin = "The vault of the bank by the river opens with the number ";
    for (const mode of ["block", "full"]) {
      const explained = async (client: HttpClient, text: string) => {
        const content = [`${begin}${text}.\n`, "Which?"].map((part) => ({ type: "text", text: part }));
        const body = { messages: [{ role: "user", content }], max_tokens: 1, block_attention: { mode, explain: true } };
        return (await client.json<Chunk>({ path: "/v1/chat/completions", body })).block_attention;
      };
      expect((await explained(first, "4711"))?.misses).toEqual([]);
      expect(await explained(other, "1234")).toMatchObject({ reused: noTokens, misses: [] });
      const { misses } = (await explained(first, "5678")) ?? {};
      expect(misses).toEqual([expect.objectContaining({ stored: expect.stringContaining("4") })]);
    }

    await expectNoSign(size, { encode: (text) => encode(first, text), probe: (text) => probeOf(other, text) });
    await expectSettled(server, keys[0]);
    expectCleanLog(server.stderr);
    for (const key of keys) expect(server.stderr).not.toContain(key);
  });

  test("serve: end users of one key, apart by their salts, do not see each other's blocks", {
    timeout: 600_000,
  }, async () => {
    await using server = await ServerUnderTest.start({ keys: [keys[0]] });
    using client = new HttpClient(server, keys[0]);
    const encode = async (passage: string, salt: string | undefined) => {
      const body = { passages: [passage], ...(salt && { salt }) };
      const { blocks } = await client.json<{ blocks: { id: string; hit: boolean }[] }>({ path: "/v1/blocks", body });
      return blocks[0] as { id: string; hit: boolean };
    };
    const shared = "A passage that all end users have.\n";
    const users = [undefined, "ann", "ben"];
    const found = [];
    for (const salt of users) found.push(await encode(shared, salt));
    expect(found.map(({ hit }) => hit)).toEqual([false, false, false]);
    expect(new Set(found.map(({ id }) => id)).size).toBe(3);
    const [, mine] = found as [unknown, { id: string }];
    expect(await encode(shared, "ann")).toEqual({ ...found[1], hit: true });
    for (const method of ["GET", "DELETE"]) {
      for (const query of ["", "?salt=ben"]) {
        expect((await client.ask({ method, path: `/v1/blocks/${mine.id}${query}` })).status).toBe(404);
      }
    }
    expect((await client.ask({ path: `/v1/blocks/${mine.id}?salt=ann` })).status).toBe(200);

    // Prefixes and conversations are apart as well, and what explains a miss.
    const asked = async (salt: string | undefined) => {
      const content = "The vault of the bank by the river opens with a number, said the old clerk. What is it?";
      const block_attention = { mode: "full", ...(salt && { salt }) };
      const body = { messages: [{ role: "user", content }], max_tokens: 1, block_attention };
      return (await client.json<Chunk>({ path: "/v1/chat/completions", body })).block_attention?.reused;
    };
    for (const salt of users) expect(await asked(salt)).toEqual(noTokens);
    for (const salt of users) expect(await asked(salt)).not.toEqual(noTokens);

    await expectNoSign(size, {
      encode: (text) => encode(text, "ann"),
      probe: (text) => probeOf(client, text, { salt: "ben" }),
    });
    await expectSettled(server, keys[0]);
    expectCleanLog(server.stderr);
  });
}

/** What a spy sees of a passage. */
async function probeOf(client: HttpClient, text: string, block_attention?: object) {
  const content = [text, "What is it?"].map((part) => ({ type: "text", text: part }));
  const body = { messages: [{ role: "user", content }], temperature: 0, max_tokens: 1, block_attention };
  const stream = { stream: true, stream_options: { include_usage: true } };
  const answer = await client.ask({ path: "/v1/chat/completions", body: { ...body, ...stream } });
  const chunks = eventData(answer.text).slice(0, -1);
  const last = JSON.parse(chunks.at(-1) ?? "{}") as Chunk;
  return { ms: answer.firstByteMs, hit: last.block_attention?.blocks.at(-1)?.hit };
}

interface Spied {
  /** The one who is spied on has a passage from then on. */
  readonly encode: (passage: string) => Promise<unknown>;
  readonly probe: (passage: string) => ReturnType<typeof probeOf>;
}

/** Neither hits nor, where they are measured, times tell which passages another one has. */
async function expectNoSign(size: TenantsSize, { encode, probe }: Spied): Promise<void> {
  const random = new Random(7, "tenants");
  let numPassages = 0;
  const passage = () =>
    `${numPassages++}: ${Array.from({ length: 60 }, () => words[random.below(words.length)]).join(" ")}.\n`;
  await probe(passage());

  // Whether the other tenant has the passage is drawn anew each time; it encodes one in any case.
  const has: number[] = [];
  const lacks: number[] = [];
  while (Math.min(has.length, lacks.length) < size.numRequests) {
    const text = passage();
    const isTheirs = random.below(2) === 0;
    if ((isTheirs ? has : lacks).length >= size.numRequests) continue;
    await encode(isTheirs ? text : passage());
    const { ms, hit } = await probe(text);
    expect(hit).toBe(false);
    (isTheirs ? has : lacks).push(ms);
  }
  expect((await probe(`${numPassages}: once more.\n`)).hit).toBe(false);
  expect((await probe(`${numPassages}: once more.\n`)).hit).toBe(true);
  if (size.maxArea === undefined) return;
  const area = areaUnderCurve(has, lacks);
  const spread = chanceDeviation(has.length, lacks.length);
  console.log(
    `AUC of "the other one has it" by time to the first token: ${area.toFixed(4)} over ${has.length} and ` +
      `${lacks.length} requests; by chance 0.5 ± ${spread.toFixed(4)}`,
  );
  // A spy may take a threshold from either side.
  expect(Math.max(area, 1 - area)).toBeLessThanOrEqual(size.maxArea);
}
