/**
 * McNemar's exact test, two-sided: how likely two runs that are equally good would differ by this much or more, over the
 * questions that one of them has right and the other wrong. Those that both have right or both wrong say nothing.
 *
 * The smaller of the two counts is held against a binomial of won + lost fair draws.
 *
 * @throws RangeError for counts that are no whole numbers from 0 on.
 * @example mcnemarExact(8, 2) is 0.109375: 2 · (1 + 10 + 45) / 1024
 */
export function mcnemarExact(won: number, lost: number): number {
  for (const count of [won, lost]) {
    if (Number.isSafeInteger(count) && count >= 0) continue;
    throw new RangeError(`Cannot test a difference: a count is ${count}, wanted a whole number from 0 on`);
  }
  const numDraws = won + lost;
  const fewer = Math.min(won, lost);
  // Logarithms of the terms: 2^-n itself is 0 from 1075 draws on.
  let term = -numDraws * Math.LN2;
  const terms = [term];
  for (let k = 0; k < fewer; k++) {
    term += Math.log((numDraws - k) / (k + 1));
    terms.push(term);
  }
  // They grow up to the middle, so the last is the largest.
  const scale = term;
  const sum = terms.reduce((total, one) => total + Math.exp(one - scale), 0);
  return Math.min(1, 2 * Math.exp(scale) * sum);
}
