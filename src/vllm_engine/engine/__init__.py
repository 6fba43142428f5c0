"""The vLLM child: its command, its process, its states and the policy over them."""
