import fc from "fast-check";
import { expect, test } from "vitest";
import { JsonFields } from "./json-fields.js";
import { byteLevelDecoder, DecodingStream, type FilterKind, readDecoder, spmDecoder } from "./token-decoder.js";

/** The texts that come out, one for each piece of bytes, then the rest. */
function streamed(pieces: readonly Uint8Array[], filters: readonly FilterKind[] = []): string[] {
  const stream = new DecodingStream((id) => pieces[id]!, filters);
  return [...pieces.map((_, id) => stream.push(id)), stream.end()];
}

test("DecodingStream: never gives half a character, however its bytes are cut", () => {
  fc.assert(
    fc.property(
      // Not the character that half a one would become.
      fc.string({ unit: "grapheme", maxLength: 12 }).filter((text) => !text.includes("\ufffd")),
      fc.infiniteStream(fc.integer({ min: 1, max: 3 })),
      (text, sizes) => {
        const bytes = Buffer.from(text, "utf8");
        const pieces: Uint8Array[] = [];
        for (let at = 0; at < bytes.length; ) {
          const size = sizes.next().value as number;
          pieces.push(bytes.subarray(at, at + size));
          at += size;
        }
        const texts = streamed(pieces);
        expect(texts.join("")).toBe(text);
        for (const part of texts) expect(part).not.toMatch(/\ufffd|\p{Surrogate}/u);
      },
    ),
  );
});

test("DecodingStream: a character that never completes is U+FFFD, at the end or before what follows", () => {
  expect(streamed([Uint8Array.of(0xe4, 0xbd)])).toEqual(["", "\ufffd"]);
  expect(streamed([Uint8Array.of(0xe4, 0xbd), Buffer.from("a")])).toEqual(["", "\ufffda", ""]);
});

test("DecodingStream: replacing over pieces is replacing in the whole", () => {
  const letters = fc.string({ unit: fc.constantFrom("a", "b"), maxLength: 4 });
  fc.assert(
    fc.property(
      fc.array(letters),
      fc.string({ unit: fc.constantFrom("a", "b"), minLength: 1, maxLength: 3 }),
      letters,
      (texts, from, to) => {
        const out = streamed(
          texts.map((text) => Buffer.from(text)),
          [{ kind: "replace", from, to }],
        );
        expect(out.join("")).toBe(texts.join("").replaceAll(from, () => to));
      },
    ),
  );
});

test("DecodingStream: the dummy space goes at the start of the answer only", () => {
  const decoder = spmDecoder(true);
  expect(streamed(["▁a", "▁▁b"].map(decoder.bytesOf), decoder.filters)).toEqual(["a", "  b", ""]);
  expect(streamed(["▁", "▁b"].map(decoder.bytesOf), decoder.filters)).toEqual(["", " b", ""]);
});

test("spmDecoder(): byte tokens are bytes, other tokens text", () => {
  const decoder = spmDecoder(false);
  expect(streamed(["<0xE4>", "<0xBD>", "<0xA0>", "<0xZZ>"].map(decoder.bytesOf))).toEqual(["", "", "你", "<0xZZ>", ""]);
});

test("byteLevelDecoder(): a token outside the alphabet stands for itself", () => {
  const decoder = byteLevelDecoder();
  expect(streamed(["Ġa", "Ċ", "你"].map(decoder.bytesOf)).join("")).toBe(" a\n你");
});

test("readDecoder(): refuses what it does not know, or cannot stream", () => {
  const read = (value: unknown) => () => readDecoder(new JsonFields("the test", "decoder", value));
  expect(read({ type: "CTC" })).toThrow('Cannot read the test: decoder: the decoder "CTC" is not supported');
  expect(
    read({ type: "Sequence", decoders: [{ type: "Fuse" }, { type: "Strip", content: " ", start: 0, stop: 1 }] }),
  ).toThrow("cannot be streamed");
  expect(read({ type: "Sequence", decoders: 3 })).toThrow('"decoders" is 3');
});
