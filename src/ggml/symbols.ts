import koffi, { type LibraryHandle } from "koffi";

/** The address of something native; 0n is C's null. */
export type Pointer = bigint;

type NativeFunction = ((...args: never[]) => unknown) & { async?: unknown };

/** Functions that take a context, tensors and numbers, and add a tensor to a graph. */
const operations = {
  ggml_view_4d:
    "void *ggml_view_4d(void *ctx, void *a, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3, size_t nb1, size_t nb2, size_t nb3, size_t offset)",
  ggml_reshape_4d: "void *ggml_reshape_4d(void *ctx, void *a, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3)",
  ggml_permute: "void *ggml_permute(void *ctx, void *a, int axis0, int axis1, int axis2, int axis3)",
  ggml_cont: "void *ggml_cont(void *ctx, void *a)",
  ggml_cast: "void *ggml_cast(void *ctx, void *a, int type)",
  ggml_cpy: "void *ggml_cpy(void *ctx, void *a, void *b)",
  ggml_add: "void *ggml_add(void *ctx, void *a, void *b)",
  ggml_sub: "void *ggml_sub(void *ctx, void *a, void *b)",
  ggml_step: "void *ggml_step(void *ctx, void *a)",
  ggml_sum_rows: "void *ggml_sum_rows(void *ctx, void *a)",
  ggml_log: "void *ggml_log(void *ctx, void *a)",
  ggml_argmax: "void *ggml_argmax(void *ctx, void *a)",
  ggml_mul: "void *ggml_mul(void *ctx, void *a, void *b)",
  ggml_div: "void *ggml_div(void *ctx, void *a, void *b)",
  ggml_scale_bias: "void *ggml_scale_bias(void *ctx, void *a, float s, float b)",
  ggml_rms_norm: "void *ggml_rms_norm(void *ctx, void *a, float eps)",
  ggml_mul_mat: "void *ggml_mul_mat(void *ctx, void *a, void *b)",
  ggml_mul_mat_id: "void *ggml_mul_mat_id(void *ctx, void *as, void *b, void *ids)",
  ggml_top_k: "void *ggml_top_k(void *ctx, void *a, int k)",
  ggml_swiglu_split: "void *ggml_swiglu_split(void *ctx, void *a, void *b)",
  ggml_swiglu: "void *ggml_swiglu(void *ctx, void *a)",
  ggml_get_rows: "void *ggml_get_rows(void *ctx, void *a, void *b)",
  ggml_set_rows: "void *ggml_set_rows(void *ctx, void *a, void *b, void *c)",
  ggml_concat: "void *ggml_concat(void *ctx, void *a, void *b, int dim)",
  ggml_pad: "void *ggml_pad(void *ctx, void *a, int p0, int p1, int p2, int p3)",
  ggml_soft_max_ext: "void *ggml_soft_max_ext(void *ctx, void *a, void *mask, float scale, float max_bias)",
  ggml_flash_attn_ext:
    "void *ggml_flash_attn_ext(void *ctx, void *q, void *k, void *v, void *mask, float scale, float max_bias, float logit_softcap)",
  ggml_rope_ext:
    "void *ggml_rope_ext(void *ctx, void *a, void *b, void *c, int n_dims, int mode, int n_ctx_orig, float freq_base, float freq_scale, float ext_factor, float attn_factor, float beta_fast, float beta_slow)",
  ggml_rope_ext_inplace:
    "void *ggml_rope_ext_inplace(void *ctx, void *a, void *b, void *c, int n_dims, int mode, int n_ctx_orig, float freq_base, float freq_scale, float ext_factor, float attn_factor, float beta_fast, float beta_slow)",
} as const;

export type Operation = keyof typeof operations;

/**
 * The C functions that the project calls, by the library that holds them. Types are spelled as koffi reads them;
 * every pointer is opaque (`void *`), so shapes and types are checked in tensor.ts and graph.ts before a call.
 * @see ggml.h, ggml-backend.h of ggml 0.25.
 */
const baseFunctions = {
  ...operations,
  ggml_log_set: "void ggml_log_set(void *callback, void *data)",
  ggml_version: "str ggml_version()",
  ggml_commit: "str ggml_commit()",
  ggml_tensor_overhead: "size_t ggml_tensor_overhead()",
  ggml_graph_overhead_custom: "size_t ggml_graph_overhead_custom(size_t size, bool grads)",
  ggml_free: "void ggml_free(void *ctx)",
  ggml_new_tensor_4d:
    "void *ggml_new_tensor_4d(void *ctx, int type, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3)",
  ggml_set_name: "void *ggml_set_name(void *tensor, const char *name)",
  ggml_set_input: "void ggml_set_input(void *tensor)",
  ggml_set_output: "void ggml_set_output(void *tensor)",
  ggml_mul_mat_set_prec: "void ggml_mul_mat_set_prec(void *tensor, int precision)",
  ggml_flash_attn_ext_set_prec: "void ggml_flash_attn_ext_set_prec(void *tensor, int precision)",
  ggml_get_data: "void *ggml_get_data(void *tensor)",
  ggml_nbytes: "size_t ggml_nbytes(void *tensor)",
  ggml_new_graph_custom: "void *ggml_new_graph_custom(void *ctx, size_t size, bool grads)",
  ggml_graph_n_nodes: "int ggml_graph_n_nodes(void *graph)",
  ggml_graph_node: "void *ggml_graph_node(void *graph, int index)",
  ggml_graph_add_node: "void ggml_graph_add_node(void *graph, void *tensor)",
  ggml_build_forward_expand: "void ggml_build_forward_expand(void *graph, void *tensor)",
  ggml_quantize_chunk:
    "size_t ggml_quantize_chunk(int type, const void *src, void *dst, int64_t start, int64_t nrows, int64_t n_per_row, const void *imatrix)",
  ggml_get_type_traits: "void *ggml_get_type_traits(int type)",
  ggml_threadpool_params_init: "void ggml_threadpool_params_init(void *params, int n_threads)",
  ggml_backend_alloc_ctx_tensors_from_buft: "void *ggml_backend_alloc_ctx_tensors_from_buft(void *ctx, void *buft)",
  ggml_backend_buft_name: "str ggml_backend_buft_name(void *buft)",
  ggml_backend_buft_alloc_buffer: "void *ggml_backend_buft_alloc_buffer(void *buft, size_t size)",
  ggml_backend_buft_is_host: "bool ggml_backend_buft_is_host(void *buft)",
  ggml_backend_buft_get_max_size: "size_t ggml_backend_buft_get_max_size(void *buft)",
  ggml_backend_buffer_free: "void ggml_backend_buffer_free(void *buffer)",
  ggml_backend_buffer_get_base: "void *ggml_backend_buffer_get_base(void *buffer)",
  ggml_backend_buffer_get_size: "size_t ggml_backend_buffer_get_size(void *buffer)",
  ggml_backend_buffer_clear: "void ggml_backend_buffer_clear(void *buffer, uint8_t value)",
  ggml_backend_buffer_set_usage: "void ggml_backend_buffer_set_usage(void *buffer, int usage)",
  ggml_backend_tensor_alloc: "int ggml_backend_tensor_alloc(void *buffer, void *tensor, void *address)",
  ggml_backend_tensor_set: "void ggml_backend_tensor_set(void *tensor, const void *data, size_t offset, size_t size)",
  ggml_backend_tensor_set_async:
    "void ggml_backend_tensor_set_async(void *backend, void *tensor, const void *data, size_t offset, size_t size)",
  ggml_backend_tensor_get: "void ggml_backend_tensor_get(void *tensor, void *data, size_t offset, size_t size)",
  ggml_backend_graph_compute: "int ggml_backend_graph_compute(void *backend, void *graph)",
  ggml_backend_name: "str ggml_backend_name(void *backend)",
  ggml_backend_synchronize: "void ggml_backend_synchronize(void *backend)",
  ggml_backend_free: "void ggml_backend_free(void *backend)",
  ggml_backend_dev_name: "str ggml_backend_dev_name(void *device)",
  ggml_backend_dev_description: "str ggml_backend_dev_description(void *device)",
  ggml_backend_dev_memory: "void ggml_backend_dev_memory(void *device, _Out_ size_t *free, _Out_ size_t *total)",
  ggml_backend_dev_type: "int ggml_backend_dev_type(void *device)",
  ggml_backend_dev_init: "void *ggml_backend_dev_init(void *device, const char *params)",
  ggml_backend_dev_get_props: "void ggml_backend_dev_get_props(void *device, void *props)",
  ggml_backend_dev_buffer_from_host_ptr:
    "void *ggml_backend_dev_buffer_from_host_ptr(void *device, void *address, size_t size, size_t max_tensor_size)",
  ggml_backend_dev_buffer_type: "void *ggml_backend_dev_buffer_type(void *device)",
  ggml_backend_dev_host_buffer_type: "void *ggml_backend_dev_host_buffer_type(void *device)",
  ggml_backend_dev_supports_op: "bool ggml_backend_dev_supports_op(void *device, void *op)",
  ggml_backend_dev_backend_reg: "void *ggml_backend_dev_backend_reg(void *device)",
  ggml_backend_reg_name: "str ggml_backend_reg_name(void *reg)",
  ggml_backend_reg_get_proc_address: "void *ggml_backend_reg_get_proc_address(void *reg, const char *name)",
  ggml_backend_sched_new:
    "void *ggml_backend_sched_new(void **backends, void **bufts, int n_backends, size_t graph_size, bool parallel, bool op_offload)",
  ggml_backend_sched_free: "void ggml_backend_sched_free(void *sched)",
  ggml_backend_sched_reset: "void ggml_backend_sched_reset(void *sched)",
  ggml_backend_sched_alloc_graph: "bool ggml_backend_sched_alloc_graph(void *sched, void *graph)",
  ggml_backend_sched_graph_compute: "int ggml_backend_sched_graph_compute(void *sched, void *graph)",
  ggml_backend_sched_get_n_splits: "int ggml_backend_sched_get_n_splits(void *sched)",
  ggml_backend_sched_get_tensor_backend: "void *ggml_backend_sched_get_tensor_backend(void *sched, void *tensor)",
  ggml_backend_sched_get_buffer_size: "size_t ggml_backend_sched_get_buffer_size(void *sched, void *backend)",
} as const;

/** The registry of devices lies in the library that is called plain "ggml". */
const registryFunctions = {
  ggml_backend_load_all_from_path: "void ggml_backend_load_all_from_path(const char *directory)",
  ggml_backend_reg_count: "size_t ggml_backend_reg_count()",
  ggml_backend_dev_count: "size_t ggml_backend_dev_count()",
  ggml_backend_dev_get: "void *ggml_backend_dev_get(size_t index)",
} as const;

/** Functions that a backend hands out by name. */
export const procPrototypes = {
  ggml_backend_set_n_threads: "void ggml_backend_set_n_threads(void *backend, int n_threads)",
  ggml_backend_dev_get_extra_bufts: "void *ggml_backend_dev_get_extra_bufts(void *device)",
  ggml_backend_get_features: "void *ggml_backend_get_features(void *reg)",
  ggml_backend_set_abort_callback: "void ggml_backend_set_abort_callback(void *backend, void *callback, void *data)",
  ggml_threadpool_new: "void *ggml_threadpool_new(void *params)",
  ggml_threadpool_free: "void ggml_threadpool_free(void *threadpool)",
  ggml_backend_cpu_set_threadpool: "void ggml_backend_cpu_set_threadpool(void *backend, void *threadpool)",
} as const;

export type NativeArgument =
  | Pointer
  | number
  | boolean
  | string
  | ArrayBufferView
  | readonly Pointer[]
  | number[]
  | null;

/** A bound C function: what it gives is as its prototype says (pointers and 64-bit integers may be bigint). */
export interface Bound {
  (...args: NativeArgument[]): Pointer;
  async(...args: [...NativeArgument[], (error: Error | null, result: Pointer) => void]): void;
}

export type Symbols = Record<keyof typeof baseFunctions | keyof typeof registryFunctions, Bound> & {
  /** ggml_init takes its parameters by value. */
  ggml_init(params: { mem_size: number; mem_buffer: null; no_alloc: boolean }): Pointer;
  /** The address of `bool ggml_is_empty(const ggml_tensor *)`. */
  readonly isEmptyAddress: Pointer;
  /** The address of `void ggml_time_init()`. */
  readonly timeInitAddress: Pointer;
};

/** Binds every function, or throws koffi's error for the first that the library lacks. */
export function bindSymbols(base: LibraryHandle, registry: LibraryHandle): Symbols {
  const params = koffi.struct({ mem_size: "size_t", mem_buffer: "void *", no_alloc: "bool" });
  const bound: Record<string, NativeFunction> = {
    ggml_init: base.func("ggml_init", "void *", [params]) as NativeFunction,
  };
  for (const [name, prototype] of Object.entries(baseFunctions)) bound[name] = base.func(prototype) as NativeFunction;
  for (const [name, prototype] of Object.entries(registryFunctions)) {
    bound[name] = registry.func(prototype) as NativeFunction;
  }
  const isEmptyAddress = base.symbol("ggml_is_empty") as Pointer;
  const timeInitAddress = base.symbol("ggml_time_init") as Pointer;
  return { ...bound, isEmptyAddress, timeInitAddress } as unknown as Symbols;
}

/** Calls a C function off the event loop. */
export function callAsync(bound: Bound, ...args: NativeArgument[]): Promise<Pointer> {
  return new Promise((resolve, reject) => {
    bound.async(...args, (error, result) => (error ? reject(error) : resolve(result)));
  });
}
