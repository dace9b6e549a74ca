"""Serve a folder of adapters and ask each: `python examples/serve_and_ask.py [MODEL FOLDER]`."""

import re
import subprocess
import sys

from openai import OpenAI

model, folder = sys.argv[1:] or ("smollm2-135m", "runs")
# Port 0 is any free one; the server prints its address when it is ready.
command = ["gossamer", "serve", model, "--adapters", folder, "--port", "0"]
with subprocess.Popen(
    [sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True
) as server:
    try:
        ready = re.search(r"ready at (\S+)", server.stdout.readline())
        client = OpenAI(base_url=f"{ready[1]}/v1", api_key="none")
        for served in client.models.list():
            reply = client.chat.completions.create(
                model=served.id,
                messages=[{"role": "user", "content": "How are you?"}],
                max_tokens=30,
            )
            print(f"{served.id}: {reply.choices[0].message.content!r}")
    finally:
        server.terminate()
