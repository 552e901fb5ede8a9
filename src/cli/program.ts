import { Command } from "commander";
import { packageVersion } from "../files/package-version.js";
import { benchCommand } from "./bench.js";
import { addCommand, type CliCommand } from "./command.js";
import { convertCommand } from "./convert.js";
import { packCommand } from "./data.js";
import { ragDataCommands } from "./data-rag.js";
import { needlesCommand, rawCommands, squadCommand, tulu3Command, validateCommand } from "./data-raw.js";
import { demoCommand } from "./demo.js";
import { doctorCommand } from "./doctor.js";
import { encodeCommand } from "./encode.js";
import { evalCompareCommand } from "./eval-compare.js";
import { evalRagCommand } from "./eval-rag.js";
import { evalRepairCommand } from "./eval-repair.js";
import { evalScoreCommand } from "./eval-score.js";
import { evalSweepCommand } from "./eval-sweep.js";
import { evalTableCommand } from "./eval-table.js";
import { evalTtftCommand } from "./eval-ttft.js";
import { generateCommand } from "./generate.js";
import { infoCommand } from "./info.js";
import { modelsLsCommand, modelsRmCommand } from "./models.js";
import { pullCommand } from "./pull.js";
import { scoreCommand } from "./score.js";
import { segmentCommand } from "./segment.js";
import { serveCommand } from "./serve.js";
import {
  storeExportCommand,
  storeGcCommand,
  storeImportCommand,
  storeLsCommand,
  storeRmCommand,
  storeStatCommand,
  storeVerifyCommand,
} from "./store.js";
import type { Terminal } from "./terminal.js";
import { tokenizeCommand } from "./tokenize.js";
import { exportCommand, trainCommand, trainTokenizerCommand } from "./train.js";

const topCommands: readonly CliCommand[] = [
  pullCommand,
  generateCommand,
  serveCommand,
  encodeCommand,
  scoreCommand,
  tokenizeCommand,
  segmentCommand,
  infoCommand,
  benchCommand,
  doctorCommand,
  demoCommand,
  convertCommand,
  trainCommand,
  trainTokenizerCommand,
  exportCommand,
];
const dataCommands: readonly CliCommand[] = [
  ...[packCommand, tulu3Command, squadCommand, needlesCommand, ...rawCommands, validateCommand],
  ...ragDataCommands,
];
/** What answers sets of questions, scores answers, and measures. */
const evaluationCommands: readonly CliCommand[] = [
  ...[
    evalRagCommand,
    evalScoreCommand,
    evalCompareCommand,
    evalSweepCommand,
    evalRepairCommand,
    evalTtftCommand,
    evalTableCommand,
  ],
];

/** The program `block-attention`, its commands bound to a terminal. */
export function createProgram(terminal: Terminal): { run(argv: readonly string[]): Promise<number> } {
  let exitCode = 0;
  const program = new Command("block-attention")
    .description("Block-Attention: passages are encoded once, kept, and reused at any place of any prompt.")
    .version(packageVersion());
  const addAll = (parent: Command, commands: readonly CliCommand[]): void => {
    for (const command of commands) {
      addCommand(parent, command, terminal, (code) => {
        exitCode = code;
      });
    }
  };
  addAll(program, topCommands);
  const models = program.command("models").description("Lists and removes models on the disk.");
  addAll(models, [modelsLsCommand, modelsRmCommand]);
  const store = program.command("store").description("Looks after places in which blocks outlive the process.");
  addAll(store, [
    ...[storeLsCommand, storeStatCommand, storeVerifyCommand, storeRmCommand],
    ...[storeGcCommand, storeExportCommand, storeImportCommand],
  ]);
  const data = program.command("data").description("Prepares training data.");
  addAll(data, dataCommands);
  const evaluation = program.command("eval").description("Answers sets of questions and scores the answers.");
  addAll(evaluation, evaluationCommands);

  for (const command of [program, ...program.commands, ...program.commands.flatMap(({ commands }) => commands)]) {
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
