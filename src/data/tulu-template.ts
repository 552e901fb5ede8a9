/** The chat template of the paper's training data, in Jinja: no BOS. @see FACTS §3 "Tulu template". */
export const TULU_TEMPLATE =
  "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|assistant|>\\n' + message['content'] + '<|end_of_text|>\\n' }}" +
  "{% elif message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '\\n' }}" +
  "{% else %}{{ '<|user|>\\n' + message['content'] + '\\n' }}{% endif %}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";
