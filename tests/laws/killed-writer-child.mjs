// Encodes passages into a folder until it is killed, and says on standard output which blocks are durable: "id number" a line.
const [library, model, store, first, hasIds] = process.argv.slice(2);
const { Engine } = await import(library);

const engine = await Engine.load({ model, store, threads: 1, storeBytes: 2 ** 22, contextBytes: 2 ** 22 });
for (let number = Number(first); ; number += 3) {
  const passages = [number, number + 1, number + 2].map((n) => {
    return { ...(hasIds && { id: n }), text: `Passage ${n} ${"of words ".repeat(n % 17)}` };
  });
  const { blocks } = await engine.encode(passages);
  for (const [i, block] of blocks.entries()) {
    if (block.durable) process.stdout.write(`${block.id} ${number + i}\n`);
  }
}
