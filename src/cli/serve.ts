import { serverSettings } from "../server/server-config.js";
import { command, settingFlag, toggle } from "./command.js";
import { adapterFlags, storeFlag } from "./options.js";
import type { ServeFlags } from "./run-serve.js";

export const serveCommand = command({
  name: "serve",
  summary: "Answers over HTTP, as OpenAI's API and the reference's.",
  // Settings are not checked here: an error is to name the flag, the variable or the file that gave the value.
  flags: {
    config: { takes: "<file>", about: "settings as a JSON object (default: BLOCK_ATTENTION_CONFIG, or none)" },
    waitReady: toggle("print the line when the model is loaded, not when the server listens"),
    ...Object.fromEntries(
      serverSettings.map(({ name, setting }) => [name, { ...settingFlag(setting), read: (text: string) => text }]),
    ),
    ...adapterFlags,
    store: storeFlag,
  },
  run: async (flags, terminal) => {
    // The server's packages take longer to load than most commands take to run.
    const { serve } = await import("./run-serve.js");
    return serve(flags as ServeFlags, terminal);
  },
  help: `
Every setting is also an environment variable, BLOCK_ATTENTION_STORE_BYTES for --store-bytes, and a key of the config
file, "store_bytes". An option wins over the environment, that over the file.

Once the server listens, standard output has one line: Listening on http://HOST:PORT. The model is loaded after that:
GET /ready tells when. With --wait-ready the line comes when the model is loaded. SIGTERM and Ctrl-C let running requests
finish; a second one ends at once. SIGHUP reads the file of --keys anew.

Examples:
  block-attention serve
  block-attention serve --model model.gguf --port 0 --store-bytes 2GiB
  block-attention serve --host 0.0.0.0 --keys keys.txt --config server.json`,
});
