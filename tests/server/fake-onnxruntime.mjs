// In place of onnxruntime-node, as `--import` of a server under test: token i has the vector [i, 1].
import { register } from "node:module";

const runtime = `
export class Tensor {
  constructor(type, data, dims) {
    Object.assign(this, { type, data, dims });
  }
}
export const InferenceSession = {
  create: async () => ({
    inputNames: ["input_ids", "attention_mask"],
    run: async ({ input_ids: { data, dims } }) => {
      if (data.includes(6n)) throw new Error("the model broke");
      const vectors = Float32Array.from([...data].flatMap((id) => [Number(id), 1]));
      return { last_hidden_state: { data: vectors, dims: [...dims, 2] } };
    },
  }),
};`;
const hooks = `
export async function resolve(name, context, next) {
  if (name !== "onnxruntime-node") return next(name, context);
  return { url: ${JSON.stringify(`data:text/javascript,${encodeURIComponent(runtime)}`)}, shortCircuit: true };
}`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
