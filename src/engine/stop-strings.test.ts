import fc from "fast-check";
import { expect, test } from "vitest";
import { StopMatcher } from "./stop-strings.js";

/** What is given out for each piece, and the stop text found. */
function run(stops: readonly string[], pieces: readonly string[]): { texts: string[]; stop: string | undefined } {
  const matcher = new StopMatcher(stops);
  const texts: string[] = [];
  for (const piece of pieces) {
    const step = matcher.push(piece);
    texts.push(step.text);
    if (step.kind === "stop") return { texts, stop: step.stop };
  }
  texts.push(matcher.end());
  return { texts, stop: undefined };
}

test.each([
  [["END"], ["helloE", "ND rest"], ["hello", ""], "END"],
  [["END"], ["aEN", "ENDx"], ["a", "EN"], "END"],
  [["END"], ["aE", "b"], ["a", "Eb", ""], undefined],
  [["END"], ["aEN"], ["a", "EN"], undefined],
  [["aab"], ["aa", "aab"], ["", "aa"], "aab"],
  // The first to be complete, the longest where several are.
  [["abcX", "bc"], ["abc", "X"], ["a"], "bc"],
  [["c", "bc"], ["abc"], ["a"], "bc"],
  [["ab", "abc"], ["xabc"], ["x"], "ab"],
  [["abcd", "cx"], ["zabc", "x"], ["z", "ab"], "cx"],
  [["\n\n"], ["a\n", "b\n", "\nc"], ["a", "\nb", ""], "\n\n"],
  [["END"], [""], ["", ""], undefined],
  [[], ["any", "thing"], ["any", "thing", ""], undefined],
])("StopMatcher: %o in %o", (stops, pieces, texts, stop) => {
  expect(run(stops, pieces)).toEqual({ texts, stop });
});

test("StopMatcher: pieces give what the whole string gives, and never a part of the stop text", () => {
  const letters = fc.string({ unit: fc.constantFrom("a", "b", "c", "😀"), maxLength: 40 });
  const stopTexts = fc.array(fc.string({ unit: fc.constantFrom("a", "b", "c", "😀"), minLength: 1, maxLength: 5 }), {
    maxLength: 4,
  });
  fc.assert(
    fc.property(letters, stopTexts, fc.array(fc.nat(40), { maxLength: 10 }), (text, stops, cuts) => {
      const places = [0, ...cuts.filter((cut) => cut <= text.length).sort((a, b) => a - b), text.length];
      const pieces = places.slice(1).map((end, i) => text.slice(places[i], end));
      const { texts, stop } = run(stops, pieces);

      // The slow way: the first end of a stop text, the longest that ends there.
      let expected: { text: string; stop: string | undefined } = { text, stop: undefined };
      for (let end = 1; end <= text.length && expected.stop === undefined; end++) {
        const [longest] = stops.filter((s) => text.slice(0, end).endsWith(s)).sort((a, b) => b.length - a.length);
        if (longest !== undefined) expected = { text: text.slice(0, end - longest.length), stop: longest };
      }
      expect({ text: texts.join(""), stop }).toEqual(expected);
    }),
    { numRuns: 1000 },
  );
});

test("StopMatcher: a stop text of 100,000 characters over a text that nearly matches takes no time", () => {
  const stop = `${"a".repeat(100_000)}b`;
  const { stop: found } = run([stop], ["a".repeat(500_000), "b"]);
  expect(found).toBe(stop);
});

test("StopMatcher: refuses an empty stop text, and text after the end", () => {
  expect(() => new StopMatcher(["a", ""])).toThrow("one of them is empty");
  const matcher = new StopMatcher(["a"]);
  matcher.push("a");
  expect(() => matcher.push("b")).toThrow("the answer has ended");
  expect(() => matcher.end()).toThrow("the answer has ended");
});
