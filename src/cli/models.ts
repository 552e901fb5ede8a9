import { formatBytes } from "../files/format-bytes.js";
import { someWords } from "../files/settings.js";
import { command, type FlagsOf, flag, operand, toggle } from "./command.js";
import { refuseName } from "./pull-model.js";
import { formatTable, type Terminal, write, writeJson } from "./terminal.js";

const lsFlags = { json: toggle("one line of JSON for each model") };

export const modelsLsCommand = command({
  name: "ls",
  summary: "Lists the models that were pulled, and whether they run here.",
  flags: lsFlags,
  run: runLs,
  help: `
Models that the hf command has fetched are listed too: the folder is the same.

Examples:
  block-attention models ls
  block-attention models ls --json`,
});

async function runLs({ json }: FlagsOf<typeof lsFlags>, terminal: Terminal): Promise<number> {
  const { keptModels } = await import("../hub/kept-models.js");
  const models = await keptModels(terminal.env);
  if (json === true) {
    for (const { runs, isWhole, revision = null, ...model } of models) {
      await writeJson(terminal, { ...model, revision, complete: isWhole, architecture: null, reason: null, ...runs });
    }
    return 0;
  }
  if (models.length === 0) {
    await write(terminal.stdout, "No models were pulled yet\n", terminal.signal);
    return 0;
  }
  const rows = models.map(({ name, revision = "", files, bytes, isWhole }) => [
    name,
    ...[revision.slice(0, 8), String(files.length), formatBytes(bytes), isWhole ? "complete" : "partial"],
  ]);
  const table = formatTable([["model", "revision", "files", "size", ""], ...rows]).split("\n");
  const runs = [
    "runs",
    ...models.map((model) =>
      "reason" in model.runs ? `no: ${shortReason(model.runs.reason)}` : model.runs.architecture,
    ),
  ];
  const width = Math.max(...table.map((line) => line.length));
  const lines = table.map((line, i) => `${line.padEnd(width)}  ${runs[i]}`.trimEnd());
  await write(terminal.stdout, `${lines.join("\n")}\n`, terminal.signal);
  return 0;
}

/** Without the path, which the row names. */
function shortReason(reason: string): string {
  return reason.replace(/^Cannot \w+ "(?:[^"\\]|\\.)*": /, "");
}

const rmFlags = {
  name: operand(flag("<name>", "as models ls has it; OWNER/REPO for all that is there of it", someWords)),
  json: toggle('one line of JSON: {"name","bytes"}'),
};

export const modelsRmCommand = command({
  name: "rm",
  summary: "Removes a model that was pulled.",
  flags: rmFlags,
  run: runRm,
  help: `
Files that another revision has too are kept for it. Nothing is asked.

Examples:
  block-attention models rm smollm2-135m
  block-attention models rm Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q8_0`,
});

async function runRm({ name, json }: FlagsOf<typeof rmFlags>, terminal: Terminal): Promise<number> {
  const { removeModel } = await import("../hub/kept-models.js");
  const bytes = await removeModel(name, terminal.env).catch(refuseName);
  if (json === true) await writeJson(terminal, { name, bytes });
  else await write(terminal.stdout, `Removed ${name}: ${formatBytes(bytes)}\n`, terminal.signal);
  return 0;
}
