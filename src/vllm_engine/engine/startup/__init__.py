"""How a start goes: its phases, its progress, and how long it will take."""
