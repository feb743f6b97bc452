"""The HTTP API under `/lora-ext/v1/`, and what it keeps between requests. Knows no gradio and no host."""
