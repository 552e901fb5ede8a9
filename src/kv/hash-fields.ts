import { createHash, webcrypto } from "node:crypto";

/**
 * SHA-256 over a list of fields that no other list gives: each field is hashed with its kind and its length before it,
 * so ["ab", "c"] and ["a", "bc"] differ.
 *
 * Strings are hashed as UTF-16 (little endian), under which any two strings differ, lone surrogates too.
 *
 * @param domain what the hash is for; hashes of two domains never meet.
 * @returns 64 hexadecimal digits, lower case.
 */
export function hashFields(domain: string, fields: readonly (string | Uint8Array)[]): string {
  const hash = createHash("sha256");
  for (const field of [domain, ...fields]) {
    const bytes = typeof field === "string" ? Buffer.from(field, "utf16le") : field;
    const head = Buffer.alloc(9);
    head.writeUInt8(typeof field === "string" ? 1 : 2, 0);
    head.writeBigUInt64LE(BigInt(bytes.byteLength), 1);
    hash.update(head).update(bytes);
  }
  return hash.digest("hex");
}

/** SHA-256 of bytes, 32 bytes. Many are copied and hashed off the event loop: the caller may write to them at once. */
export async function sha256(bytes: Uint8Array): Promise<Uint8Array> {
  // Some 10 µs: a thread's answer takes longer.
  if (bytes.length <= 2 ** 14) return createHash("sha256").update(bytes).digest();
  return new Uint8Array(await webcrypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>));
}
