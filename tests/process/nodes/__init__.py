"""Several machines that serve one model, with fake engines that meet as vLLM's do."""
