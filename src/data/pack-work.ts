import type { ChatTemplate } from "../blocks/chat-template.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { type PackLimits, packSample } from "./packed-sample.js";
import { modelPrompt } from "./rag/model-prompt.js";
import type { Row } from "./rows.js";
import type { Work } from "./serve-work.js";
import { type SampleOptions, trainingSamples } from "./training-sample.js";

/** What packing goes by; plain data, for it is sent to workers. */
export interface PackSettings {
  /** A model folder, a tokenizer folder or a .gguf file. */
  readonly model: string;
  /** "own": the model's chat template; "tulu": the paper's. */
  readonly template: "own" | "tulu";
  /** Text before block 0 in block mode, which counts in a sample's length. Undefined: the model's own. */
  readonly prefix: string | undefined;
  readonly maxTokens: number;
  readonly singleProbability: number;
  readonly seed: string;
  /** How conversations are cut: by the paper's rule, or into spans, as they are served. Default "rule". */
  readonly conversations?: SampleOptions["conversations"];
}

/** One packed row as a line of JSON, with what the report counts. */
export interface PackedLine {
  readonly json: string;
  readonly numTokens: number;
  readonly numResponseTokens: number;
  readonly numBlocks: number;
  readonly isBlock: boolean;
}

export interface PackedRows {
  readonly lines: readonly PackedLine[];
  /** By reason; `bad` are rows that are none. */
  readonly dropped: Readonly<Record<string, number>>;
  readonly numSamples: number;
  /** The first few rows that could not be used, each with its place. */
  readonly errors: readonly string[];
  readonly numBad: number;
}

const maxErrors = 20;

/** What cutting and tokenizing samples needs of a model. */
export interface PackTools {
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate | undefined;
  /** Put before block 0 in block mode; "" for none. */
  readonly prefix: string;
  readonly endTokenId: number | undefined;
  readonly limits: PackLimits;
}

export async function packTools(settings: PackSettings): Promise<PackTools> {
  const { tokenizer, rag, prefix: ownPrefix } = await modelPrompt(settings.model, settings.template);
  const prefix = settings.prefix ?? ownPrefix;
  const numOpeningTokens =
    (tokenizer.bosTokenId === undefined ? 0 : 1) + (prefix === "" ? 0 : tokenizer.encode(prefix, "all").length);
  const limits = { maxTokens: settings.maxTokens, numOpeningTokens };
  return { tokenizer, template: rag.template, prefix, endTokenId: endOf(tokenizer), limits };
}

/** Packs rows; the model's files are read once a thread. */
export async function packWork(settings: PackSettings): Promise<Work<readonly Row[], PackedRows>> {
  const { tokenizer, template, endTokenId, limits } = await packTools(settings);
  return (rows) => {
    const lines: PackedLine[] = [];
    const dropped: Record<string, number> = {};
    const errors: string[] = [];
    let numSamples = 0;
    let numBad = 0;
    const drop = (reason: string): void => {
      dropped[reason] = (dropped[reason] ?? 0) + 1;
    };
    for (const row of rows) {
      try {
        if (row.kind === "bad") throw new Error(row.error);
        for (const outcome of trainingSamples(row.value, row.where, { ...settings, template })) {
          numSamples += 1;
          const packed =
            outcome.kind === "dropped" ? outcome : packSample(outcome.sample, tokenizer, endTokenId, limits);
          if (packed.kind === "dropped") {
            drop(packed.reason);
            continue;
          }
          const { input_ids, labels, span_lengths, modes } = packed.packed;
          lines.push({
            json: JSON.stringify(packed.packed),
            numTokens: input_ids.length,
            numResponseTokens: labels.reduce((sum, label) => sum + (label < 0 ? 0 : 1), 0),
            numBlocks: span_lengths.length,
            isBlock: modes.includes("block"),
          });
        }
      } catch (error) {
        numBad += 1;
        const message = error instanceof Error ? error.message : String(error);
        if (errors.length < maxErrors) errors.push(message.includes(row.where) ? message : `${message} (${row.where})`);
      }
    }
    return { lines, dropped, numSamples, errors, numBad };
  };
}

function endOf(tokenizer: Tokenizer): number | undefined {
  const [named] = tokenizer.encode(tokenizer.templateTokens.eos_token, "all");
  if (named !== undefined && tokenizer.endTokenIds.has(named)) return named;
  return [...tokenizer.endTokenIds][0];
}
