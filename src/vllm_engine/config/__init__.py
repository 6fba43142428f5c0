"""What the user asks for: settings, the environment and `.env`, and vLLM's flags."""
