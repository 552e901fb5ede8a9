export interface HoldemState {
  readonly table: {
    readonly game: string;
    readonly hand: number;
    readonly blinds: { readonly small: number; readonly big: number };
  };
  readonly button: string;
  readonly round: "preflop" | "flop" | "turn" | "river" | "over";
  readonly board: readonly string[];
  readonly pot: number;
  readonly toAct: string | null;
  readonly players: readonly {
    readonly seat: number;
    readonly name: string;
    readonly status: "in" | "folded" | "all in";
    readonly chips: { readonly bet: number; readonly remain: number };
    readonly cards?: readonly string[];
  }[];
  readonly history: readonly string[];
}

export declare function seededRandom(seed: number): () => number;
export declare function bestHand(cards: readonly string[], board: readonly string[]): string;
export declare class HoldemTable {
  constructor(options?: {
    readonly numPlayers?: number;
    readonly buyIn?: number;
    readonly smallBlind?: number;
    readonly bigBlind?: number;
    readonly random?: () => number;
  });
  readonly numPlayers: number;
  readonly isHandOver: boolean;
  readonly toAct: number | undefined;
  readonly pot: number;
  nameOf(seat: number): string;
  cardsOf(seat: number): string[];
  nextHand(): void;
  legal(): string[];
  act(text: string): void;
  state(): HoldemState;
  botAction(): string;
}
