import fc from "fast-check";
import { expect, test } from "vitest";
import type { ModelIdFields } from "../kv/block-id.js";
import { type PromptSpan, TokenizedPrompt } from "./prompt.js";
import { localBlock, PAGE_TOKENS, type PromptPart, promptParts } from "./prompt-parts.js";

const fields: ModelIdFields = { model: "f", kvType: "f16", formatVersion: 1, salt: "" };

interface Given {
  readonly spans: readonly (readonly [kind: PromptSpan["kind"], tokenIds: readonly number[]])[];
  readonly answerIds?: readonly number[];
  readonly mode?: "block" | "full";
  readonly positionReencoding?: boolean;
  readonly fields?: Partial<ModelIdFields>;
}

function partsOf({ spans, answerIds, mode = "block", positionReencoding = true, ...other }: Given): PromptPart[] {
  const tokenized = spans.map(([kind, ids]) => ({ kind, tokenIds: Int32Array.from(ids) }));
  const prompt = new TokenizedPrompt(mode, tokenized, [], [], true);
  return [...promptParts(prompt, { ...fields, ...other.fields }, { positionReencoding }, answerIds)];
}

/** The name under which each token's row is kept, and its place in what has that name. */
const namesOf = (given: Given) =>
  partsOf(given).flatMap(({ id, tokenIds }) => [...tokenIds.keys()].map((i) => `${id} ${i}`));
const contextsOf = (given: Given) => partsOf(given).flatMap((part) => (part.kind === "page" ? [part.context] : []));

const ids = (length: number, first = 0) => Array.from({ length }, (_, i) => first + i);

test("promptParts(): blocks whole, global text in pages from its span's start on, the answer with the last", () => {
  const spans: Given["spans"] = [
    ["local", ids(100)],
    ["global", ids(PAGE_TOKENS + 5, 100)],
    ["local", ids(3, 200)],
    ["global", ids(2 * PAGE_TOKENS - 1, 300)],
  ];
  const shown = (answerIds?: number[]) =>
    partsOf({ spans, ...(answerIds && { answerIds }) }).map(({ kind, place, tokenIds, isOpen }) => [
      kind,
      place,
      tokenIds.length,
      tokenIds[0],
      isOpen,
    ]);
  const first = [
    ["block", 0, 100, 0, false],
    ["page", 100, 64, 100, false],
    ["page", 164, 5, 164, false],
    ["block", 169, 3, 200, false],
    ["page", 172, 64, 300, false],
  ];
  expect(shown()).toEqual([...first, ["page", 236, 63, 364, true]]);
  expect(shown([7])).toEqual([...first, ["page", 236, 64, 364, true]]);
  expect(shown([7, 8, 9])).toEqual([...first, ["page", 236, 64, 364, false], ["page", 300, 2, 8, true]]);
});

test("promptParts(): a block's name is its tokens' alone", () => {
  const [first] = partsOf({
    spans: [
      ["local", [1, 2]],
      ["global", [3]],
    ],
  });
  const other = partsOf({
    spans: [
      ["global", [9]],
      ["local", [1, 2]],
      ["global", [4]],
    ],
    ...{ positionReencoding: false, mode: "full" },
  });
  expect(other[1]?.id).toBe(first?.id);
  expect(first?.id).toBe(localBlock(fields, { tokenIds: Int32Array.of(1, 2) }).id);
});

const spans = fc
  .array(
    fc.tuple(
      fc.constantFrom("local" as const, "global" as const),
      fc.integer({ min: 1, max: 90 }).chain((length) => fc.array(fc.nat(3), { minLength: length, maxLength: length })),
    ),
    { minLength: 1, maxLength: 4 },
  )
  .map((drawn) => [
    ...drawn.filter(([kind], i) => kind === "local" || drawn[i + 1]?.[0] === "local"),
    ["global", drawn[0]?.[1] as number[]] as const,
  ]);

test("promptParts(): any change of what stands before a page changes its name, and none of what stands after", () => {
  fc.assert(
    fc.property(spans, fc.nat(), (given, at) => {
      const flat = given.flatMap(([, tokenIds], span) => [...tokenIds.keys()].map((place) => [span, place] as const));
      const index = at % flat.length;
      const [span, place] = flat[index] as readonly [number, number];
      const changed = given.map(([kind, tokenIds], i) =>
        i === span ? ([kind, tokenIds.with(place, 99)] as const) : ([kind, tokenIds] as const),
      );
      const [parts, others] = [partsOf({ spans: given }), partsOf({ spans: changed })];
      expect(others.map(({ place: from }) => from)).toEqual(parts.map(({ place: from }) => from));
      for (const [i, part] of parts.entries()) {
        const other = others[i] as PromptPart;
        const isAfter = part.place > index;
        const holds = !isAfter && part.place + part.tokenIds.length > index;
        if (part.kind === "page" && other.kind === "page") {
          expect(part.context !== other.context, "context").toBe(isAfter);
          expect(part.id !== other.id, "page").toBe(isAfter || holds);
        } else expect(part.id !== other.id, "block").toBe(holds);
      }
    }),
    { numRuns: 200 },
  );
});

test("promptParts(): how far a text goes on changes no page before, nor what its last page stands on", () => {
  fc.assert(
    fc.property(spans, fc.array(fc.nat(3), { maxLength: 150 }), (given, answerIds) => {
      const [short, long] = [{ spans: given }, { spans: given, answerIds }];
      expect(contextsOf(long).slice(0, contextsOf(short).length)).toEqual(contextsOf(short));
      const isWhole = (part: PromptPart) => !part.isOpen || part.tokenIds.length === PAGE_TOKENS;
      const whole = partsOf(short)
        .filter(isWhole)
        .map(({ id }) => id);
      expect(
        partsOf(long)
          .map(({ id }) => id)
          .slice(0, whole.length),
      ).toEqual(whole);
      // The answer is one with the prompt that holds it.
      const [, last] = given.at(-1) as Given["spans"][number];
      const asPrompt = [...given.slice(0, -1), ["global", [...last, ...answerIds]] as const];
      expect(namesOf({ spans: asPrompt })).toEqual(namesOf(long));
    }),
    { numRuns: 200 },
  );
});

test("promptParts(): mode, position re-encoding, kinds and bounds of spans, salt, model and type name other pages", () => {
  const base: Given = {
    spans: [
      ["local", [1, 2]],
      ["global", [3, 4]],
      ["local", [5]],
      ["global", [6]],
    ],
  };
  const others: Given[] = [
    base,
    { ...base, mode: "full" },
    { ...base, positionReencoding: false },
    { ...base, fields: { salt: "other" } },
    { ...base, fields: { model: "g" } },
    { ...base, fields: { kvType: "f32" } },
    { ...base, fields: { formatVersion: 2 } },
    {
      spans: [
        ["global", [1, 2]],
        ["local", [3, 4]],
        ["local", [5]],
        ["global", [6]],
      ],
    },
    {
      spans: [
        ["local", [1, 2, 3, 4]],
        ["local", [5]],
        ["global", [6]],
      ],
    },
    {
      spans: [
        ["local", [1]],
        ["local", [2]],
        ["global", [3, 4]],
        ["local", [5]],
        ["global", [6]],
      ],
    },
    {
      spans: [
        ["local", [1, 2]],
        ["global", [3]],
        ["local", [4, 5]],
        ["global", [6]],
      ],
    },
    {
      spans: [
        ["local", [1, 2]],
        ["global", [3, 4, 5]],
        ["local", [5]],
        ["global", [6]],
      ],
    },
    {
      spans: [
        ["local", [2, 1]],
        ["global", [3, 4]],
        ["local", [5]],
        ["global", [6]],
      ],
    },
    {
      spans: [
        ["local", [1, 2]],
        ["local", [5]],
        ["global", [3, 4, 6]],
      ],
    },
    { spans: [["global", [1, 2, 3, 4, 5, 6]]] },
  ];
  // What the first tokens of a prompt saw tells apart as well: pages are looked for by it.
  const first = others.slice(0, 7).map((given) => contextsOf({ ...given, spans: [["global", [1]]] })[0]);
  expect(new Set(first).size).toBe(first.length);
  const names = others.map((given) => [partsOf(given).at(-1)?.id, contextsOf(given).at(-1)]);
  expect(new Set(names.map(([id]) => id)).size).toBe(others.length);
  expect(new Set(names.map(([, context]) => context)).size).toBe(others.length);
});

test("localBlock(): a preamble names another block, and each another one", () => {
  const tokenIds = Int32Array.of(1, 2, 3);
  const behind = (...preamble: number[]) => localBlock(fields, { tokenIds, preamble: Int32Array.from(preamble) });
  const named = [localBlock(fields, { tokenIds }), behind(1), behind(2), behind(1, 2)];
  expect(new Set(named.map(({ id }) => id)).size).toBe(named.length);
  expect(new Set(named.map(({ context }) => context)).size).toBe(named.length);
  expect(named[0]?.context).toBeUndefined();
  expect(behind(1, 2)).toEqual(named[3]);
  // No prompt's global text is named as what stands behind a preamble.
  for (const mode of ["block", "full"] as const) {
    const [, page] = partsOf({
      mode,
      spans: [
        ["local", [1]],
        ["global", [1, 2, 3]],
      ],
    });
    expect(named.map(({ id }) => id)).not.toContain(page?.id);
  }
});
