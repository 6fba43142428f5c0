"""What will run: settings, machine and model settled into one command, and all that is wrong with it."""
