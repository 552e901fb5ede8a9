#!/bin/sh
# lm-evaluation-harness against the server, as it stands: log-likelihoods and generation through `local-completions`.
#   python3 -m pip install "lm_eval[api]" transformers
# What follows the script's name goes to the harness: ./lm-eval.sh --log_samples --output_path results
set -eu
url="${BASE_URL:-http://127.0.0.1:8080}"
# The tokenizer of the model that is served: the harness counts tokens itself.
tokenizer="${TOKENIZER:-../../models/tiny-rag}"
cd "$(dirname "$0")"

# Nothing is fetched: data and tokenizer are files.
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OPENAI_API_KEY="${API_KEY:-none}"
exec "${LM_EVAL:-lm_eval}" --model local-completions \
  --model_args "model=any,base_url=$url/v1/completions,tokenizer_backend=huggingface,tokenizer=$tokenizer,max_length=2048" \
  --include_path lm-eval-task --tasks block_attention_choice,block_attention_answer "$@"
