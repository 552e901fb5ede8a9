import type { GivenRagTexts } from "../blocks/rag-prompt.js";
import type { LocalEngine } from "../engine/local-engine.js";
import { engineResponder } from "./engine-responder.js";
import { type PeerOptions, peerResponder } from "./peer-responder.js";
import type { Responder } from "./responder.js";

/** One who takes part in an evaluation, over every set of it. */
export interface Entrant {
  readonly name: string;
  /** Answers the questions of one run. @param run its name: no two runs of an engine share blocks. */
  readonly responder: (run: string) => Responder;
}

/** The ways in which an engine takes part. */
export const ENGINE_ENTRANTS = ["block", "full", "no-reencoding"] as const;
export type EngineEntrant = (typeof ENGINE_ENTRANTS)[number];

/** An engine in one of its ways: "no-reencoding" is block mode without position re-encoding. */
export function engineEntrant(engine: LocalEngine, way: EngineEntrant, maxDocuments: number | undefined): Entrant {
  const mode = way === "full" ? "full" : "block";
  const positionReencoding = way !== "no-reencoding";
  return {
    name: way,
    responder: (run) =>
      engineResponder({ engine, mode, positionReencoding, maxDocuments, salt: `evaluation ${way} ${run}` }),
  };
}

/** How a repair is measured: each beside the others, over the same stored blocks and with the same words. */
export interface RepairEntrantOptions {
  readonly engine: LocalEngine;
  /** "full", or a repair of block mode, "none" among them. */
  readonly way: string;
  readonly texts: GivenRagTexts;
}

/** An engine in full mode, or in block mode with a repair. */
export function repairEntrant({ engine, way, texts }: RepairEntrantOptions): Entrant {
  const how = way === "full" ? ({ mode: "full" } as const) : ({ mode: "block", repair: way } as const);
  return {
    name: way === "none" ? "block" : way,
    responder: (run) => engineResponder({ engine, ...how, texts, salt: `evaluation ${run}` }),
  };
}

/** A server. @throws RangeError as peerResponder(). */
export function peerEntrant(peer: PeerOptions): Entrant {
  // What is wrong with its URL is told before anything runs.
  peerResponder(peer);
  return { name: peer.name, responder: () => peerResponder(peer) };
}
