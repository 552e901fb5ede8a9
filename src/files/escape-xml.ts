/** Text as it may stand in XML, between tags and in quotes. */
export function escapeXml(text: string): string {
  return (
    text
      .replaceAll("&", "&amp;")
      .replaceAll("<", "&lt;")
      .replaceAll(">", "&gt;")
      .replaceAll('"', "&quot;")
      // XML knows no other control characters, not even as references.
      // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is left out
      .replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]|\p{Surrogate}/gu, "\ufffd")
  );
}
