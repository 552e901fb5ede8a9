import { expect, test } from "vitest";
import { NO_REAL_NAMES, realNames } from "./real-names.js";

const passages = (...list: [string, string][]) => list.map(([title, text]) => ({ title, text }));

test("realNames(): people's names in parts, works' titles without what tells them from others", () => {
  const names = realNames(
    passages(
      [
        "Liz Garbus",
        "Liz Garbus (born April 11, 1970) is an American documentary film director. Her films won prizes.",
      ],
      ["Jason Michael Brescia", "Jason Michael Brescia( born 1986) is an American writer. He lives in New York."],
      ["Ayla Algan", "Ayla Algan (born 29 October 1937) is a Turkish actress. She is also a singer."],
      ["Safe (1995 film)", "Safe is a 1995 drama film written and directed by Todd Haynes."],
      ["The Lily of the Dust", "The Lily of the Dust is a 1924 American silent film."],
    ),
  );
  expect(names).toEqual({
    men: ["Jason"],
    women: ["Liz", "Ayla"],
    surnames: ["Garbus", "Brescia", "Algan"],
    titles: ["Safe", "The Lily of the Dust"],
    menOccupations: [],
    womenOccupations: ["actress"],
  });
});

test("realNames(): nothing that is neither, that a question could not name, or that is the example's", () => {
  const names = realNames(
    passages(
      ["Wale Adebanwi", "Wale Adebanwi (born 1969) is a Nigerian-born professor."],
      ["Old soul", "Old soul or variants may refer to:"],
      ["Henry II", "Henry II (1246 – 1318) was a duke."],
      ["Adelaide of Hesse", "Adelaide of Hesse (1323 – 1371) was a daughter of Henry II. She was a queen."],
      ["O.K. Connery", "O.K. Connery is a 1967 Italian spy film."],
      ["Kill or Be Killed", "Kill or Be Killed is a 1942 novel."],
      ["Tulipani, Love, Honour", "Tulipani, Love, Honour is a 2017 film."],
      ["1984", "1984 is a 1956 film."],
      ["Priscilla Pointer", "Priscilla Pointer is an American stage, film and television actress."],
      ["Xawery Żuławski", "Xawery Żuławski (born 22 December 1971) is a Polish film maker."],
      ["Polish-Russian War (film)", "Polish-Russian War is a 2009 Polish film."],
    ),
  );
  expect(names).toEqual(NO_REAL_NAMES);
});
