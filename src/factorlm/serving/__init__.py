"""The server: OpenAI's interface to compositions, keys and limits, feedback, and the mixing desk in the browser."""
