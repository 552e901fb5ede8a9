import { setImmediate as nextTurn } from "node:timers/promises";
import type { GenerateResult, SpelledToken } from "../../engine/results.js";
import type { ChoiceEvent } from "./run-choices.js";

/** One whole answer. */
export interface GatheredChoice {
  /** The prompt's tokens, where they were asked for. */
  readonly echo: readonly SpelledToken[];
  readonly text: string;
  /** Whether it begins with reasoning, by the prompt's end. */
  readonly opensReasoning: boolean;
  /** Its tokens, where log-probabilities were asked for. */
  readonly tokens: readonly SpelledToken[];
  readonly result: GenerateResult;
}

/** Whole answers, by index. @throws what `events` throws; Error if an answer did not end. */
export async function gather(events: AsyncIterable<ChoiceEvent>, numChoices: number): Promise<GatheredChoice[]> {
  const parts = Array.from({ length: numChoices }, () => ({
    echo: [] as SpelledToken[],
    texts: [] as string[],
    tokens: [] as SpelledToken[],
    opensReasoning: false,
    result: undefined as GenerateResult | undefined,
  }));
  for await (const { index, event } of events) {
    const part = parts[index]!;
    switch (event.kind) {
      case "echo":
        for (const token of event.tokens) part.echo.push(token);
        break;
      case "prompt":
        part.opensReasoning = event.opensReasoning ?? false;
        break;
      case "token":
        part.texts.push(event.text);
        if (event.spelled !== undefined) part.tokens.push(event.spelled);
        break;
      case "done":
        part.texts.push(event.text);
        part.result = event.result;
        break;
      default:
        event satisfies never;
    }
  }
  return parts.map(({ echo, texts, tokens, opensReasoning, result }, i) => {
    if (result === undefined) throw new Error(`Cannot answer: choice ${i + 1} did not end`);
    return { echo, text: texts.join(""), opensReasoning, tokens, result };
  });
}

/** What is made of each choice. One with log-probabilities has a turn of the event loop: all of them take a tenth of a second. */
export async function mapChoices<T>(
  choices: readonly GatheredChoice[],
  make: (choice: GatheredChoice, index: number) => T,
): Promise<T[]> {
  const made: T[] = [];
  for (const [index, choice] of choices.entries()) {
    if (choice.tokens.length + choice.echo.length > 0) await nextTurn();
    made.push(make(choice, index));
  }
  return made;
}
