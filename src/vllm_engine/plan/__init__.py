"""What will run: settings, machine and model resolved into one command, and everything wrong with it."""
