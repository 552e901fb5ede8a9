/** Names that training data must never hold: those of the reference's own example, which models are judged by. */
const EXAMPLE_NAMES =
  /Polish-Russian War|Wojna polsko|[ŻZ]u[łl]awsk|Braunek|Xawery|Mas[łl]owsk|Leopold Tyrmand|Maria Strzeleck|Yeliseyev|Minamoto no Chikako|Alice Washburn/iu;

/** Whether a text holds a name of the reference's example. */
export function holdsExampleName(text: string): boolean {
  return EXAMPLE_NAMES.test(text);
}
