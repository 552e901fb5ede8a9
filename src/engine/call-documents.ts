import { createHash } from "node:crypto";
import { type PassageInput, readPassage } from "../blocks/passage.js";
import { InputRangeError } from "../files/input-error.js";
import { quote } from "../files/quote.js";
import type { DocumentBlock, DocumentEntry } from "../kv/documents.js";
import type { LocalBlock } from "./local-blocks.js";

const maxMetadataBytes = 2 ** 16;

interface Growing {
  readonly entry: Omit<DocumentEntry, "digest">;
  readonly blocks: DocumentBlock[];
  readonly texts: Set<number>;
  /** The last of its blocks, among all. */
  last: number;
}

/** The documents of one call of `encode()`: passages with an id, those of one id together. */
export class CallDocuments {
  readonly #growing = new Map<string, Growing>();

  /** @throws RangeError for metadata that is too large, or no JSON. */
  constructor(
    private readonly passages: readonly PassageInput[],
    encoded: readonly Pick<LocalBlock, "passage">[],
  ) {
    for (const [place, { passage }] of encoded.entries()) {
      // An empty id names nothing: no path or flag could.
      if (passage?.id === undefined || passage.id === "") continue;
      const { id, metadata } = passage;
      const known = this.#growing.get(String(id));
      if (known === undefined) requireSmall(id, metadata);
      const blocks = known?.blocks ?? [];
      const one = known ?? { entry: { id, metadata, blocks }, blocks, texts: new Set(), last: place };
      one.texts.add(passage.index);
      one.last = place;
      this.#growing.set(String(id), one);
    }
  }

  add({ passage }: Pick<LocalBlock, "passage">, block: DocumentBlock): void {
    if (passage?.id !== undefined) this.#growing.get(String(passage.id))?.blocks.push(block);
  }

  /** Documents all of whose blocks stand before a place, each once; none of which no passage could be encoded. */
  take(end: number): readonly DocumentEntry[] {
    const ended = [...this.#growing].filter(([, { last }]) => last < end);
    for (const [key] of ended) this.#growing.delete(key);
    return ended.flatMap(([, { entry, blocks, texts }]) =>
      blocks.length === 0 ? [] : [{ ...entry, digest: this.#digest(texts) }],
    );
  }

  #digest(indexes: ReadonlySet<number>): string {
    const digest = createHash("sha256");
    for (const index of indexes) {
      const { title = "", text } = readPassage(this.passages[index], index);
      digest.update(JSON.stringify([title, text]));
    }
    return digest.digest("hex");
  }
}

function requireSmall(id: string | number, metadata: unknown): void {
  let numBytes = Number.POSITIVE_INFINITY;
  try {
    numBytes = Buffer.byteLength(JSON.stringify(metadata ?? null));
  } catch {
    // Circles and such.
  }
  if (numBytes <= maxMetadataBytes) return;
  const found = Number.isFinite(numBytes) ? `has ${numBytes} bytes as JSON` : "is no JSON";
  throw new InputRangeError(
    `Cannot encode passages: the metadata of ${quote(String(id), 80)} ${found}, at most ${maxMetadataBytes} bytes are wanted`,
  );
}
