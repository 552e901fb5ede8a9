// Questions about a folder of documents, in the browser: npm run rag-app [-- FOLDER --model PATH --embedding-model FOLDER --port 8091]
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Backend, startServer } from "./backend.mjs";
import { Corpus, realFolder } from "./corpus.mjs";
import { DocumentReader } from "./documents.mjs";
import { SearchIndex } from "./search-index.mjs";
import { createRagServer } from "./server.mjs";

const text = { type: "string" };
const usage = `Usage: npm run rag-app -- [FOLDER] [options]
  FOLDER                     of Markdown, HTML and PDF files; default: this project's decisions
  --model PATH               the model, as of "block-attention serve"
  --embedding-model FOLDER   an encoder, to search by meaning
  --mode block|full          how prompts are read, where the model's own way is another
  --base-url URL             a server that runs already, in the place of one of the application's own
  --data FOLDER              where the index and the blocks are kept; default: in the user's cache
  --port N                   default: 8091`;
/** What is to be closed at the end, the last first. */
const opened = [];
let isEnding = false;

async function end(code) {
  if (isEnding) process.exit(code);
  isEnding = true;
  for (const close of opened.reverse()) await close();
  process.exit(code);
}

async function fail(error) {
  if (isEnding) return;
  console.error(error.message.startsWith("Cannot ") ? error.message : `Cannot go on: ${error.message}`);
  await end(1);
}

/** A folder of this corpus' own in the user's cache. */
function dataFolder(folder) {
  const { XDG_CACHE_HOME, LOCALAPPDATA } = process.env;
  const cache = (process.platform === "win32" ? LOCALAPPDATA : XDG_CACHE_HOME) || join(homedir(), ".cache");
  const digest = createHash("sha256").update(folder).digest("hex").slice(0, 8);
  const name = `${basename(folder).replaceAll(/[^\w-]/g, "_")}-${digest}`;
  return join(cache, "block-attention", "rag-app", name);
}

async function run() {
  const options = { model: text, "embedding-model": text, mode: text, "base-url": text, data: text, port: text };
  const { values, positionals } = parseArgs({
    options: { ...options, help: { type: "boolean", short: "h" } },
    allowPositionals: true,
  });
  if (values.help) {
    console.log(usage);
    return await end(0);
  }
  const port = Number(values.port ?? 8091);
  if (!Number.isInteger(port) || port < 0 || port > 65_535)
    throw new RangeError(`Cannot listen: the port is ${JSON.stringify(values.port)}, wanted 0 to 65535`);
  if (positionals.length > 1)
    throw new RangeError(`Cannot read the documents: ${positionals.length} folders are named, wanted one`);
  const own = ["model", "embedding-model", "mode"].filter((name) => values[name] !== undefined);
  if (values["base-url"] !== undefined && own.length > 0)
    throw new RangeError(`Cannot use --${own[0]}: the server at --base-url has its own`);
  if (values["base-url"] !== undefined && !URL.canParse(values["base-url"]))
    throw new RangeError(`Cannot use --base-url: ${JSON.stringify(values["base-url"])} is no URL`);

  // npm runs scripts in the package's folder, whatever the user's is.
  const fromUser = (path) => resolve(process.env.INIT_CWD ?? ".", path);
  const decisions = fileURLToPath(new URL("../../docs/decisions", import.meta.url));
  const folder = await realFolder(positionals[0] === undefined ? decisions : fromUser(positionals[0]));
  const data = values.data === undefined ? dataFolder(folder) : fromUser(values.data);
  const reader = new DocumentReader();
  const index = await SearchIndex.open(join(data, "index.duckdb"));
  opened.push(() => index.close());

  let url = values["base-url"];
  if (url === undefined) {
    const paths = ["model", "embedding-model"].filter((name) => values[name] !== undefined);
    // A model may also be one of the hub.
    const placeOf = (name) => (existsSync(fromUser(values[name])) ? fromUser(values[name]) : values[name]);
    const args = paths.flatMap((name) => [`--${name}`, placeOf(name)]);
    if (values.mode !== undefined) args.push("--mode", values.mode);
    console.log("Loading the model …");
    const server = await startServer([...args, "--store", join(data, "blocks")]);
    opened.push(server.stop);
    void server.exited.then(() => fail(new Error("Cannot go on: the model's server has ended")));
    url = server.url;
  }
  const backend = new Backend(url, process.env.API_KEY);
  await backend.connect();
  const corpus = new Corpus({ folder, index, backend, reader, onNote: (line) => console.log(line) });
  opened.push(() => corpus.close());
  const http = createRagServer({ corpus, backend });
  http.on("error", fail);
  opened.push(() => {
    http.close();
    http.closeAllConnections();
  });
  http.listen(port, "127.0.0.1", () => {
    console.log(`Answering over ${corpus.folder} with ${backend.model} at http://127.0.0.1:${http.address().port}`);
    console.log(`The index and the blocks are in ${data}`);
    corpus.start();
  });
}

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => end(0));
run().catch(fail);
