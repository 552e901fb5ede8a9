import { Command, Option } from "commander";
import { packageVersion } from "../files/package-version.js";
import { benchOptions, runBench } from "./bench.js";
import { convertOptions, runConvert } from "./convert.js";
import { packOptions, runPack, runSynth, synthOptions } from "./data.js";
import { ragDataCommands } from "./data-rag.js";
import { type RawFlags, rawOptions, runRaw, runTulu3, runValidate, tulu3Options, validateOptions } from "./data-raw.js";
import { demoOptions, runDemo } from "./demo.js";
import { doctorOptions, runDoctor } from "./doctor.js";
import { evaluationCommands } from "./eval.js";
import { generateOptions, runGenerate } from "./generate.js";
import { infoOptions, runInfo } from "./info.js";
import { runScore, scoreOptions } from "./score.js";
import { runSegment, segmentOptions } from "./segment.js";
import { runServe, serveHelp, serveOptions } from "./serve.js";
import type { Terminal } from "./terminal.js";
import { runTokenize, tokenizeOptions } from "./tokenize.js";
import { exportOptions, runExport, runTrain, runTrainTokenizer, trainOptions, trainTokenizerOptions } from "./train.js";

const inputHelp = `
A line of input is one of
  {"blocks": ["…", "…"], "num_local_attention_blocks"?: 1}    the last block is the final one
  {"messages": [{"role": "user", "name"?: "…", "content": "…" or ["…", "…"]}], "documents"?: […]}
  {"question": "…", "documents": [{"title": "…", "text": "…"}]}
  {"prompt": "…"}                                             cut by rule in block mode
Lines of evaluations are prompts too: keys that no prompt is made of, as "id" and "answers", are passed over and told on standard
error; a key that is nearly one of these, or that is an option, is an error.
A line that cannot be used gives {"error": "…"} in its place, the others go on, and the exit code is 1. Lines of white
space alone are passed over.`;

/** Raw question sets: the command, the set's name, a file of it. */
const rawSets = [
  ["2wiki", "2WikiMultihopQA", "2wiki/dev.parquet"],
  ["hqa", "HotpotQA", "hotpot_dev_distractor_v1.json"],
  ["nq", "Natural Questions in FiD's format", "nq/test.json"],
  ["tqa", "TriviaQA in FiD's format", "tqa/test.json"],
] as const;

/** The program `block-attention`, its commands bound to a terminal. */
export function createProgram(terminal: Terminal): { run(argv: readonly string[]): Promise<number> } {
  let exitCode = 0;
  const program = new Command("block-attention")
    .description("Block-Attention: passages are encoded once, kept, and reused at any place of any prompt.")
    .version(packageVersion());

  const add = <F>(
    name: string,
    summary: string,
    declare: (command: Command) => Command,
    run: (flags: F, terminal: Terminal) => Promise<number>,
    help: string,
    parent: Command = program,
  ): void => {
    const command = declare(parent.command(name).description(summary))
      .addOption(new Option("--verbose", "errors with their stack"))
      .allowExcessArguments(false)
      .addHelpText("after", help);
    // A command's arguments stand among its options: see validateOptions.
    command.action(async () => {
      exitCode = await run(command.opts() as F, terminal);
    });
  };

  add(
    "generate",
    "Answers prompts.",
    generateOptions,
    runGenerate,
    `
Examples:
  block-attention generate --question "Who directed it?" --documents passages.jsonl
  block-attention generate --model model.gguf --prompt "Once upon a time" --max-tokens 50
  block-attention generate --model ./Tulu3-Block-FT --prefix "[Block-Attention]" --input prompts.jsonl --json
${inputHelp}`,
  );
  add("serve", "Answers over HTTP, as OpenAI's API and the reference's.", serveOptions, runServe, serveHelp);
  add(
    "score",
    "Tells how likely continuations are.",
    scoreOptions,
    runScore,
    `
Examples:
  echo '{"blocks":["A passage.","Question"],"continuation":" answer"}' | block-attention score --input - --json
${inputHelp}
Each line also has "continuation": "…".`,
  );
  add(
    "tokenize",
    "Tells texts' token ids, no BOS.",
    tokenizeOptions,
    runTokenize,
    `
Examples:
  block-attention tokenize --text "Hello world"
  block-attention tokenize --model vocabulary.gguf --input texts.jsonl --json     a line is {"text": "…"}`,
  );
  add(
    "segment",
    "Shows how prompts are cut into blocks.",
    segmentOptions,
    runSegment,
    `
Examples:
  block-attention segment --prompt "$(cat prompt.txt)"
  block-attention segment --question "Who?" --documents passages.jsonl --json
${inputHelp}`,
  );
  add(
    "info",
    "Tells what a model is, without loading it.",
    infoOptions,
    runInfo,
    `
Examples:
  block-attention info --model model.gguf
  block-attention info --model ./llama --weights q8_0 --json`,
  );
  add(
    "bench",
    "Measures the time to the first token on your model.",
    benchOptions,
    runBench,
    `
Examples:
  block-attention bench --model model.gguf --tokens 512,1024,2048 --question 50 --repeat 3`,
  );
  add(
    "doctor",
    "Tells whether this machine can compute, and what is missing.",
    doctorOptions,
    runDoctor,
    `
Examples:
  block-attention doctor --json`,
  );
  add(
    "demo",
    "Asks a small model questions over passages in any order.",
    demoOptions,
    runDemo,
    `
Examples:
  block-attention demo`,
  );

  add(
    "convert",
    "Converts a Hugging Face folder to GGUF.",
    convertOptions,
    runConvert,
    `
Examples:
  block-attention convert --model runs/mine/export --to gguf --output mine.gguf
  block-attention convert --model ./llama --to gguf --weights q4_k --output llama-q4_k.gguf`,
  );
  add(
    "train",
    "Trains a model in both modes, or goes on from its last checkpoint.",
    trainOptions,
    runTrain,
    `
Examples:
  block-attention train --config python/configs/block_ft.json
  block-attention train --config run.json --set training.steps=100 --set model.path=./Tulu3-SFT --processes 8

Ctrl-C ends after the step with a checkpoint; the same command goes on from there. docs/fine-tuning.md tells the rest.`,
  );
  add(
    "train-tokenizer",
    "Trains the tokenizer of a settings file alone.",
    trainTokenizerOptions,
    runTrainTokenizer,
    `
Examples:
  block-attention train-tokenizer --config run.json --output ./tokenizer`,
  );
  add(
    "export",
    "Writes a training checkpoint as a Hugging Face folder.",
    exportOptions,
    runExport,
    `
Examples:
  block-attention export --checkpoint runs/mine/checkpoint-500 --output ./model`,
  );

  const data = program.command("data").description("Prepares training data.");
  add(
    "synth",
    "Makes passages and multi-hop questions over them.",
    synthOptions,
    runSynth,
    `
Examples:
  block-attention data synth --split train --contexts 10000 --passages 2-10 --questions 7 --format train --output train.jsonl
  block-attention data synth --split test --contexts 4000 --passages 10 --output test.jsonl`,
    data,
  );
  add(
    "pack",
    "Cuts and tokenizes training data for the trainer.",
    packOptions,
    runPack,
    `
Examples:
  block-attention data pack --input train.jsonl --output train.parquet
  block-attention data pack --model ./Tulu3-SFT --template tulu --prefix "[Block-Attention]" --input tulu3/ --output sft.parquet

A row is {"messages": [{"role", "content"}, …]} or {"prompt", "blocks" or "chunks", "response", "train_block"?}.`,
    data,
  );

  add(
    "tulu3",
    "Makes training lines of the Tulu 3 mixture, for full mode and for block mode.",
    tulu3Options,
    runTulu3,
    `
Examples:
  block-attention data tulu3 --model ./Llama-3.1-8B --prefix "[Block-Attention]" --input tulu-3-sft-mixture/data --output-dir tulu3

A row is {"messages": [{"role", "content"}, …], "id"?, "source"?}. A row that is none is told, the others go on, and the exit
code is 1.`,
    data,
  );
  for (const [format, name, example] of rawSets) {
    add(
      format,
      `Makes RAG lines of ${name}.`,
      rawOptions,
      (flags: RawFlags, at) => runRaw(format, flags, at),
      `
Examples:
  block-attention data ${format} --input ${example} --output ${format}.jsonl
  block-attention data ${format} --input ${example} --passages all --order as-is --output all.jsonl

A row that cannot be used is told, the others go on, and the exit code is 1. docs/training-data.md describes the lines.`,
      data,
    );
  }
  add(
    "validate",
    "Checks a data file row by row.",
    validateOptions,
    runValidate,
    `
Examples:
  block-attention data validate --format rag nq.jsonl
  block-attention data validate --format packed train.parquet

The first 20 rows that are not of the format are told, all are counted, and the exit code is 1.`,
    data,
  );

  for (const { name, summary, declare, run, help } of ragDataCommands) add(name, summary, declare, run, help, data);

  const evaluation = program.command("eval").description("Answers sets of questions and scores the answers.");
  for (const { name, summary, declare, run, help } of evaluationCommands) {
    add(name, summary, declare, run, help, evaluation);
  }

  for (const command of [program, ...program.commands, ...data.commands, ...evaluation.commands]) {
    command.exitOverride().configureOutput({
      writeOut: (text) => terminal.stdout.write(text),
      writeErr: (text) => terminal.stderr.write(text),
      outputError: (text, print) => print(`${commanderMessage(text)}\n`),
    });
  }
  return {
    async run(argv) {
      await program.parseAsync(argv);
      return exitCode;
    },
  };
}

/** Commander's message in our words' shape: one line, double quotes, no period. */
function commanderMessage(text: string): string {
  const line = text
    .replace(/^error: /, "")
    .replace(/\s+/g, " ")
    .trim();
  return `Cannot start: ${line.replace(/'([^']*)'/g, '"$1"').replace(/\.$/, "")}`;
}
