"""Chat in a terminal: the conversation, how an answer is shown, and the loop of questions."""
