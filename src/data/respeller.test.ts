import { expect, test } from "vitest";
import { embeddedModelPath, loadTokenizer } from "../engine/model.js";
import { Respeller } from "./respeller.js";

const tokenizer = await loadTokenizer(embeddedModelPath());
const text = "The mother of Maria Gardner is Julia Gardner. Gardner, Maria was born in 1932 in Warsaw.";
const ids = tokenizer.encode(text, "none");

test("Respeller: the text stays, capitalized words come in smaller tokens", () => {
  const respeller = new Respeller(tokenizer, 1, "1");
  const seen = new Set<string>();
  for (let context = 0; context < 20; context++) {
    const spelled = respeller.spelling(String(context))(ids);
    expect(tokenizer.decode(spelled)).toBe(tokenizer.decode(ids));
    expect(spelled.length).toBeGreaterThan(ids.length);
    const whole = spelled.map((id) => tokenizer.decode([id])).filter((piece) => piece.trim() === "Maria");
    expect(whole).toEqual([]);
    seen.add(spelled.join(" "));
  }
  expect(seen.size).toBeGreaterThan(10);
});

test("Respeller: a context spells a word the same everywhere, in all of its texts", () => {
  const respeller = new Respeller(tokenizer, 0.5, "1");
  const spelling = respeller.spelling("a context");
  const [once] = tokenizer.encode(" Maria", "none");
  const pieces = spelling([once as number]);
  const everywhere = spelling([once as number, ids[0] as number, once as number]);
  expect(everywhere.slice(0, pieces.length)).toEqual(pieces);
  expect(everywhere.slice(-pieces.length)).toEqual(pieces);
  expect(new Respeller(tokenizer, 0.5, "1").spelling("a context")(ids)).toEqual(spelling(ids));
});

test("Respeller: about the share of words that is asked for", () => {
  const [word] = tokenizer.encode(" Maria", "none");
  expect(tokenizer.encode(" Maria", "none")).toHaveLength(1);
  const countOf = (share: number) => {
    const respeller = new Respeller(tokenizer, share, "1");
    return Array.from({ length: 300 }, (_, i) => respeller.spelling(String(i))([word as number])).filter(
      ({ length }) => length > 1,
    ).length;
  };
  expect(countOf(0)).toBe(0);
  expect(countOf(1)).toBe(300);
  // 300 draws of a half: 5 deviations are 43.
  expect(Math.abs(countOf(0.5) - 150)).toBeLessThan(43);
});
