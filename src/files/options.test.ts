import { expect, test } from "vitest";
import { aFunction, anySignal, anyText, oneOfTexts, optionsOf, show, wholeNumber } from "./options.js";

const read = optionsOf({
  model: anyText,
  maxTokens: wholeNumber(0),
  threads: wholeNumber(1, 512),
  mode: oneOfTexts(["block", "full"]),
  onWarning: aFunction(),
  signal: anySignal,
});

test("optionsOf(): gives what it was given, and nothing that was left out", () => {
  const { signal } = new AbortController();
  const given = { model: "m", maxTokens: 5, onWarning: () => undefined, signal };
  expect(read("load", given)).toEqual(given);
  expect(read("load", given).signal).toBe(signal);
  expect(read("load", { model: undefined })).toEqual({});
  class Options {
    get threads() {
      return 3;
    }
  }
  expect(read("load", new Options())).toEqual({ threads: 3 });
});

test.each([
  [null, TypeError, "the options are null, wanted an object"],
  ["m", TypeError, 'the options are "m", wanted an object'],
  [[], TypeError, "the options are [], wanted an object"],
  [new Map([["model", "m"]]), TypeError, "the options are {}, wanted an object"],
  [Promise.resolve({}), TypeError, "the options are {}, wanted an object"],
  [() => undefined, TypeError, "the options are function, wanted an object"],
  [{ modle: "m" }, TypeError, 'there is no option "modle", wanted "model" or "mode"'],
  [{ max_tokens: 5 }, TypeError, 'there is no option "max_tokens", wanted "maxTokens"'],
  [{ thread: 5 }, TypeError, 'there is no option "thread", wanted "threads"'],
  [{ heat: 5, model: 7 }, TypeError, 'there is no option "heat", wanted "model" or "maxTokens" or "threads" or "mode"'],
  [JSON.parse('{"__proto__": 1}'), TypeError, 'there is no option "__proto__"'],
  [{ model: 7 }, TypeError, "model is 7, wanted text"],
  [{ model: null }, TypeError, "model is null, wanted text"],
  [{ maxTokens: "5" }, TypeError, 'maxTokens is "5", wanted a whole number from 0 on'],
  [{ maxTokens: 5n }, TypeError, "maxTokens is 5, wanted a whole number from 0 on"],
  [{ maxTokens: -1 }, RangeError, "maxTokens is -1, wanted a whole number from 0 on"],
  [{ maxTokens: Number.NaN }, RangeError, "maxTokens is NaN, wanted a whole number from 0 on"],
  [{ threads: 1.5 }, RangeError, "threads is 1.5, wanted a whole number from 1 to 512"],
  [{ mode: "half" }, RangeError, 'mode is "half", wanted "block" or "full"'],
  [{ onWarning: "tell" }, TypeError, 'onWarning is "tell", wanted a function'],
  [{ signal: { aborted: false } }, TypeError, 'signal is {"aborted":false}, wanted an AbortSignal'],
])("optionsOf(): refuses %o", (input, kind, problem) => {
  const call = () => read("load the engine", input);
  expect(call).toThrow(kind);
  expect(call).toThrow(`Cannot load the engine: ${problem}`);
});

test("show(): is short, and never fails", () => {
  expect(show("x".repeat(1000)).length).toBe(81);
  const loop: Record<string, unknown> = {};
  loop.loop = loop;
  expect(show(loop)).toBe("object");
  expect(show(Symbol("a"))).toBe("symbol");
});
