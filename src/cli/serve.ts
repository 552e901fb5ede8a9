import { type Command, Option } from "commander";
import { serverSettings } from "../server/server-config.js";
import { settingOption } from "./options.js";
import type { ServeFlags } from "./run-serve.js";
import type { Terminal } from "./terminal.js";

export const serveHelp = `
Every setting is also an environment variable, BLOCK_ATTENTION_STORE_BYTES for --store-bytes, and a key of the config
file, "store_bytes". An option wins over the environment, that over the file.

Once the server listens, standard output has one line: Listening on http://HOST:PORT. The model is loaded after that:
GET /ready tells when. With --wait-ready the line comes when the model is loaded. SIGTERM and Ctrl-C let running requests
finish; a second one ends at once.

Examples:
  block-attention serve
  block-attention serve --model model.gguf --port 0 --store-bytes 2GiB
  block-attention serve --host 0.0.0.0 --keys keys.txt --config server.json`;

/** Declares `serve`'s options: the server's settings, from their own schema. */
export function serveOptions(command: Command): Command {
  command.addOption(
    new Option("--config <file>", "settings as a JSON object (default: BLOCK_ATTENTION_CONFIG, or none)"),
  );
  command.addOption(new Option("--wait-ready", "print the line when the model is loaded, not when the server listens"));
  // Not checked here: an error is to name the flag, the variable or the file that gave the value.
  for (const { name, setting } of serverSettings) command.addOption(settingOption(name, setting).argParser(String));
  return command;
}

/** Serves until it is told to end. @returns the exit code. */
export async function runServe(flags: ServeFlags, terminal: Terminal): Promise<number> {
  // The server's packages take longer to load than most commands take to run.
  const { serve } = await import("./run-serve.js");
  return serve(flags, terminal);
}
