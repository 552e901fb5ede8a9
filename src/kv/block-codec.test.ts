import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Random } from "../../tests/models/random.js";
import { elementTypeOf, elementTypes, KV_TYPES } from "../files/element-types.js";
import { readSafetensors } from "../files/safetensors.js";
import { bytesInMemory } from "./block-bytes.js";
import {
  BlockCodecError,
  type BlockFields,
  decodeBlockKV,
  encodeBlockKV,
  readBlockHead,
  requireBlock,
  requireLayer,
} from "./block-codec.js";
import { blockId, contextId, ownerName } from "./block-id.js";
import { BLOCK_KV_FORMAT_VERSION, BlockKV, type BlockKVShape, blockKVByteLength } from "./block-kv.js";
import { MemoryLedger } from "./memory-ledger.suite.js";

const shape: BlockKVShape = { numLayers: 2, numKvHeads: 2, headSize: 2, numTokens: 3, type: "f16" };
const model = "ab".repeat(32);
const idFields = { model, kvType: "f16", formatVersion: BLOCK_KV_FORMAT_VERSION, salt: "Ann's" } as const;
const tokenIds = Int32Array.from([5, 0, 70_000]);
const fields: BlockFields = {
  id: blockId({ ...idFields, tokenIds }),
  shape,
  kind: "block",
  tokenIds,
  model,
  salt: idFields.salt,
  pairs: "half",
  producer: "block-attention cpu",
  compute: "f32",
  documents: ["a", "ü\n"],
};
const context = contextId({ ...idFields, mode: "full", positionReencoding: true });
const page: BlockFields = { ...fields, kind: "page", context, id: blockId({ ...idFields, tokenIds, context }) };

/** A block whose bytes count up. */
function counting(ledger: MemoryLedger, of: BlockKVShape): BlockKV {
  const memory = ledger.allocate(blockKVByteLength(of));
  memory.write(Uint8Array.from({ length: memory.byteLength }, (_, i) => i));
  return new BlockKV(of, memory);
}

async function encoded(of: BlockFields = fields): Promise<Uint8Array> {
  using block = counting(new MemoryLedger(), of.shape);
  return encodeBlockKV(block, of);
}

/** The fault at which decoding ends, before memory is taken. */
async function faultOf(bytes: Uint8Array, wanted = fields): Promise<string> {
  const ledger = new MemoryLedger();
  try {
    await decodeBlockKV(bytesInMemory(bytes), wanted, (byteLength) => ledger.allocate(byteLength));
  } catch (error) {
    expect(error).toBeInstanceOf(BlockCodecError);
    expect((error as Error).message).not.toContain("\n");
    expect(ledger.numLive).toBe(0);
    if (!/^layer \d+ does not/.test((error as Error).message.slice(26))) expect(ledger.numMade).toBe(0);
    return (error as BlockCodecError).fault;
  }
  return "none";
}

/** Another header, with a digest that fits it. */
function withHeader(
  bytes: Uint8Array,
  change: (header: Record<string, Record<string, unknown>>) => void,
  respell = (json: string) => json,
): Uint8Array {
  const old = Buffer.from(bytes);
  const dataStart = 8 + Number(old.readBigUInt64LE());
  const header = JSON.parse(old.toString("utf8", 8, dataStart));
  const headBytes = header.head_digest.data_offsets[0];
  change(header);
  const json = Buffer.from(respell(JSON.stringify(header)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const head = Buffer.concat([length, json, old.subarray(dataStart, dataStart + headBytes)]);
  const digest = createHash("sha256").update(head).digest();
  return Buffer.concat([head, digest, old.subarray(dataStart + headBytes + 32)]);
}

test("decodeBlockKV(): gives back what encodeBlockKV() wrote", async () => {
  const sizes = fc.record({
    numLayers: fc.integer({ min: 1, max: 3 }),
    numKvHeads: fc.integer({ min: 1, max: 3 }),
    headSize: fc.integer({ min: 1, max: 4 }),
    numTokens: fc.integer({ min: 1, max: 5 }),
    type: fc.constantFrom(...KV_TYPES),
  });
  await fc.assert(
    fc.asyncProperty(sizes, async ({ headSize, ...sizesOf }) => {
      const { blockSize } = elementTypes[elementTypeOf(sizesOf.type)];
      const anyShape = { ...sizesOf, headSize: headSize * blockSize };
      const ledger = new MemoryLedger();
      {
        const of = { ...fields, shape: anyShape, tokenIds: new Int32Array(anyShape.numTokens).fill(7) };
        using block = counting(ledger, anyShape);
        using copy = await decodeBlockKV(bytesInMemory(await encodeBlockKV(block, of)), of, (length) =>
          ledger.allocate(length),
        );
        expect(copy.shape).toEqual(anyShape);
        expect(copy.read()).toEqual(block.read());
      }
      expect(ledger.numLive).toBe(0);
    }),
    { numRuns: 50 },
  );
});

const inBlocks = { numLayers: 1, numKvHeads: 1, headSize: 32, numTokens: 3 };
test.each<readonly [string, BlockFields]>([
  ["block-kv-2", page],
  ["block-kv-2-q8_0", { ...fields, shape: { ...inBlocks, type: "q8_0" } }],
  ["block-kv-2-q4_0", { ...fields, shape: { ...inBlocks, type: "q4_0" } }],
])("encodeBlockKV(): the bytes of format version 2 are those of the fixture %s", async (name, of) => {
  const path = new URL(`../../tests/fixtures/${name}.safetensors`, import.meta.url);
  expect(Buffer.compare(await encoded(of), await readFile(path))).toBe(0);
});

test("encodeBlockKV(): the file is a safetensors file", async () => {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-codec-"));
  try {
    const path = join(folder, "block.safetensors");
    await writeFile(path, await encoded());
    const tensors = await readSafetensors(path);
    expect([...tensors.keys()]).toEqual(["tokens", "layer_digests", "head_digest", "kv"]);
    const kv = tensors.get("kv");
    expect(kv).toMatchObject({ kind: "readable", entry: { type: "F16", shape: [2, 2, 2, 3, 2] } });
    expect(kv?.kind === "readable" && kv.entry.offset % 64).toBe(0);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("readBlockHead(): says all of a block, from a small first read, and its layers can be checked one by one", async () => {
  const bytes = await encoded(page);
  const asked: number[] = [];
  const head = await readBlockHead(bytes.length, (numBytes) => {
    asked.push(numBytes);
    return Buffer.from(bytes.subarray(0, numBytes));
  });
  expect(asked).toEqual([bytes.length]);
  const { salt, ...said } = page;
  expect(head).toMatchObject({ ...said, owner: ownerName(salt), layerBytes: 48 });
  expect(Buffer.from(bytes).includes(salt)).toBe(false);
  requireBlock(head, page);
  const layers = [0, 1].map((layer) => bytes.subarray(head.start + layer * 48, head.start + (layer + 1) * 48));
  expect([...layers[1]!.subarray(0, 3), ...layers[1]!.subarray(24, 27)]).toEqual([24, 25, 26, 72, 73, 74]);
  for (const [layer, own] of layers.entries()) {
    await requireLayer(head, layer, own);
    await expect(requireLayer(head, 1 - layer, own)).rejects.toThrow(`layer ${1 - layer} does not match its digest`);
  }
});

test("readBlockHead(): a longer head is read whole, and only as far as it says", async () => {
  const numTokens = 20_000;
  const long = { ...fields, shape: { ...shape, numTokens }, tokenIds: new Int32Array(numTokens).fill(9) };
  const bytes = await encoded(long);
  const asked: number[] = [];
  const head = await readBlockHead(bytes.length, (numBytes) => {
    asked.push(numBytes);
    return bytes.subarray(0, numBytes);
  });
  expect(asked).toEqual([2 ** 14, head.start]);
  expect(head.tokenIds).toEqual(long.tokenIds);
});

test("decodeBlockKV(): any changed, missing or extra byte is an error of its own kind, and takes no memory", async () => {
  const bytes = await encoded();
  expect(await faultOf(bytes)).toBe("none");
  for (let i = 0; i < bytes.length; i++) {
    for (const mask of [0x01, 0x80]) {
      const flipped = bytes.slice();
      flipped[i]! ^= mask;
      expect([i, await faultOf(flipped)]).not.toEqual([i, "none"]);
    }
    expect([i, await faultOf(bytes.subarray(0, i))]).not.toEqual([i, "none"]);
  }
  expect(await faultOf(Uint8Array.of(...bytes, 0))).toBe("length");
  expect(await faultOf(new Uint8Array(0))).toBe("length");
});

test("decodeBlockKV(): no random mutation is accepted", async () => {
  const bytes = await encoded();
  const random = new Random(1, "block codec");
  for (let i = 0; i < 10_000; i++) {
    const mutated = Buffer.from(bytes);
    const [at, length] = [random.below(bytes.length), 1 + random.below(16)];
    const how = random.below(3);
    if (how === 0) mutated.fill(random.below(256), at, Math.min(at + length, bytes.length));
    else if (how === 1) mutated.copyWithin(at, random.below(bytes.length), random.below(bytes.length));
    else mutated.copy(mutated, at, random.below(bytes.length));
    if (mutated.equals(bytes)) continue;
    expect([i, await faultOf(mutated)]).not.toEqual([i, "none"]);
  }
});

test("decodeBlockKV(): another block than the one that was asked for is none, and its field is named", async () => {
  const bytes = await encoded();
  const others: Partial<BlockFields> = {
    id: page.id,
    shape: { ...shape, type: "bf16" },
    kind: "page",
    tokenIds: Int32Array.from([5, 0, 1]),
    context,
    model: "00".repeat(32),
    salt: "Bob's",
    pairs: "adjacent",
    producer: "another",
    compute: "f16",
  };
  for (const [field, value] of Object.entries(others)) {
    expect(await faultOf(bytes, { ...fields, [field]: value })).toBe(field);
  }
  expect(await faultOf(await encoded(page), { ...page, context: undefined })).toBe("context");
  const { producer: _, compute: __, ...anyProducer } = fields;
  const head = await readBlockHead(bytes.length, (numBytes) => bytes.subarray(0, numBytes));
  expect(() => requireBlock(head, anyProducer)).not.toThrow();
});

test("readBlockHead(): what a later version adds is passed over, unless it must be read", async () => {
  const bytes = await encoded();
  const faultWith = (said: Record<string, unknown>) =>
    faultOf(withHeader(bytes, (header) => Object.assign(header.__metadata__!, said)));
  expect(await faultWith({ colour: "red" })).toBe("none");
  expect(await faultWith({ colour: "red", requires: "pairs colo\nur" })).toBe("requires");
  expect(await faultWith({ requires: "pairs" })).toBe("none");
  expect(await faultWith({ version: "3" })).toBe("version");
  expect(await faultWith({ version: "1" })).toBe("version");
  expect(await faultWith({ format: "pt" })).toBe("format");
});

test("readBlockHead(): a hostile header is an error of the format, and allocates nothing of what it claims", async () => {
  const bytes = await encoded();
  const faults = [
    withHeader(bytes, ({ __metadata__: said }) => Object.assign(said!, { documents: "[" })),
    withHeader(bytes, ({ __metadata__: said }) => Object.assign(said!, { documents: "[1]" })),
    withHeader(bytes, ({ __metadata__: said }) => Object.assign(said!, { kv_type: "q8_0" })),
    withHeader(bytes, ({ __metadata__: said, kv }) => {
      Object.assign(said!, { kv_type: "q8_0" });
      Object.assign(kv!, { dtype: "U8", shape: [2, 2, 2, 3, 4] });
    }),
    withHeader(bytes, ({ __metadata__: said }) => Object.assign(said!, { id: "12" })),
    withHeader(bytes, ({ __metadata__: said }) => delete said!.model),
    withHeader(bytes, ({ kv }) => Object.assign(kv!, { shape: [2, 2, 2, 3] })),
    withHeader(bytes, ({ kv }) => Object.assign(kv!, { shape: [2, 2, 2, 3, "2"] })),
    withHeader(bytes, ({ kv }) => Object.assign(kv!, { shape: [2, 2, 2, 2 ** 52, 2] })),
    withHeader(bytes, ({ kv }) => Object.assign(kv!, { shape: [1e308, 2, 2, 3, 2] })),
    withHeader(bytes, ({ kv }) => Object.assign(kv!, { data_offsets: [0, 96] })),
    withHeader(bytes, (header) => Object.assign(header, { more: header.tokens })),
    withHeader(bytes, (header) => delete header.tokens),
    withHeader(
      bytes,
      () => {},
      (json) => json.replace('"kind":"block"', '"kind":"block","kind":"block"'),
    ),
    Buffer.from("BLOCK-KV, as version 1 began"),
  ];
  expect(await Promise.all(faults.map((one) => faultOf(one)))).toEqual(faults.map(() => "format"));
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(2n ** 20n);
  expect(await faultOf(Buffer.concat([start, bytes.subarray(8)]))).toBe("length");
  const numTokens = 2 ** 25;
  const end = 4 * numTokens + 96;
  const large = withHeader(bytes, (header) => {
    header.tokens = { dtype: "I32", shape: [numTokens], data_offsets: [0, end - 96] };
    header.layer_digests!.data_offsets = [end - 96, end - 32];
    header.head_digest!.data_offsets = [end - 32, end];
    header.kv = { dtype: "F16", shape: [2, 2, 2, numTokens, 2], data_offsets: [end, end + 32 * numTokens] };
  });
  await expect(readBlockHead(2 ** 50, (numBytes) => large.subarray(0, numBytes))).rejects.toThrow("are not a block's");
  await expect(readBlockHead(2 ** 50, async (numBytes) => bytes.subarray(0, numBytes))).rejects.toThrow("wanted");
});

test("decodeBlockKV(): reads a view into a larger buffer", async () => {
  const bytes = await encoded();
  const larger = new Uint8Array(bytes.length + 10);
  larger.set(bytes, 5);
  expect(await faultOf(larger.subarray(5, 5 + bytes.length))).toBe("none");
});

test("encodeBlockKV(): refuses a disposed block, strings that are no ids, other numbers of tokens", async () => {
  const block = new MemoryLedger().block(shape);
  const encode = (of: Partial<BlockFields>) => encodeBlockKV(block, { ...fields, ...of });
  await expect(encode({ id: "12" as typeof fields.id })).rejects.toThrow('an id is "12"');
  await expect(encode({ model: "12" })).rejects.toThrow('an id is "12"');
  await expect(encode({ tokenIds: new Int32Array(2) })).rejects.toThrow("2 token ids, wanted 3");
  await expect(encode({ documents: ["x".repeat(2 ** 20)] })).rejects.toThrow("at most 1048576 are wanted");
  block[Symbol.dispose]();
  await expect(encode({})).rejects.toThrow("it was disposed");
});
