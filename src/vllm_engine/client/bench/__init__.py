"""A load generator for OpenAI-compatible servers, cheap enough not to be what is measured."""
