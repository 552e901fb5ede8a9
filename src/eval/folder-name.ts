/** A name as a folder's: small letters, digits and hyphens. @example folderName("Block, 10 passages") is "block-10-passages" */
export function folderName(name: string): string {
  return (
    name
      .toLowerCase()
      .replace(/[^\p{L}\p{N}]+/gu, "-")
      .replace(/^-+|-+$/g, "")
      .slice(0, 80) || "row"
  );
}
