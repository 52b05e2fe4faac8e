"""What crosses a service boundary: request and answer models, the prompt, the table format, errors and typed clients.

Everything may import this package; it imports nothing of ours and nothing heavy (pydantic and httpx only).
"""
