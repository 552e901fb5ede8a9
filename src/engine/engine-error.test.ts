import { runInThisContext } from "node:vm";
import { expect, test } from "vitest";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { asRefusal, awaitInput, checkInput, EngineError } from "./engine-error.js";

/** What makes V8 throw its own messages that begin as ours do. */
const provocations = [
  "null.x",
  "null.x = 1",
  "const { x } = null",
  "Object.keys(null)",
  "1n + 1",
  "+1n",
  "BigInt({ toString: () => 'x' })",
  "BigInt('x')",
  "+Symbol()",
  "'' + Symbol()",
  "'' + Object.create(null)",
  "x; let x",
  "Object.defineProperty(Object.freeze({ x: 1 }), 'x', { value: 2 })",
  "Object.defineProperty(Object.freeze({}), 'x', {})",
  "Object.freeze([]).push(1)",
  "Object.freeze([1])[0] = 2",
  "delete Object.freeze([1])[0]",
  "Object.freeze([1]).length = 0",
  "({ get x() { return 1; } }).x = 1",
  "'text'.x = 1",
  "new Proxy(1, {})",
  "const { proxy, revoke } = Proxy.revocable({}, {}); revoke(); proxy.x",
  "Object.freeze(new Uint8Array(1))",
  "class A { #x; static of(o) { return o.#x; } } A.of({})",
  "class A { #x; static of(o) { o.#x = 1; } } A.of({})",
  "const bytes = new Uint8Array(8); structuredClone(bytes.buffer, { transfer: [bytes.buffer] }); bytes.fill(1)",
];

function thrownBy(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  return undefined;
}

test.each(provocations)("checkInput(): what V8 says of %s comes out as itself", async (source) => {
  const provoke = runInThisContext(`"use strict"; () => { ${source} }`) as () => void;
  const error = thrownBy(provoke) as Error;
  expect(error.message).toMatch(/^Cannot /);
  expect(
    thrownBy(() =>
      checkInput(() => {
        throw error;
      }),
    ),
  ).toBe(error);
  await expect(awaitInput(Promise.reject(error), new AbortController().signal)).rejects.toBe(error);
});

test("asRefusal(): a check's own errors are the caller's fault, whatever they say; they stay what they mean", () => {
  for (const error of [new InputTypeError("it is 5, wanted text"), new InputRangeError("it is 5, wanted 6")]) {
    expect(asRefusal(error)).toEqual(new EngineError("invalid", error.message, { cause: error }));
  }
  expect(new InputTypeError("")).toBeInstanceOf(TypeError);
  expect(new InputRangeError("")).toBeInstanceOf(RangeError);
  for (const error of [new TypeError("Cannot use it"), new Error("Cannot use it"), "Cannot", undefined]) {
    expect(asRefusal(error)).toBe(error);
  }
});
