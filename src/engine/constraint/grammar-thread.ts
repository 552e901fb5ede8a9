// A thread that compiles one grammar and tells which tokens may come next: see Grammars.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import type { CompiledGrammar, StructuralTagFormat, default as XGrammar } from "@mlc-ai/web-xgrammar";
import type { GrammarSource } from "./constraint.js";
import { jsonGrammar } from "./json-grammar.js";

export interface GrammarThreadData {
  readonly source: GrammarSource;
  /** Of each id, in GPT-2's alphabet of bytes; "" of those that are never chosen. */
  readonly vocabulary: readonly string[];
  readonly endTokenIds: readonly number[];
}

/** Of a matcher, which is opened by its number's first message. */
export type GrammarRequest =
  | { readonly kind: "open"; readonly matcher: number }
  | { readonly kind: "accept"; readonly matcher: number; readonly tokenId: number }
  | { readonly kind: "close"; readonly matcher: number };

export type GrammarAnswer =
  /** Compiling begins. */
  | { readonly kind: "loaded" }
  | { readonly kind: "compiled" }
  | { readonly kind: "refused"; readonly error: string }
  /** A bit for each token, the lowest ones first: whether it may come next. */
  | { readonly kind: "mask"; readonly matcher: number; readonly mask: Int32Array<ArrayBuffer> };

/** The most that a grammar may take. */
const maxPages = (512 * 2 ** 20) / 65_536;
/** Between the parts of JSON: a small model would go on with white space else. */
const maxWhiteSpace = 64;

interface WasmMemory {
  readonly buffer: ArrayBuffer;
  grow(pages: number): number;
}

/** XGrammar is a script, though its package says that it is a module: it leaves itself in the global object. */
async function loadXGrammar(): Promise<typeof XGrammar> {
  const path = pathToFileURL(createRequire(import.meta.url).resolve("@mlc-ai/web-xgrammar")).href;
  const scope = globalThis as unknown as {
    location?: { readonly href: string };
    xgrammar?: typeof XGrammar;
    readonly WebAssembly: { readonly Memory: { readonly prototype: WasmMemory } };
  };
  // It looks there for its own place.
  scope.location = { href: path };
  const memory = scope.WebAssembly.Memory.prototype;
  const { grow } = memory;
  memory.grow = function (pages: number): number {
    if (this.buffer.byteLength / 65_536 + pages > maxPages) throw new RangeError("It takes too much memory");
    return grow.call(this, pages);
  };
  await import(path);
  return scope.xgrammar as typeof XGrammar;
}

/** A format with the corrected grammars of its schemas in their place. */
async function withGrammars(
  format: StructuralTagFormat,
  ebnfOf: (schema: string) => Promise<string>,
): Promise<StructuralTagFormat> {
  if (format.type === "json_schema")
    return { type: "grammar", grammar: await ebnfOf(JSON.stringify(format.json_schema)) };
  if ("content" in format) return { ...format, content: await withGrammars(format.content, ebnfOf) };
  const made: Record<string, unknown> = { ...format };
  for (const [name, inner] of Object.entries(format)) {
    if (name !== "tags" && name !== "elements") continue;
    made[name] = await Promise.all((inner as StructuralTagFormat[]).map((one) => withGrammars(one, ebnfOf)));
  }
  return made as unknown as StructuralTagFormat;
}

async function compile({ source, vocabulary, endTokenIds }: GrammarThreadData, onLoaded: () => void) {
  const { TokenizerInfo, GrammarCompiler, GrammarMatcher, Testings } = await loadXGrammar();
  const info = await TokenizerInfo.createTokenizerInfo([...vocabulary], "byte_level", false, vocabulary.length, [
    ...endTokenIds,
  ]);
  const compiler = await GrammarCompiler.createGrammarCompiler(info, false);
  onLoaded();
  const ebnfOf = async (schema: string) =>
    jsonGrammar(
      await Testings._jsonSchemaToEBNF(schema, true, undefined, undefined, false, maxWhiteSpace),
      maxWhiteSpace,
    );
  let grammar: CompiledGrammar;
  if (source.kind === "schema") grammar = await compiler.compileGrammar(await ebnfOf(source.text), "root");
  else if (source.kind === "ebnf") grammar = await compiler.compileGrammar(source.text, "root");
  else if (source.kind === "tags")
    grammar = await compiler.compileStructuralTag({ format: await withGrammars(JSON.parse(source.text), ebnfOf) });
  else grammar = await compiler.compileStructuralTag({ format: { type: "regex", pattern: source.text } });
  return () => GrammarMatcher.createGrammarMatcher(grammar);
}

async function serve(port: MessagePort): Promise<void> {
  const post = (answer: GrammarAnswer) => port.postMessage(answer);
  // What is wrong with a grammar is printed, with the place in the library's source; what is thrown says "Aborted" alone.
  let said: string | undefined;
  console.error = (...args: unknown[]) => {
    said ??= /\.(?:cc|h):\d+: (.*)$/s.exec(`${args[0]}`)?.[1];
  };
  console.log = console.error;
  console.warn = console.error;
  let open: Awaited<ReturnType<typeof compile>>;
  try {
    open = await compile(workerData as GrammarThreadData, () => post({ kind: "loaded" }));
  } catch (error) {
    post({ kind: "refused", error: said ?? (error instanceof Error ? error.message : String(error)) });
    return;
  }
  const matchers = new Map<number, Awaited<ReturnType<typeof open>>>();
  const answer = async (request: GrammarRequest): Promise<void> => {
    const { matcher: number } = request;
    if (request.kind === "open") matchers.set(number, await open());
    const matcher = matchers.get(number);
    if (request.kind === "close") {
      matchers.delete(number);
      matcher?.dispose();
    } else if (matcher !== undefined) {
      if (request.kind === "accept" && !matcher.acceptToken(request.tokenId))
        throw new Error(`The grammar does not take token ${request.tokenId}`);
      const mask = new Int32Array(await matcher.getNextTokenBitmask());
      post({ kind: "mask", matcher: number, mask });
    }
  };
  let last = Promise.resolve();
  port.on("message", (request: GrammarRequest) => {
    // In turn; what fails ends the thread, and its matchers with it.
    last = last.then(() => answer(request));
    last.catch((error: unknown) =>
      queueMicrotask(() => {
        throw error;
      }),
    );
  });
  post({ kind: "compiled" });
}

await serve(parentPort as MessagePort);
