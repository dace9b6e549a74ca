# needs: httpx
"""Plain HTTP: HEAD, the page, the description of routes, tokens there and back, usual mistakes."""

import gzip
import json
import sys

import httpx

address, model = sys.argv[1:]
client = httpx.Client(base_url=address, timeout=60)
for path in ("/", "/health", "/ping", "/v1/models", "/metrics", "/openapi.json"):
    assert client.head(path).status_code == 200, path
page = client.get("/", headers={"Accept": "text/html"})
assert model in page.text
assert "<script" not in page.text
assert "/v1/chat/completions" in client.get("/openapi.json").json()["paths"]
told = client.post("/tokenize", json={"model": model, "prompt": "Hello"}).json()
assert client.post("/detokenize", json={"tokens": told["tokens"]}).json()["prompt"] == "Hello"
assert "/v1/chat/completions" in client.post("/chat/completions", json={}).text
body = gzip.compress(json.dumps({"model": model, "prompt": "x"}).encode())
headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
assert client.post("/v1/completions", content=body, headers=headers).status_code == 415
assert len(client.get("/v1/models/" + "a" * 4_000).text) < 1_000
