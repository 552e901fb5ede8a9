/**
 * GPT-2's alphabet of bytes: entry b is the character that stands for byte b in vocabularies of byte-level BPE.
 * Printable Latin-1 stands for itself; the 68 others follow from U+0100 on, in order.
 *
 * @see https://github.com/openai/gpt-2, bytes_to_unicode
 */
export function byteAlphabet(): string[] {
  let shifted = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return String.fromCodePoint(printable ? byte : shifted++);
  });
}
