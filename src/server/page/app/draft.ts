export type Mode = "block" | "full";

export interface Passage {
  /** Its number in the draft; never given twice. */
  readonly id: number;
  readonly title: string;
  readonly text: string;
  /** Whether it is part of the prompt. */
  readonly isOn: boolean;
  /** The id of its block in the server's store, as the last answer told it. Its text has not changed since. */
  readonly blockId?: string | undefined;
}

/** What a person has laid out: all that a reload keeps. */
export interface Draft {
  readonly passages: readonly Passage[];
  readonly nextId: number;
  readonly question: string;
  /** The longest answer, in tokens. */
  readonly maxTokens: number;
}

export type DraftAction =
  | { readonly kind: "add" }
  | { readonly kind: "edit"; readonly id: number; readonly title: string; readonly text: string }
  | { readonly kind: "remove"; readonly id: number }
  | { readonly kind: "switch"; readonly id: number; readonly isOn: boolean }
  /** `to` is a place in the list, from 0; places outside it mean its ends. */
  | { readonly kind: "move"; readonly id: number; readonly to: number }
  | { readonly kind: "load"; readonly documents: readonly { title: string; text: string }[]; readonly question: string }
  /** Puts a list back as it was. */
  | { readonly kind: "restore"; readonly passages: readonly Passage[] }
  | { readonly kind: "served"; readonly blockIds: ReadonlyMap<number, string> }
  | { readonly kind: "question"; readonly question: string }
  | { readonly kind: "max tokens"; readonly maxTokens: number };

export const emptyDraft: Draft = { passages: [], nextId: 1, question: "", maxTokens: 60 };

/** The draft after an action; what it names but does not exist changes nothing. */
export function changeDraft(draft: Draft, action: DraftAction): Draft {
  const { passages } = draft;
  switch (action.kind) {
    case "add": {
      const passage = { id: draft.nextId, title: "", text: "", isOn: true };
      return { ...draft, passages: [...passages, passage], nextId: draft.nextId + 1 };
    }
    case "edit":
      return changePassage(draft, action.id, (passage) => {
        const isSame = passage.title === action.title && passage.text === action.text;
        // Other text is another block.
        return isSame ? passage : { ...passage, title: action.title, text: action.text, blockId: undefined };
      });
    case "remove":
      return { ...draft, passages: passages.filter(({ id }) => id !== action.id) };
    case "switch":
      return changePassage(draft, action.id, (passage) => ({ ...passage, isOn: action.isOn }));
    case "move": {
      const passage = passages.find(({ id }) => id === action.id);
      if (passage === undefined) return draft;
      const others = passages.filter(({ id }) => id !== action.id);
      const to = Math.max(0, Math.min(action.to, others.length));
      return { ...draft, passages: [...others.slice(0, to), passage, ...others.slice(to)] };
    }
    case "load": {
      const loaded = action.documents.map(({ title, text }, i) => ({ id: draft.nextId + i, title, text, isOn: true }));
      return { ...draft, passages: loaded, nextId: draft.nextId + loaded.length, question: action.question };
    }
    case "restore":
      return { ...draft, passages: action.passages };
    case "served":
      return {
        ...draft,
        passages: passages.map((passage) => {
          const blockId = action.blockIds.get(passage.id);
          return blockId === undefined ? passage : { ...passage, blockId };
        }),
      };
    case "question":
      return { ...draft, question: action.question };
    case "max tokens":
      return { ...draft, maxTokens: action.maxTokens };
    default:
      return action satisfies never;
  }
}

function changePassage(draft: Draft, id: number, change: (passage: Passage) => Passage): Draft {
  return { ...draft, passages: draft.passages.map((passage) => (passage.id === id ? change(passage) : passage)) };
}

/** The draft as text, for parseDraft(). */
export function formatDraft(draft: Draft): string {
  return JSON.stringify({ version: 1, ...draft });
}

/** A draft that was kept; undefined where the text is none, or one of another version. */
export function parseDraft(text: string): Draft | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // Kept by something else under our name: begin anew.
    return undefined;
  }
  if (!isRecord(value) || value.version !== 1) return undefined;
  const { passages, nextId, question, maxTokens } = value;
  if (!Array.isArray(passages) || !passages.every(isPassage) || !isWhole(nextId) || !isWhole(maxTokens))
    return undefined;
  if (typeof question !== "string") return undefined;
  const ids = new Set(passages.map(({ id }) => id));
  if (ids.size < passages.length || passages.some(({ id }) => id >= nextId)) return undefined;
  return { passages, nextId, question, maxTokens };
}

function isPassage(value: unknown): value is Passage {
  if (!isRecord(value)) return false;
  const { id, title, text, isOn, blockId } = value;
  const hasTexts = typeof title === "string" && typeof text === "string";
  return isWhole(id) && hasTexts && typeof isOn === "boolean" && (blockId === undefined || typeof blockId === "string");
}

function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
