"""Chatting in a terminal: what was said, how an answer is shown, and the loop of questions."""
