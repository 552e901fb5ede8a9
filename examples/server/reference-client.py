"""The Block-Attention paper's own protocol: POST /generate with blocks, the last of which is the question's."""

import json
import os
import urllib.request

base_url = os.environ.get("BASE_URL", "http://127.0.0.1:8080")
api_key = os.environ.get("API_KEY", "none")


def generate(body: dict) -> dict:
    request = urllib.request.Request(
        f"{base_url}/generate",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


# The texts are the model's own prompt, its chat template included.
preamble = (
    "<|user|>\nYou are an intelligent AI assistant. Please answer questions based on the user's instructions. "
    "Below are some reference documents that may help you in answering the user's question.\n\n"
)
passages = [
    "- Title: Sean Penn\nSean Penn (born 17 August 1960 in Santa Monica) is an American film director. "
    "He is the son of actress Eileen Ryan and director Leo Penn.\n",
    "- Title: Into the Wild\nInto the Wild is a 2007 American adventure drama film directed by Sean Penn "
    "and starring Emile Hirsch and Catherine Keener.\n",
]
question = (
    "\n\nPlease write a high-quality answer for the given question using only the provided search documents "
    "(some of which might be irrelevant).\n"
    "Question: Who is the mother of the director of film Into the Wild?<|assistant|>\n"
)

blocks = [preamble, *passages, question]
print("block attention:", generate({"blocks": blocks}))
print("full attention: ", generate({"blocks": blocks, "num_local_attention_blocks": 0}))
print("one prompt:     ", generate({"prompt": "".join(blocks)})["generated"])
