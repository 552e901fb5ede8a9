import fc from "fast-check";
import { expect, test } from "vitest";
import { type BlockIdFields, blockId, isBlockId } from "./block-id.js";

const fields: BlockIdFields = { model: "f", kvType: "f16", formatVersion: 1, salt: "", tokenIds: [1, 2, 3] };

test("blockId(): stays the same from version to version", () => {
  const id = blockId(fields);
  expect(isBlockId(id)).toBe(true);
  expect(id).toBe("bdec14dec834425151b100730662a5416db8564a35981de23184899d93d97186");
  expect(blockId({ ...fields, tokenIds: Uint32Array.from([1, 2, 3]) })).toBe(id);
});

test("blockId(): every field counts, and no two fields run together", () => {
  const others: Partial<BlockIdFields>[] = [
    {},
    { model: "g" },
    { model: "ff16", kvType: "f16" },
    { kvType: "bf16" },
    { kvType: "f32" },
    { formatVersion: 2 },
    { salt: "a" },
    { salt: "\ud800" },
    { salt: "\ufffd" },
    { tokenIds: [1, 2] },
    { tokenIds: [1, 3, 2] },
    { tokenIds: [1, 2, 3, 0] },
    { tokenIds: [0x0201, 3] },
    { model: "fa", salt: "" },
    { model: "f", salt: "af" },
  ];
  const ids = others.map((other) => blockId({ ...fields, ...other }));
  expect(new Set(ids).size).toBe(others.length);
});

test("blockId(): other fields, other id", () => {
  const anyFields = fc.record({
    model: fc.string({ maxLength: 3 }),
    kvType: fc.constantFrom("f16" as const, "f32" as const),
    formatVersion: fc.nat(2),
    salt: fc.string({ maxLength: 3 }),
    tokenIds: fc.array(fc.nat(3), { minLength: 1, maxLength: 4 }),
  });
  fc.assert(
    fc.property(anyFields, anyFields, (a, b) => {
      expect(blockId(a) === blockId(b)).toBe(JSON.stringify(a) === JSON.stringify(b));
    }),
  );
});

test.each([
  [{ tokenIds: [] }, "the block has no tokens"],
  [{ tokenIds: [1, -1] }, "a token id is -1"],
  [{ tokenIds: [2 ** 32] }, "a token id is 4294967296"],
  [{ tokenIds: [0.5] }, "a token id is 0.5"],
  [{ formatVersion: -1 }, "a format version is -1"],
])("blockId(): refuses %o", (bad, message) => {
  expect(() => blockId({ ...fields, ...bad })).toThrow(message);
});
