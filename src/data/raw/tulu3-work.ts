import { isJsonObject } from "../../files/bounded-json.js";
import { type PackSettings, packTools } from "../pack-work.js";
import { packSample } from "../packed-sample.js";
import { RowTally } from "../row-tally.js";
import type { Row } from "../rows.js";
import type { Work } from "../serve-work.js";
import { type TrainingSample, trainingSamples } from "../training-sample.js";

/** What became of some conversations. */
export interface Tulu3Rows {
  /** Every sample that is short enough, for full mode. */
  readonly sft: Tulu3Lines;
  /** Those that block training takes, cut into blocks. */
  readonly block: Tulu3Lines;
  readonly numRows: number;
  readonly numBad: number;
  readonly errors: readonly string[];
  /** One for each answer of the conversations. */
  readonly numSamples: number;
}

export interface Tulu3Lines {
  /** JSON lines. */
  readonly text: string;
  /** Of each line, in tokens. */
  readonly lengths: readonly number[];
  /** Lines that are trained in block mode too. */
  readonly numInBlockMode: number;
  readonly dropped: Readonly<Record<string, number>>;
}

/** Cuts conversations; the model's files are read once a thread. */
export async function tulu3Work(settings: PackSettings): Promise<Work<readonly Row[], Tulu3Rows>> {
  const { tokenizer, template, endTokenId, limits } = await packTools(settings);
  return (rows) => {
    const tally = new RowTally();
    const [sft, block] = [new Lines(), new Lines()];
    let numSamples = 0;
    const dropped = (reason: string): void => {
      sft.drop(reason);
      block.drop(reason);
    };
    for (const row of rows) {
      try {
        if (row.kind === "bad") throw new Error(row.error);
        const { value } = row;
        if (!isJsonObject(value) || !Object.hasOwn(value, "messages")) {
          throw new TypeError('Cannot use the row: it has no "messages"');
        }
        const source = Object.hasOwn(value, "source") && typeof value.source === "string" ? value.source : undefined;
        for (const outcome of trainingSamples(value, row.where, { ...settings, template })) {
          numSamples += 1;
          if (outcome.kind === "dropped") {
            dropped(outcome.reason);
            continue;
          }
          const packed = packSample(outcome.sample, tokenizer, endTokenId, limits);
          if (packed.kind === "dropped") {
            dropped(packed.reason);
            continue;
          }
          const { sample } = outcome;
          const texts = sample.blocks.map(({ text }) => text);
          const length = packed.packed.input_ids.length;
          sft.add(sample, source, [texts.join("")], length, false);
          const { fullOnly } = sample;
          if (fullOnly === undefined || fullOnly === "it holds code") {
            block.add(sample, source, texts, length, fullOnly === undefined);
          } else block.drop(fullOnly);
        }
      } catch (error) {
        tally.reject(row.where, error);
      }
    }
    const { bad, errors } = tally;
    return { sft: sft.taken(), block: block.taken(), numRows: rows.length, numBad: bad, errors, numSamples };
  };
}

/** Training lines in the making. @see docs/reference.md "Data formats". */
class Lines {
  readonly #lines: string[] = [];
  readonly #lengths: number[] = [];
  readonly #dropped: Record<string, number> = {};
  #numInBlockMode = 0;

  /** @param length in tokens. */
  add(
    { id, response }: TrainingSample,
    source: string | undefined,
    blocks: readonly string[],
    length: number,
    inBlockMode: boolean,
  ): void {
    const line = { id, source, prompt: blocks.join(""), blocks, response, train_block: inBlockMode };
    this.#lines.push(`${JSON.stringify(line)}\n`);
    this.#lengths.push(length);
    this.#numInBlockMode += inBlockMode ? 1 : 0;
  }

  drop(reason: string): void {
    this.#dropped[reason] = (this.#dropped[reason] ?? 0) + 1;
  }

  taken(): Tulu3Lines {
    const [text, lengths, dropped] = [this.#lines.join(""), this.#lengths, this.#dropped];
    return { text, lengths, dropped, numInBlockMode: this.#numInBlockMode };
  }
}
