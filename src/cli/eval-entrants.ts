import type { EngineSettings } from "../engine/engine-options.js";
import type { LocalEngine } from "../engine/local-engine.js";
import { ENGINE_ENTRANTS, type EngineEntrant, type Entrant, engineEntrant, peerEntrant } from "../eval/entrant.js";
import { PEER_PROMPTS } from "../eval/peer-responder.js";
import { isInputError } from "../files/input-error.js";
import { oneOfTexts, wholeNumber } from "../files/options.js";
import { quote } from "../files/quote.js";
import { listOf, readSetting, someWords } from "../files/settings.js";
import { UsageError } from "../files/usage-error.js";
import { type Flag, type FlagsOf, flag, repeated } from "./command.js";
import { openEngine } from "./open-engine.js";
import type { Terminal } from "./terminal.js";

/** NAME=TEXT. */
export interface NamedText {
  readonly name: string;
  readonly text: string;
}

/** Who takes part, the engine's own ways first; closing them closes the engine. */
export interface Entrants extends AsyncDisposable {
  readonly list: readonly Entrant[];
}

/** Who takes part in an evaluation. @param defaultModes as the help tells them. */
export function entrantFlags(defaultModes: string) {
  return {
    modes: {
      takes: "<list>",
      about: `how the engine takes part: ${ENGINE_ENTRANTS.join(", ")}, or none (default: ${defaultModes})`,
      read: (text) => parseModes(text),
    } as Flag<readonly EngineEntrant[] | undefined>,
    peer: {
      takes: "<name=url>",
      about: "an OpenAI server in the same report, by its API's base; may be given again",
      read: (text, before = []) => {
        const peer = splitNamed(text);
        if (peer === undefined) {
          const wanted = "NAME=URL, for instance vllm=http://127.0.0.1:8000/v1";
          throw new UsageError(`Cannot use --peer: it is ${quote(text, 80)}, wanted ${wanted}`);
        }
        if ([...ENGINE_ENTRANTS, ...before.map(({ name }) => name)].includes(peer.name)) {
          throw new UsageError(`Cannot use --peer: another run is called ${quote(peer.name)} too`);
        }
        return [...before, peer];
      },
    } as Flag<readonly NamedText[] | undefined>,
    peerModel: repeated("<name>", "what peers call their model; NAME=MODEL for one of several", someWords),
    peerApiKeyEnv: repeated(
      "<variable>",
      "the environment variable with peers' API key; NAME=VARIABLE for one of several (default: no key is sent)",
      someWords,
    ),
    peerPrompt: flag(
      "<form>",
      "text: the RAG prompt as one message; documents: passages apart, for servers of this project (default: text)",
      oneOfTexts(PEER_PROMPTS),
    ),
    peerTimeout: flag(
      "<seconds>",
      "the longest that one of a peer's answers may take; 300 of silence end it in any case (default: 300)",
      wholeNumber(1, 3600),
    ),
  };
}

type PeerFlags = FlagsOf<ReturnType<typeof entrantFlags>> & { readonly maxDocuments?: number | undefined };

/**
 * Opens who takes part: an engine if any of its ways is asked for, and peers.
 *
 * @param defaultModes of an engine where --modes does not name them.
 * @throws UsageError for flags that do not fit; Error as openEngine().
 */
export async function openEntrants(
  flags: PeerFlags & EngineSettings,
  defaultModes: (engine: LocalEngine) => readonly EngineEntrant[],
  terminal: Terminal,
): Promise<Entrants> {
  const peers = readPeers(flags, terminal);
  // What is wrong with peers is told before a model is loaded.
  for (const peer of peers) peerEntrantOf(peer);
  const isEngineOut = flags.modes?.length === 0;
  if (isEngineOut && peers.length === 0) throw new UsageError("Cannot start: --modes is none and there is no --peer");
  const engine = isEngineOut ? undefined : await openEngine(flags, terminal);
  const texts = engine?.promptContext.ragTexts;
  return {
    list: [
      ...(engine === undefined
        ? []
        : (flags.modes ?? defaultModes(engine)).map((way) => engineEntrant(engine, way, flags.maxDocuments))),
      ...peers.map((peer) => peerEntrantOf({ ...peer, texts })),
    ],
    [Symbol.asyncDispose]: async () => engine?.[Symbol.asyncDispose](),
  };
}

type Peer = Parameters<typeof peerEntrant>[0];

function peerEntrantOf(peer: Peer): Entrant {
  try {
    return peerEntrant(peer);
  } catch (error) {
    if (!isInputError(error)) throw error;
    throw new UsageError(`Cannot use --peer: ${error.message}`, { cause: error });
  }
}

/** The servers that flags name. @throws UsageError for options that do not fit together, or a variable that is not set. */
export function readPeers(flags: PeerFlags, terminal: Terminal): Peer[] {
  const { peer: peers = [], peerModel = [], peerApiKeyEnv = [], peerPrompt, peerTimeout, maxDocuments } = flags;
  const given = {
    "--peer-model": peerModel[0],
    "--peer-api-key-env": peerApiKeyEnv[0],
    "--peer-prompt": peerPrompt,
    "--peer-timeout": peerTimeout,
  };
  const lone = Object.entries(given).find(([, value]) => value !== undefined)?.[0];
  if (peers.length === 0 && lone !== undefined) throw new UsageError(`Cannot use ${lone}: --peer is missing`);
  const peerNames = peers.map(({ name }) => name);
  return peers.map(({ name, text: url }) => {
    const model = peerValue(name, peerModel, peerNames);
    if (model === undefined)
      throw new UsageError(`Cannot use --peer: ${quote(name)} has no model, wanted --peer-model`);
    const variable = peerValue(name, peerApiKeyEnv, peerNames);
    const apiKey = variable === undefined ? undefined : terminal.env[variable];
    if (variable !== undefined && (apiKey === undefined || apiKey === "")) {
      throw new UsageError(`Cannot use --peer-api-key-env: the environment has no ${quote(variable)}`);
    }
    const timeoutMs = peerTimeout === undefined ? undefined : peerTimeout * 1000;
    return { name, url, model, apiKey, prompt: peerPrompt, maxDocuments, timeoutMs };
  });
}

/** A peer's own value, NAME=VALUE, else the one that names no peer. */
function peerValue(name: string, values: readonly string[], peerNames: readonly string[]): string | undefined {
  const own = values.find((value) => value.startsWith(`${name}=`));
  if (own !== undefined) return own.slice(name.length + 1);
  return values.find((value) => !peerNames.some((other) => value.startsWith(`${other}=`)));
}

function parseModes(text: string): EngineEntrant[] {
  if (text.trim() === "none") return [];
  const ways = readSetting(listOf(oneOfTexts([...ENGINE_ENTRANTS, "none"]), { isUnique: true }), text, "--modes") ?? [];
  if (ways.includes("none")) throw new UsageError('Cannot use --modes: "none" stands alone or not at all');
  return ways as EngineEntrant[];
}

/** NAME=TEXT; undefined where there is no name before the first "=", for instance in a path. */
export function splitNamed(text: string): NamedText | undefined {
  const [, name, rest] = /^([\p{L}\p{N}][\p{L}\p{N} ._-]*)=(.+)$/su.exec(text) ?? [];
  return name === undefined || rest === undefined ? undefined : { name, text: rest };
}
