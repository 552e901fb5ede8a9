import { expect, test } from "vitest";
import { linePicture } from "./line-picture.js";

const looks = { title: "A & B", xName: "passages", yName: "percent", scale: "percent" } as const;
const numbersOf = (text: string, attribute: string) =>
  [...text.matchAll(new RegExp(`<circle [^>]*${attribute}="([^"]*)"`, "g"))].map(([, value]) => Number(value));

test("linePicture(): points lie where their values do, x by its logarithm", () => {
  const points = [
    { x: 1, y: 0 },
    { x: 10, y: 0.5, low: 0.4, high: 0.6 },
    { x: 100, y: 1 },
  ];
  const picture = linePicture({ ...looks, series: [{ name: 'block, "first"', points }] });
  const [x, y] = [numbersOf(picture, "cx"), numbersOf(picture, "cy")] as [number[], number[]];
  expect((x[1] as number) - (x[0] as number)).toBeCloseTo((x[2] as number) - (x[1] as number), 1);
  expect((y[0] as number) - (y[1] as number)).toBeCloseTo((y[1] as number) - (y[2] as number), 1);
  expect(picture).toContain("<title>A &amp; B</title>");
  expect(picture).toContain("block, &quot;first&quot;, 10: 50.0%");
});

test("linePicture(): a logarithm's marks are powers of ten around the values; 0 has no place", () => {
  const points = [
    { x: 1, y: 0 },
    { x: 2, y: 30 },
    { x: 4, y: 2000 },
  ];
  const picture = linePicture({ ...looks, scale: "log", series: [{ name: "a", points }] });
  expect([...picture.matchAll(/text-anchor="end">(\d+)</g)].map(([, mark]) => Number(mark))).toEqual([
    10, 100, 1000, 10_000,
  ]);
  expect(numbersOf(picture, "cx").length).toBe(2);
  expect(picture).not.toMatch(/NaN|Infinity/);
});

test.each([
  ["no series", []],
  ["a series without points", [{ name: "a", points: [] }]],
  ["one point", [{ name: "a", points: [{ x: 5, y: 3 }] }]],
  ["more series than colours", Array.from({ length: 20 }, (_, i) => ({ name: `${i}`, points: [{ x: i + 1, y: i }] }))],
])("linePicture(): %s", (_, series) => {
  for (const scale of ["percent", "log"] as const) {
    expect(linePicture({ ...looks, scale, series })).not.toMatch(/NaN|Infinity|undefined/);
  }
});
